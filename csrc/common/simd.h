#pragma once
// Eight floats, compiled once per instruction set in namespace TB_ISA. Every operation is exact or
// a single rounding and every reduction has a fixed order, so the portable build gives the bits of
// the AVX2 build.
#ifndef TB_ISA
#error "simd.h is for <op>_cpu.cpp files, which are compiled once per instruction set"
#endif
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "common/math.h"
#include "common/philox.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr float infinity = __builtin_inff();

inline float half_to_float(uint16_t h) {
#ifdef __F16C__
  return _cvtsh_ss(h);
#else
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t rest = h & 0x7fffu;
  if (rest >= 0x7c00u)
    return from_bits(sign | 0x7f800000u | ((rest & 0x3ffu) << 13) |
                     ((rest & 0x3ffu) ? 0x400000u : 0u));
  const float magnitude =
      from_bits(rest << 13) * from_bits(0x77800000u);  // * 2^112: also exact for subnormals
  return from_bits(sign | to_bits(magnitude));
#endif
}

inline float bfloat_to_float(uint16_t b) { return from_bits(static_cast<uint32_t>(b) << 16); }

inline uint16_t float_to_half(float value) {
#ifdef __F16C__
  return static_cast<uint16_t>(_cvtss_sh(value, 0));
#else
  const uint32_t bits = to_bits(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16) & 0x8000u;
  const uint32_t rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((rest >> 13) & 0x3ffu));
  if (rest >= 0x477ff000u) return sign | 0x7c00u;
  if (rest < 0x38800000u) {  // subnormal: let the float adder round at bit 2^-24
    const uint32_t rounded = to_bits(from_bits(rest) + 0.5f);
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((rest + 0x0fffu + ((rest >> 13) & 1u) - 0x38000000u) >> 13));
#endif
}

inline uint16_t float_to_bfloat(float value) {
  const uint32_t bits = to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Storage types of logits and attention, so that kernels are templates over one name.
struct Half {
  uint16_t bits;
  static float widen(Half h) { return half_to_float(h.bits); }
  static Half narrow(float v) { return {float_to_half(v)}; }
};
struct BFloat {
  uint16_t bits;
  static float widen(BFloat b) { return bfloat_to_float(b.bits); }
  static BFloat narrow(float v) { return {float_to_bfloat(v)}; }
};
inline float widen(float v) { return v; }
inline float widen(Half v) { return Half::widen(v); }
inline float widen(BFloat v) { return BFloat::widen(v); }
inline void narrow(float v, float* out) { *out = v; }
inline void narrow(float v, Half* out) { *out = Half::narrow(v); }
inline void narrow(float v, BFloat* out) { *out = BFloat::narrow(v); }

// 2^(j / 8) as bits, less j 2^20: where k / 8 is added to the exponent by k 2^20, its last three
// bits j would count twice.
alignas(32) constexpr uint32_t exp2_eighth_bits[8] = {
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};

#ifdef __AVX2__

struct F32x8 {
  __m256 v;
  static constexpr int lanes = 8;
  static F32x8 splat(float x) { return {_mm256_set1_ps(x)}; }
  static F32x8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static F32x8 load(const Half* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static F32x8 load(const BFloat* p) {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(Half* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, 0));
  }
  void store(BFloat* p) const {  // as float_to_bfloat
    const __m256i bits = _mm256_castps_si256(v), high = _mm256_srli_epi32(bits, 16);
    const __m256i half =
        _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    const __m256i picked = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_packus_epi32(_mm256_castsi256_si128(picked), _mm256_extracti128_si256(picked, 1)));
  }
};
// Sixteen neighbours: eight and eight, but of bf16 the even and the odd ones.
template <class T>
inline void load_pair(const T* p, F32x8& a, F32x8& b) {
  a = F32x8::load(p);
  b = F32x8::load(p + 8);
}
inline void load_pair(const BFloat* p, F32x8& a, F32x8& b) {
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  a.v = _mm256_castsi256_ps(_mm256_slli_epi32(raw, 16));
  b.v = _mm256_castsi256_ps(_mm256_and_si256(raw, _mm256_set1_epi32(-65536)));
}
inline F32x8 operator+(F32x8 a, F32x8 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F32x8 operator-(F32x8 a, F32x8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F32x8 operator*(F32x8 a, F32x8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F32x8 fused(F32x8 a, F32x8 b, F32x8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// b where either is NaN: max(x, -inf) drops a NaN.
inline F32x8 max(F32x8 a, F32x8 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline F32x8 min(F32x8 a, F32x8 b) { return {_mm256_min_ps(a.v, b.v)}; }
inline F32x8 truncated(F32x8 a) {  // towards 0
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)};
}
inline unsigned greater(F32x8 a, F32x8 b) {  // one bit per lane
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)));
}
inline unsigned unordered(F32x8 a) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)));
}

// For each mask of eight lanes, its lanes in order, one byte each.
struct LaneLists {
  uint64_t of[256];
  constexpr LaneLists() : of() {
    for (unsigned mask = 0; mask < 256; ++mask) {
      int n = 0;
      for (uint64_t lane = 0; lane < 8; ++lane) {
        if (mask >> lane & 1u) of[mask] |= lane << (8 * n++);
      }
    }
  }
};
constexpr LaneLists lane_lists;
// Appends the lanes of the mask; writes eight floats. Returns how many count.
inline int64_t append(float* out, F32x8 a, unsigned mask) {
  const __m128i lanes = _mm_cvtsi64_si128(static_cast<int64_t>(lane_lists.of[mask]));
  _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(a.v, _mm256_cvtepu8_epi32(lanes)));
  return __builtin_popcount(mask);
}

inline void transpose(F32x8 (&r)[8]) {  // lane j of r[i] <-> lane i of r[j]
  __m256 pair[8], quad[8];
  for (int i = 0; i < 4; ++i) {
    pair[2 * i] = _mm256_unpacklo_ps(r[2 * i].v, r[2 * i + 1].v);
    pair[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i].v, r[2 * i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {
    quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
    quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
    quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    r[i].v = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20);
    r[i + 4].v = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31);
  }
}

// Lane i of column[j] = row[i][at + j]; halves meet as they are loaded, so that nothing crosses
// them.
TB_INLINE void load_columns(const float* const (&row)[8], int64_t at, F32x8 (&column)[4]) {
  __m256 both[4];
  for (int i = 0; i < 4; ++i) {
    both[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row[i] + at)),
                                   _mm_loadu_ps(row[i + 4] + at), 1);
  }
  const __m256 low01 = _mm256_unpacklo_ps(both[0], both[1]);
  const __m256 low23 = _mm256_unpacklo_ps(both[2], both[3]);
  const __m256 high01 = _mm256_unpackhi_ps(both[0], both[1]);
  const __m256 high23 = _mm256_unpackhi_ps(both[2], both[3]);
  column[0].v = _mm256_shuffle_ps(low01, low23, 0x44);
  column[1].v = _mm256_shuffle_ps(low01, low23, 0xee);
  column[2].v = _mm256_shuffle_ps(high01, high23, 0x44);
  column[3].v = _mm256_shuffle_ps(high01, high23, 0xee);
}
inline void store_columns(const float* const (&row)[8], int64_t columns, float* to,
                          int64_t stride) {
  for (int64_t c = 0; c < columns; c += 4) {
    F32x8 column[4];
    load_columns(row, c, column);
    for (int i = 0; i < 4; ++i) column[i].store(to + (c + i) * stride);
  }
}
inline void store_columns(const BFloat* const (&row)[8], int64_t columns, float* to,
                          int64_t stride) {
  const float* pairs[8];
  for (int i = 0; i < 8; ++i) pairs[i] = reinterpret_cast<const float*>(row[i]);
  for (int64_t c = 0; c < columns; c += 8) {
    F32x8 column[4];
    load_columns(pairs, c / 2, column);
    for (int i = 0; i < 4; ++i) {
      const __m256i raw = _mm256_castps_si256(column[i].v);
      const F32x8 even{_mm256_castsi256_ps(_mm256_slli_epi32(raw, 16))};
      const F32x8 odd{_mm256_castsi256_ps(_mm256_and_si256(raw, _mm256_set1_epi32(-65536)))};
      even.store(to + (c + 2 * i) * stride);
      odd.store(to + (c + 2 * i + 1) * stride);
    }
  }
}

inline F32x8 exp_fast(F32x8 x) {
  const __m256 keep = _mm256_cmp_ps(x.v, _mm256_set1_ps(-87.3f), _CMP_GT_OQ);
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x.v, _mm256_set1_ps(1.442695041f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0.693359375f), x.v);
  r = _mm256_fmadd_ps(n, _mm256_set1_ps(2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
  p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  const __m256 scale = _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  return {_mm256_and_ps(keep, _mm256_mul_ps(p, scale))};
}

// log_fast, lane by lane.
inline F32x8 log_fast(F32x8 x) {
  const auto splat = [](float c) { return F32x8::splat(c); };
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i m_bits = _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x007fffff)),
                                         _mm256_set1_epi32(0x3f000000));
  F32x8 m{_mm256_castsi256_ps(m_bits)};
  const __m256 low = _mm256_cmp_ps(m.v, _mm256_set1_ps(0.707106781f), _CMP_LT_OQ);
  m = m + F32x8{_mm256_and_ps(low, m.v)};
  const __m256i e =
      _mm256_add_epi32(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(126)),
                       _mm256_castps_si256(low));  // -1 where m was doubled
  const F32x8 n{_mm256_cvtepi32_ps(e)};
  const F32x8 f = m - splat(1.0f), z = f * f;
  F32x8 p = splat(7.0376836292e-2f);
  p = fused(p, f, splat(-1.1514610310e-1f));
  p = fused(p, f, splat(1.1676998740e-1f));
  p = fused(p, f, splat(-1.2420140846e-1f));
  p = fused(p, f, splat(1.4249322787e-1f));
  p = fused(p, f, splat(-1.6668057665e-1f));
  p = fused(p, f, splat(2.0000714765e-1f));
  p = fused(p, f, splat(-2.4999993993e-1f));
  p = fused(p, f, splat(3.3333331174e-1f));
  F32x8 y = f * z * p;
  y = fused(n, splat(-2.12194440e-4f), y);
  y = fused(z, splat(-0.5f), y);
  return fused(n, splat(0.693359375f), f + y);
}

// The largest of 512 patterns as signed integers. That is the order of 16-bit floats as long as the
// result is positive and a number.
inline int highest_pattern(const void* patterns) {
  const auto* p = static_cast<const __m256i*>(patterns);
  __m256i most[4];
  for (int j = 0; j < 4; ++j) most[j] = _mm256_loadu_si256(p + j);
  for (int i = 4; i < 32; i += 4) {
    for (int j = 0; j < 4; ++j) most[j] = _mm256_max_epi16(_mm256_loadu_si256(p + i + j), most[j]);
  }
  const __m256i all =
      _mm256_max_epi16(_mm256_max_epi16(most[0], most[1]), _mm256_max_epi16(most[2], most[3]));
  // x ^ 0x7fff turns descending signed numbers into ascending unsigned ones.
  const __m128i half = _mm_max_epi16(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  const __m128i least = _mm_minpos_epu16(_mm_xor_si128(half, _mm_set1_epi16(0x7fff)));
  return static_cast<int16_t>(_mm_extract_epi16(least, 0) ^ 0x7fff);
}

inline F32x8 keep_where(F32x8 a, F32x8 b, F32x8 x) {  // x where a >= b, else 0
  return {_mm256_and_ps(x.v, _mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ))};
}

// p * 2^n for t = n + 1.5 * 2^23, the sum that rounds to an integer; the product must be normal.
inline F32x8 times_exp2(F32x8 p, F32x8 t) {
  const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p.v), n))};
}

// 2^(k / 8) for t = k / 8 + 1.5 * 2^20, the sum that rounds to eighths; it must be normal.
inline F32x8 exp2_eighths(F32x8 t) {
  const __m256i table = _mm256_load_si256(reinterpret_cast<const __m256i*>(exp2_eighth_bits));
  const __m256i k = _mm256_castps_si256(t.v);
  return {_mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_permutevar8x32_epi32(table, k), _mm256_slli_epi32(k, 20)))};
}

// Extremes of bf16 by their bits, sixteen at a time: as signed numbers the largest is the largest
// float if any is positive; as unsigned ones the largest is the least float if any is negative, and
// the smallest is the largest float if all are. A NaN lies beyond the infinity of its sign.
struct BFloatRange {
  __m256i positive = _mm256_set1_epi16(-32768), negative = _mm256_setzero_si256();
  void add(const BFloat* p) {
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    positive = _mm256_max_epi16(positive, raw);
    negative = _mm256_max_epu16(negative, raw);
  }
  BFloat most_signed() const { return smallest(positive, 0x7fff); }
  BFloat most_unsigned() const { return smallest(negative, 0xffff); }
  static BFloat least_unsigned(const BFloat* p, int64_t n) {  // n is a multiple of 16
    __m256i least = _mm256_set1_epi16(-1);
    for (int64_t i = 0; i < n; i += 16) {
      least = _mm256_min_epu16(least, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i)));
    }
    return smallest(least, 0);
  }

 private:
  static BFloat smallest(__m256i a, uint16_t flip) {  // in the unsigned order of a ^ flip
    const __m256i turned = _mm256_xor_si256(a, _mm256_set1_epi16(static_cast<int16_t>(flip)));
    const __m128i half =
        _mm_min_epu16(_mm256_castsi256_si128(turned), _mm256_extracti128_si256(turned, 1));
    return {static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(half)) ^ flip)};
  }
};

// Sums of bit patterns modulo 2^32, lane by lane.
struct BitSum {
  __m256i v = _mm256_setzero_si256();
  void add(F32x8 a) { v = _mm256_add_epi32(v, _mm256_castps_si256(a.v)); }
  void store(uint32_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
};

// Eight doubles, for weights: integers below 2^53, so sums of them are exact.
struct F64x8 {
  __m256d low, high;
  static F64x8 splat(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
  static F64x8 load(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
  void store(double* p) const {
    _mm256_storeu_pd(p, low);
    _mm256_storeu_pd(p + 4, high);
  }
};
inline F64x8 operator+(F64x8 a, F64x8 b) {
  return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
}
inline F64x8 operator-(F64x8 a, F64x8 b) {
  return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
}
inline F64x8 operator*(F64x8 a, F64x8 b) {
  return {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)};
}
inline F64x8 operator/(F64x8 a, F64x8 b) {
  return {_mm256_div_pd(a.low, b.low), _mm256_div_pd(a.high, b.high)};
}
inline F64x8 max(F64x8 a, F64x8 b) {
  return {_mm256_max_pd(a.low, b.low), _mm256_max_pd(a.high, b.high)};
}
inline F64x8 min(F64x8 a, F64x8 b) {
  return {_mm256_min_pd(a.low, b.low), _mm256_min_pd(a.high, b.high)};
}
inline F64x8 round(F64x8 a) {  // half to even
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_pd(a.low, nearest), _mm256_round_pd(a.high, nearest)};
}
inline F32x8 narrow(F64x8 a) {
  return {_mm256_set_m128(_mm256_cvtpd_ps(a.high), _mm256_cvtpd_ps(a.low))};
}
inline F64x8 widen8(const float* e) {
  return {_mm256_cvtps_pd(_mm_loadu_ps(e)), _mm256_cvtps_pd(_mm_loadu_ps(e + 4))};
}
inline F64x8 whole_weight8(const float* e) {  // e 2^40, of what WeightSum has rounded
  const __m256d unit = _mm256_set1_pd(0x1p40);
  return {_mm256_mul_pd(_mm256_cvtps_pd(_mm_loadu_ps(e)), unit),
          _mm256_mul_pd(_mm256_cvtps_pd(_mm_loadu_ps(e + 4)), unit)};
}

// Which of the eight counters c0 ... c0 + 7 give a Philox word <= limit: one bit per counter.
inline unsigned philox_within(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
                              uint32_t limit) {
  const auto splat = [](uint32_t x) { return _mm256_set1_epi64x(static_cast<int64_t>(x)); };
  const __m256i first = _mm256_add_epi32(splat(c0), _mm256_set_epi64x(3, 2, 1, 0));
  const __m256i m0 = splat(0xD2511F53u), m1 = splat(0xCD9E8D57u);
  // One counter per 64-bit lane; the upper halves hold leftovers that no product reads.
  __m256i x0[2] = {first, _mm256_add_epi32(first, splat(4))};
  __m256i x1[2] = {splat(c1), splat(c1)}, x2[2] = {splat(c2), splat(c2)},
          x3[2] = {splat(c3), splat(c3)};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const __m256i key0 = splat(k0), key1 = splat(k1);
    for (int i = 0; i < 2; ++i) {
      const __m256i a = _mm256_mul_epu32(m0, x0[i]), b = _mm256_mul_epu32(m1, x2[i]);
      x0[i] = _mm256_xor_si256(_mm256_srli_epi64(b, 32), _mm256_xor_si256(x1[i], key0));
      x2[i] = _mm256_xor_si256(_mm256_srli_epi64(a, 32), _mm256_xor_si256(x3[i], key1));
      x1[i] = b;
      x3[i] = a;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  unsigned bits = 0;
  for (int i = 0; i < 2; ++i) {
    const __m256i least =
        _mm256_min_epu32(_mm256_min_epu32(x0[i], x1[i]), _mm256_min_epu32(x2[i], x3[i]));
    const __m256i within = _mm256_cmpeq_epi32(_mm256_min_epu32(least, splat(limit)), least);
    const __m256i lower = _mm256_slli_epi64(within, 32);
    bits |= static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(lower))) << 4 * i;
  }
  return bits;
}

#else

struct F32x8 {
  float v[8];
  static constexpr int lanes = 8;
  static F32x8 splat(float x) { return {{x, x, x, x, x, x, x, x}}; }
  template <class T>
  static F32x8 load(const T* p) {
    F32x8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = widen(p[i]);
    return r;
  }
  template <class T>
  void store(T* p) const {
    for (int i = 0; i < 8; ++i) narrow(v[i], p + i);
  }
};
template <class T>
inline void load_pair(const T* p, F32x8& a, F32x8& b) {
  a = F32x8::load(p);
  b = F32x8::load(p + 8);
}
inline void load_pair(const BFloat* p, F32x8& a, F32x8& b) {
  for (int i = 0; i < 8; ++i) {
    a.v[i] = widen(p[2 * i]);
    b.v[i] = widen(p[2 * i + 1]);
  }
}
template <class F>
inline F32x8 lanewise(F f) {
  F32x8 r;
  for (int i = 0; i < 8; ++i) r.v[i] = f(i);
  return r;
}
inline F32x8 operator+(F32x8 a, F32x8 b) {
  return lanewise([&](int i) { return a.v[i] + b.v[i]; });
}
inline F32x8 operator-(F32x8 a, F32x8 b) {
  return lanewise([&](int i) { return a.v[i] - b.v[i]; });
}
inline F32x8 operator*(F32x8 a, F32x8 b) {
  return lanewise([&](int i) { return a.v[i] * b.v[i]; });
}
inline F32x8 fused(F32x8 a, F32x8 b, F32x8 c) {
  return lanewise([&](int i) { return tokenburst::fused(a.v[i], b.v[i], c.v[i]); });
}
inline F32x8 max(F32x8 a, F32x8 b) {
  return lanewise([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32x8 min(F32x8 a, F32x8 b) {
  return lanewise([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32x8 truncated(F32x8 a) {
  return lanewise([&](int i) { return std::trunc(a.v[i]); });
}
inline unsigned greater(F32x8 a, F32x8 b) {
  unsigned bits = 0;
  for (int i = 0; i < 8; ++i) bits |= static_cast<unsigned>(a.v[i] > b.v[i]) << i;
  return bits;
}
inline unsigned unordered(F32x8 a) {
  unsigned bits = 0;
  for (int i = 0; i < 8; ++i) bits |= static_cast<unsigned>(a.v[i] != a.v[i]) << i;
  return bits;
}
inline int64_t append(float* out, F32x8 a, unsigned mask) {
  int64_t n = 0;
  for (int i = 0; i < 8; ++i) {
    if (mask >> i & 1u) out[n++] = a.v[i];
  }
  return n;
}
inline void transpose(F32x8 (&r)[8]) {  // lane j of r[i] <-> lane i of r[j]
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < i; ++j) {
      const float x = r[i].v[j];
      r[i].v[j] = r[j].v[i];
      r[j].v[i] = x;
    }
  }
}
inline F32x8 exp_fast(F32x8 x) {
  return lanewise([&](int i) { return tokenburst::exp_fast(x.v[i]); });
}
inline F32x8 log_fast(F32x8 x) {
  return lanewise([&](int i) { return tokenburst::log_fast(x.v[i]); });
}
inline int highest_pattern(const void* patterns) {
  const auto* p = static_cast<const int16_t*>(patterns);
  int most = p[0];
  for (int i = 1; i < 512; ++i) most = p[i] > most ? p[i] : most;
  return most;
}
inline F32x8 keep_where(F32x8 a, F32x8 b, F32x8 x) {
  return lanewise([&](int i) { return a.v[i] >= b.v[i] ? x.v[i] : 0.0f; });
}
inline F32x8 times_exp2(F32x8 p, F32x8 t) {
  return lanewise([&](int i) { return from_bits(to_bits(p.v[i]) + (to_bits(t.v[i]) << 23)); });
}
struct F64x8 {
  double v[8];
  static F64x8 splat(double x) { return {{x, x, x, x, x, x, x, x}}; }
  static F64x8 load(const double* p) {
    F64x8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = p[i];
    return r;
  }
  void store(double* p) const {
    for (int i = 0; i < 8; ++i) p[i] = v[i];
  }
};
template <class F>
inline F64x8 lanewise64(F f) {
  F64x8 r;
  for (int i = 0; i < 8; ++i) r.v[i] = f(i);
  return r;
}
inline F64x8 operator+(F64x8 a, F64x8 b) {
  return lanewise64([&](int i) { return a.v[i] + b.v[i]; });
}
inline F64x8 operator-(F64x8 a, F64x8 b) {
  return lanewise64([&](int i) { return a.v[i] - b.v[i]; });
}
inline F64x8 operator*(F64x8 a, F64x8 b) {
  return lanewise64([&](int i) { return a.v[i] * b.v[i]; });
}
inline F64x8 operator/(F64x8 a, F64x8 b) {
  return lanewise64([&](int i) { return a.v[i] / b.v[i]; });
}
inline F64x8 max(F64x8 a, F64x8 b) {
  return lanewise64([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F64x8 min(F64x8 a, F64x8 b) {
  return lanewise64([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F64x8 round(F64x8 a) {
  return lanewise64([&](int i) { return rint(a.v[i]); });
}
inline F32x8 narrow(F64x8 a) {
  return lanewise([&](int i) { return static_cast<float>(a.v[i]); });
}
inline F64x8 widen8(const float* e) {
  return lanewise64([&](int i) { return static_cast<double>(e[i]); });
}
inline F64x8 whole_weight8(const float* e) {
  return lanewise64([&](int i) { return static_cast<double>(e[i]) * 0x1p40; });
}

inline F32x8 exp2_eighths(F32x8 t) {
  return lanewise([&](int i) {
    const uint32_t k = to_bits(t.v[i]);
    return from_bits(exp2_eighth_bits[k & 7u] + (k << 20));
  });
}

struct BFloatRange {
  int16_t positive = -32768;
  uint16_t negative = 0;
  void add(const BFloat* p) {
    for (int i = 0; i < 16; ++i) {
      const auto raw = static_cast<int16_t>(p[i].bits);
      positive = raw > positive ? raw : positive;
      negative = p[i].bits > negative ? p[i].bits : negative;
    }
  }
  BFloat most_signed() const { return {static_cast<uint16_t>(positive)}; }
  BFloat most_unsigned() const { return {negative}; }
  static BFloat least_unsigned(const BFloat* p, int64_t n) {
    uint16_t least = 0xffff;
    for (int64_t i = 0; i < n; ++i) least = p[i].bits < least ? p[i].bits : least;
    return {least};
  }
};

struct BitSum {
  uint32_t v[8] = {};
  void add(F32x8 a) {
    for (int i = 0; i < 8; ++i) v[i] += to_bits(a.v[i]);
  }
  void store(uint32_t* p) const {
    for (int i = 0; i < 8; ++i) p[i] = v[i];
  }
};

inline unsigned philox_within(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
                              uint32_t limit) {
  unsigned bits = 0;
  for (uint32_t i = 0; i < 8; ++i) {
    const Philox4 draw = philox(seed, c0 + i, c1, c2, c3);
    for (const uint32_t word : draw.word) bits |= static_cast<unsigned>(word <= limit) << i;
  }
  return bits;
}

#endif

// e^x of x <= 0 with the bits of exp_fast, but that whatever lies below -40, or is NaN, gives
// e^-40: as a weight (common/weights.h) all of that is 0. In two steps, each short enough to be
// hidden behind others of its kind: x = n ln 2 + r, then the polynomial in r times 2^n.
struct ExpParts {
  F32x8 r, t;  // t = n + 1.5 * 2^23
};
inline ExpParts exp_parts(F32x8 x) {
  const F32x8 magic = F32x8::splat(12582912.0f);  // a sum with it rounds to an integer
  x = max(x, F32x8::splat(-40.0f));
  const F32x8 t = x * F32x8::splat(1.442695041f) + magic, n = t - magic;
  return {fused(n, F32x8::splat(2.12194440e-4f), fused(n, F32x8::splat(-0.693359375f), x)), t};
}
template <int width>
inline void exp_of_parts(const ExpParts (&x)[width], F32x8 (&e)[width]) {
  constexpr float coefficients[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                                    1.6666665459e-1f, 5.0000001201e-1f};
  for (F32x8& p : e) p = F32x8::splat(1.9875691500e-4f);
  for (const float c : coefficients) {
    for (int i = 0; i < width; ++i) e[i] = fused(e[i], x[i].r, F32x8::splat(c));
  }
  for (int i = 0; i < width; ++i) {
    e[i] = times_exp2(fused(e[i], x[i].r * x[i].r, x[i].r) + F32x8::splat(1.0f), x[i].t);
  }
}
inline F32x8 exp_weighed(F32x8 x) {
  const ExpParts parts[1] = {exp_parts(x)};
  F32x8 e[1];
  exp_of_parts(parts, e);
  return e[0];
}

// Sum of round(e 2^40) over |e| <= 1, exact, of at most 512 vectors. A sum of floats is rounded
// to a grid by a constant of its size, and what it holds on that grid is summed as an integer: e to
// 2^-18 beside 48, the rest to 2^-40 beside 3 * 2^-18.
class WeightSum {
 public:
  F32x8 add(F32x8 e) {  // returns what it added, e rounded to 2^-40
    const F32x8 high = e + F32x8::splat(coarse);
    const F32x8 low = e + (F32x8::splat(coarse + fine) - high);  // the difference is exact
    high_.add(high);
    low_.add(low);
    ++count_;
    return (high - F32x8::splat(coarse)) + (low - F32x8::splat(fine));
  }
  uint64_t take() const {
    uint32_t high[8], low[8];
    high_.store(high);
    low_.store(low);
    int64_t sum = 0;
    for (int i = 0; i < 8; ++i) {
      sum += int64_t{static_cast<int32_t>(high[i] - count_ * to_bits(coarse))} * (1 << 22);
      sum += static_cast<int32_t>(low[i] - count_ * to_bits(fine));
    }
    return static_cast<uint64_t>(sum);
  }

 private:
  static constexpr float coarse = 48.0f, fine = 0x1.8p-17f;
  BitSum high_, low_;
  uint32_t count_ = 0;
};

// The same where every e is below 2^-17, so that one grid does.
class SmallWeightSum {
 public:
  void add(F32x8 e) {
    low_.add(e + F32x8::splat(fine));
    ++count_;
  }
  uint64_t take() const {
    uint32_t low[8];
    low_.store(low);
    uint64_t sum = 0;
    for (int i = 0; i < 8; ++i) sum += low[i] - count_ * to_bits(fine);
    return sum;
  }

 private:
  static constexpr float fine = 0x1p-17f;
  BitSum low_;
  uint32_t count_ = 0;
};
constexpr float small_weight = -11.8f;  // e^small_weight < 2^-17

// ((0+4)+(2+6)) + ((1+5)+(3+7)), on every ISA; maxima in the same order.
#ifdef __AVX2__
inline float reduce_add(F32x8 a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float reduce_max(F32x8 a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
#else
inline float reduce_add(F32x8 a) {
  const float* x = a.v;
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}
inline float reduce_max(F32x8 a) {
  const auto most = [](float x, float y) { return x > y ? x : y; };
  const float* x = a.v;
  return most(most(most(x[0], x[4]), most(x[2], x[6])), most(most(x[1], x[5]), most(x[3], x[7])));
}
#endif

inline double reduce_add(F64x8 a) {
  double x[8];
  a.store(x);
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

// to[c * stride + i] = column c of row i, widened; `columns` is a multiple of eight.
template <class T>
inline void store_columns(const T* const (&row)[8], int64_t columns, float* to, int64_t stride) {
  for (int64_t c = 0; c < columns; c += 8) {
    F32x8 block[8];
    for (int i = 0; i < 8; ++i) block[i] = F32x8::load(row[i] + c);
    transpose(block);
    for (int i = 0; i < 8; ++i) block[i].store(to + (c + i) * stride);
  }
}

}  // namespace
}  // namespace tokenburst::TB_ISA
