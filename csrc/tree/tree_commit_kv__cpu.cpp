// Row path[j] moves to row j, for ascending j: what it overwrites has moved already or was
// rejected.
#include <cstring>

#include "common/parallel.h"
#include "tree/tree_commit_kv_.h"

namespace tokenburst::TB_ISA {
namespace {

void commit_sequence(const TreeCommitKvParams& p, const KvCache& cache, int64_t b) {
  const int64_t count = p.n_accepted[b], length = p.kv_len[b];
  for (int64_t j = 0; j < count; ++j) {
    const int64_t node = p.path[b * p.path_length + j];
    if (node == j) continue;
    char* to = cache_row(p, cache, b, length + j);
    const char* from = cache_row(p, cache, b, length + node);
    for (int64_t h = 0; h < cache.heads; ++h) {
      std::memcpy(to + h * cache.head_stride, from + h * cache.head_stride, cache.row_bytes);
    }
  }
}

}  // namespace

void tree_commit_kv_(const TreeCommitKvParams& p) {
  int64_t rows = 0, bytes = 0;
  for (int64_t b = 0; b < p.batch; ++b) rows += p.n_accepted[b];
  for (int64_t c = 0; c < p.num_caches; ++c) bytes += p.caches[c].heads * p.caches[c].row_bytes;
  const int64_t items = p.num_caches * p.batch;
  const int64_t moved = rows * bytes / items;  // by an item, on average
  parallel_for(items, (1 << 17) / (moved + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      commit_sequence(p, p.caches[i / p.batch], i % p.batch);
    }
  });
}

}  // namespace tokenburst::TB_ISA
