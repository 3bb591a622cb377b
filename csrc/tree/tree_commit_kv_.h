#pragma once
// After verification: the accepted rows of every KV cache close up behind the committed ones.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

struct KvCache {
  void* data;            // [batch, heads, capacity, width] of one layer's keys or values; with a
                         // page table [pages, heads, page_size, width]
  int64_t batch_stride;  // in bytes, as are the others
  int64_t head_stride, row_stride;
  int32_t heads;
  int32_t row_bytes;
};

// Bytes that one thread moves at a time: the most, up to 16, that every row start is a multiple of.
TB_HD int copy_unit(const KvCache& cache) {
  const int64_t bits = static_cast<int64_t>(reinterpret_cast<uintptr_t>(cache.data)) |
                       cache.batch_stride | cache.head_stride | cache.row_stride | cache.row_bytes;
  return bits % 16 == 0 ? 16 : static_cast<int>(bits & -bits);
}

// Caches travel in the kernel's parameters, whose classic limit is 4 KB: 48 layers of K and V.
constexpr int max_kv_caches = 96;

struct TreeCommitKvParams {
  int64_t batch, capacity, path_length;
  Ints kv_len;                // [batch], rows committed before this step
  Ints path;                  // [batch, path_length], ascending, -1 past the accepted nodes
  Ints n_accepted;            // [batch]
  const int32_t* page_table;  // [batch, table_width], row r is in page [b, r / page_size]; or null
  int64_t table_width, page_size, pages;
  int64_t num_caches;
  KvCache caches[max_kv_caches];
};
static_assert(sizeof(TreeCommitKvParams) <= 4096, "kernel parameters above 4 KB need new drivers");

// Row r of sequence b in the first head of a cache; null in a page that does not exist.
TB_HD char* cache_row(const TreeCommitKvParams& p, const KvCache& cache, int64_t b, int64_t r) {
  char* data = static_cast<char*>(cache.data);
  if (p.page_table == nullptr) return data + b * cache.batch_stride + r * cache.row_stride;
  const int64_t page = p.page_table[b * p.table_width + r / p.page_size];
  if (page < 0 || page >= p.pages) return nullptr;
  return data + page * cache.batch_stride + r % p.page_size * cache.row_stride;
}

}  // namespace tokenburst

TB_KERNEL(tree_commit_kv_, tokenburst::TreeCommitKvParams);
