#pragma once
// Keys and values of attn_tree on the CPU, page by page, and a tile's two products.
#include "attention/attention_cpu.h"
#include "attention/attn_tree.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t tile = 64;  // packed keys per step of the online softmax

// Keys or values of one sequence and head. Eight rows from a multiple of eight on lie in one page.
template <class T>
struct Cache {
  const T* data;
  int64_t stride, page_stride;
  const int32_t* table;  // null: one page holds all rows
  int64_t page_size, pages;

  Cache(const AttnTreeParams& p, const void* cache, const int64_t (&strides)[3], int64_t b,
        int64_t kv_head)
      : data(static_cast<const T*>(cache) + (p.page_table ? 0 : b * strides[0]) +
             kv_head * strides[1]),
        stride(strides[2]),
        page_stride(strides[0]),
        table(p.page_table ? p.page_table + b * p.table_width : nullptr),
        page_size(p.page_size),
        pages(p.pages) {}

  // Null for a page that is gone, as those may be that a window has left behind.
  const T* row(int64_t r) const {
    if (table == nullptr) return data + r * stride;
    const int64_t page = table[r / page_size];
    if (page < 0 || page >= pages) return nullptr;
    return data + page * page_stride + r % page_size * stride;
  }
  bool one_page(int64_t start, int64_t count) const {
    return table == nullptr || start / page_size == (start + count - 1) / page_size;
  }
};

// packed[d][key] of the rows from `start` on, zero from key `count` on.
template <class T>
void pack_keys(const Cache<T>& cache, int64_t start, int64_t count, int64_t dim, float* packed) {
  for (int64_t key = 0; key < tile; key += 8) {
    const T* keys = key < count ? cache.row(start + key) : nullptr;
    pack_eight(keys, cache.stride, keys ? count - key : 0, dim, packed + key, tile);
  }
}

// Asks for rows that are read soon. (Always inline: a function that only does this is dropped.)
template <class T>
TB_INLINE void fetch(const T* first, int64_t stride, int64_t rows, int64_t dim) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t d = 0; d < dim; d += line) __builtin_prefetch(first + i * stride + d, 0, 2);
  }
}

template <class T>
void pack_values(const Cache<T>& cache, int64_t start, int64_t count, int64_t dim, float* packed) {
  for (int64_t key = 0; key < count; ++key) {
    const T* values = cache.row(start + key);
    for (int64_t d = 0; values && d < dim; d += 8) {
      F32x8::load(values + d).store(packed + key * dim + d);
    }
  }
}

// s[row][key] of the first `keys` keys of packed ones, rounded up to whole registers.
template <int64_t packed_stride = tile, class R>
void scores(R, const float* q, const float* packed, int64_t keys, int64_t dim, float* s,
            int64_t s_stride) {
  constexpr int rows = R::count, vectors = R::vectors;
  for (int64_t key = 0; key < keys; key += 8 * vectors) {
    F32x8 sum[rows][vectors];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v] = F32x8::splat(0.0f);
    }
    for (int64_t d = 0; d < dim; ++d) {
      F32x8 k[vectors];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v)
        k[v] = F32x8::load(packed + d * packed_stride + key + 8 * v);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const F32x8 x = F32x8::splat(q[r * dim + d]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[r][v] = fused(x, k[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v].store(s + r * s_stride + key + 8 * v);
    }
  }
}

// o[row][d] = factor[row] * o[row][d] + sum over keys, in order, of weight[row][key] * value of
// dimension d, where value_of(key, d) lies.
template <int rows, int vectors, class ValueOf>
void add_values(const float* weight, const float* factor, int64_t keys, ValueOf value_of,
                int64_t dim, int64_t d, float* o) {
  for (; d + 8 * vectors <= dim; d += 8 * vectors) {
    F32x8 sum[rows][vectors];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const F32x8 x = F32x8::splat(factor[r]);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v] = F32x8::load(o + r * dim + d + 8 * v) * x;
    }
    for (int64_t j = 0; j < keys; ++j) {
      const auto* value = value_of(j, d);
      F32x8 y[vectors];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) y[v] = F32x8::load(value + 8 * v);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const F32x8 x = F32x8::splat(weight[r * tile + j]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[r][v] = fused(x, y[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v].store(o + r * dim + d + 8 * v);
    }
  }
  if constexpr (vectors > 1) {
    if (d < dim) {
      add_values<rows, vectors / 2>(weight, factor, keys, value_of, dim, d, o);
    }
  }
}

}  // namespace
}  // namespace tokenburst::TB_ISA
