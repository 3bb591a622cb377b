#pragma once
// What attn_sparse and attn_tree compute alike on the CPU: packing of keys, the online softmax and
// the end of a row.
#include "common/simd.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int strip = 6;  // queries per pass over packed keys: 6 x 2 sums fill the registers

template <int n>
struct Rows {
  static constexpr int count = n;
  // Vectors per row, so that enough independent sums hide the latency of a fused multiply-add.
  static constexpr int vectors = n == 1 ? 8 : n <= 3 ? 4 : 2;
};

template <class F>
inline void with_rows(int64_t n, F f) {
  switch (n) {
    case 1:
      return f(Rows<1>{});
    case 2:
      return f(Rows<2>{});
    case 3:
      return f(Rows<3>{});
    case 4:
      return f(Rows<4>{});
    case 5:
      return f(Rows<5>{});
    default:
      return f(Rows<6>{});
  }
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}
inline int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// packed[d * packed_stride + i] = dimension d of key i of eight, zero from key `count` on, so that
// eight scores grow in one register.
template <class T>
void pack_eight(const T* keys, int64_t stride, int64_t count, int64_t dim, float* packed,
                int64_t packed_stride) {
  static constexpr T none[256] = {};  // as long as a head may be
  const T* row[8];
  for (int i = 0; i < 8; ++i) row[i] = i < count ? keys + i * stride : none;
  store_columns(row, dim, packed, packed_stride);
}

template <class T>
void load_scaled(const T* q, int64_t dim, float scale, float* to) {
  for (int64_t d = 0; d < dim; d += 8) (F32x8::load(q + d) * F32x8::splat(scale)).store(to + d);
}

struct Range {
  int64_t from, to;
};

// Scores of some rows become weights relative to each row's new maximum; `factor` is for what was
// gathered before. Row r looks at the scores of range_of(r) only; a NaN has weight 0. Rows take
// each stage together, so that one's reductions hide behind another's.
template <int rows, class RangeOf>
void advance(float* s, int64_t stride, RangeOf range_of, float* maximum, float* sum,
             float* factor) {
  F32x8 top[rows], total[rows];
  for (int r = 0; r < rows; ++r) {
    const auto [from, to] = range_of(r);
    float* x = s + r * stride;
    for (int64_t j = from / 8 * 8; j < from; ++j) x[j] = -infinity;
    for (int64_t j = to; j < up(to, 8); ++j) x[j] = -infinity;
    top[r] = F32x8::splat(maximum[r]);
    for (int64_t j = from / 8 * 8; j < to; j += 8) top[r] = max(F32x8::load(x + j), top[r]);
  }
  float higher[rows];
  for (int r = 0; r < rows; ++r) higher[r] = reduce_max(top[r]);
  for (int r = 0; r < rows; ++r) {
    const auto [from, to] = range_of(r);
    float* x = s + r * stride;
    const F32x8 base = F32x8::splat(higher[r]);
    total[r] = F32x8::splat(0.0f);
    for (int64_t j = from / 8 * 8; j < to; j += 8) {
      const F32x8 weight = exp_fast(F32x8::load(x + j) - base);
      weight.store(x + j);
      total[r] = total[r] + weight;
    }
  }
  for (int r = 0; r < rows; ++r) {
    factor[r] = tokenburst::exp_fast(maximum[r] - higher[r]);
    sum[r] = tokenburst::fused(sum[r], factor[r], reduce_add(total[r]));
    maximum[r] = higher[r];
  }
}

// out[d] = o[d] / sum, or 0 where the row saw nothing; returns its log-sum-exp.
template <class T>
float finish(const float* o, int64_t dim, float maximum, float sum, T* out) {
  const bool sees = sum > 0.0f;
  const F32x8 inverse = F32x8::splat(sees ? 1.0f / sum : 0.0f), zero = F32x8::splat(0.0f);
  for (int64_t d = 0; d < dim; d += 8) {
    (sees ? F32x8::load(o + d) * inverse : zero).store(out + d);
  }
  return sees ? maximum + tokenburst::log_fast(sum) : -infinity;
}

}  // namespace
}  // namespace tokenburst::TB_ISA
