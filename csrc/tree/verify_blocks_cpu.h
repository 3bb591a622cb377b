#pragma once
// Blocks of 512 logits on the CPU: their maxima, their exponentials as whole weights, and the
// memory that a sequence needs.
#include "common/parallel.h"
#include "common/simd.h"
#include "tree/verify.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t block = 512;
constexpr int64_t grain = 32;  // blocks that are worth a thread
constexpr int max_kept = 2;    // draft rows whose exponentials stay in memory
constexpr float largest = 3.402823466e38f;
constexpr float nothing = -29.0f;  // e^nothing weighs less than half a unit

float load_logit(DType dtype, const void* data, int64_t i) {
  switch (dtype) {
    case DType::f16:
      return half_to_float(static_cast<const uint16_t*>(data)[i]);
    case DType::bf16:
      return bfloat_to_float(static_cast<const uint16_t*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}

float block_maximum(const float* l, int64_t n) {  // n padded to a multiple of 8
  F32x8 most = F32x8::splat(-infinity);
  for (int64_t x = 0; x < n; x += 8) most = max(F32x8::load(l + x), most);
  return reduce_max(most);
}

struct Loaded {
  float most;
  int32_t n_nan;
};

// Cleans one block into `out`, if that is given; the largest, and the number of NaN.
template <bool keep, class T>
Loaded clean_block(const T* l, int64_t n, float* out) {
  if (n == block) {  // most blocks hold only numbers: 0 times anything else is NaN
    F32x8 most[4], zero[4];
    for (int j = 0; j < 4; ++j) {
      most[j] = F32x8::splat(-infinity);
      zero[j] = F32x8::splat(0.0f);
    }
    for (int64_t x = 0; x < block; x += 32) {
      for (int j = 0; j < 4; ++j) {
        const F32x8 raw = F32x8::load(l + x + 8 * j);
        most[j] = max(raw, most[j]);
        zero[j] = fused(raw, F32x8::splat(0.0f), zero[j]);
        if (keep) raw.store(out + x + 8 * j);
      }
    }
    if (!unordered((zero[0] + zero[1]) + (zero[2] + zero[3]))) {
      return {reduce_max(max(max(most[0], most[1]), max(most[2], most[3]))), 0};
    }
  }
  Loaded all{-infinity, 0};
  for (int64_t x = 0; x < n; ++x) {
    const float raw = widen(l[x]), clean = clean_logit(raw);
    all.n_nan += raw != raw;
    all.most = clean > all.most ? clean : all.most;
    if (keep) out[x] = clean;
  }
  return all;
}

// The same by type. A copy is filled up with -inf to a multiple of 8.
Loaded load_block(DType dtype, const void* data, int64_t first, int64_t n, float* out) {
  const auto of = [n, out](const auto* l) {
    return out ? clean_block<true>(l, n, out) : clean_block<false>(l, n, out);
  };
  for (int64_t x = n; out && x < (n + 7) / 8 * 8; ++x) out[x] = -infinity;
  switch (dtype) {
    case DType::f16:
      return of(static_cast<const Half*>(data) + first);
    case DType::bf16:
      return of(static_cast<const BFloat*>(data) + first);
    default:
      return of(static_cast<const float*>(data) + first);
  }
}

// e^((l - most) / T), rounded to whole weights, of n logits, a multiple of 8; returns their sum.
// NaN counts as -inf; `e` may be where the logits are.
template <class T>
uint64_t exponentials(const T* l, int64_t n, float most, float inv_t, float* e) {
  const F32x8 base = F32x8::splat(most), scale = F32x8::splat(inv_t);
  alignas(64) float r[block], t[block];
  for (int64_t x = 0; x < n; x += 8) {
    const ExpParts parts = exp_parts((F32x8::load(l + x) - base) * scale);
    parts.r.store(r + x);
    parts.t.store(t + x);
  }
  WeightSum sum;
  const int64_t whole = n / 32 * 32;
  for (int64_t x = 0; x < whole; x += 32) {
    ExpParts parts[4];
    F32x8 exp[4];
    for (int j = 0; j < 4; ++j) {
      parts[j] = {F32x8::load(r + x + 8 * j), F32x8::load(t + x + 8 * j)};
    }
    exp_of_parts(parts, exp);
    for (int j = 0; j < 4; ++j) sum.add(exp[j]).store(e + x + 8 * j);
  }
  for (int64_t x = whole; x < n; x += 8) {
    const ExpParts parts[1] = {{F32x8::load(r + x), F32x8::load(t + x)}};
    F32x8 exp[1];
    exp_of_parts(parts, exp);
    sum.add(exp[0]).store(e + x);
  }
  return sum.take();
}

// The same of a block of a row, 0 up to a multiple of 8. Only beside the largest float can a logit,
// +inf, lie above the best.
uint64_t block_exponentials(DType dtype, const void* data, int64_t first, int64_t n, float most,
                            float inv_t, float* e) {
  if (n < block || !(most < largest)) {
    load_block(dtype, data, first, n, e);
    return exponentials(e, (n + 7) / 8 * 8, most, inv_t, e);
  }
  switch (dtype) {
    case DType::f16:
      return exponentials(static_cast<const Half*>(data) + first, n, most, inv_t, e);
    case DType::bf16:
      return exponentials(static_cast<const BFloat*>(data) + first, n, most, inv_t, e);
    default:
      return exponentials(static_cast<const float*>(data) + first, n, most, inv_t, e);
  }
}

struct Space {     // for rows of `vocab` logits
  uint64_t* mass;  // [blocks], weights of the target
  uint64_t* rest;  // [blocks], weights that the law leaves
  uint64_t* keys;  // [blocks * (block + 1)]
  float* e;        // [vocab, padded]
  float* most;     // [blocks], largest logits
  float* u;        // [kept, vocab, padded], exponentials of draft rows
  float* u_most;   // [kept, blocks], the largest of them
  int kept;
  static int64_t blocks(int64_t vocab) { return (vocab + block - 1) / block; }
  static int kept_of(const TreeVerifySampleParams& p) {
    if (!p.draft_logits) return 0;
    return p.draft_rows < max_kept ? static_cast<int>(p.draft_rows) : max_kept;
  }
  static size_t bytes(int64_t vocab, int kept) {
    const int64_t b = blocks(vocab);
    return static_cast<size_t>(b * (block + 3) * 8 + (1 + kept) * (block + 1) * b * 4);
  }
  static Space of(const TreeVerifySampleParams& p) {
    const int kept = kept_of(p);
    const int64_t b = blocks(p.vocab);
    auto* mass = static_cast<uint64_t*>(scratch(bytes(p.vocab, kept)));
    auto* e = reinterpret_cast<float*>(mass + (block + 3) * b);
    float* most = e + b * block;
    float* u = most + b;
    return {mass, mass + b, mass + 2 * b, e, most, u, u + kept * b * block, kept};
  }
};

}  // namespace
}  // namespace tokenburst::TB_ISA
