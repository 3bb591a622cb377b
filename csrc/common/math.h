#pragma once
// exp and log as fixed polynomials with explicit fused multiply-adds: every ISA and the GPU round
// alike, so a sampled token is the same on all of them. The scalar forms stand here, the vector
// forms in simd.h repeat them lane by lane.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/types.h"

namespace tokenburst {
namespace {  // one copy per translation unit: the same name is compiled for several instruction
             // sets

TB_HD float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

TB_HD float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

TB_HD uint32_t to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// A copy that stood alone would carry no name of its instruction set.
#if defined(__CUDACC__) || defined(TB_SIMT)
#define TB_INLINE TB_HD
#else
#define TB_INLINE inline __attribute__((always_inline))
#endif

// e^x for x <= 88; below -87.3 (and for -inf) exactly 0. Relative error below 2e-7.
TB_INLINE float exp_fast(float x) {
  const bool inside = x > -87.3f;
  const float y = inside ? x : 0.0f;
  const float n = nearbyintf(y * 1.442695041f);
  float r = fused(n, -0.693359375f, y);
  r = fused(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fused(p, r, 1.3981999507e-3f);
  p = fused(p, r, 8.3334519073e-3f);
  p = fused(p, r, 4.1665795894e-2f);
  p = fused(p, r, 1.6666665459e-1f);
  p = fused(p, r, 5.0000001201e-1f);
  p = fused(p, r * r, r) + 1.0f;
  const float e = p * from_bits(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23);
  return inside ? e : 0.0f;
}

// ln x for normal positive x. Relative error below 2e-7 away from 1, absolute below 1e-7 near it.
TB_INLINE float log_fast(float x) {
  const uint32_t bits = to_bits(x);
  int32_t e = static_cast<int32_t>(bits >> 23) - 126;
  float m = from_bits((bits & 0x007fffffu) | 0x3f000000u);  // [0.5, 1)
  if (m < 0.707106781f) {
    m = m + m;
    e -= 1;
  }
  const float f = m - 1.0f;
  const float z = f * f;
  float p = 7.0376836292e-2f;
  p = fused(p, f, -1.1514610310e-1f);
  p = fused(p, f, 1.1676998740e-1f);
  p = fused(p, f, -1.2420140846e-1f);
  p = fused(p, f, 1.4249322787e-1f);
  p = fused(p, f, -1.6668057665e-1f);
  p = fused(p, f, 2.0000714765e-1f);
  p = fused(p, f, -2.4999993993e-1f);
  p = fused(p, f, 3.3333331174e-1f);
  float y = f * z * p;
  const float n = static_cast<float>(e);
  y = fused(n, -2.12194440e-4f, y);
  y = fused(z, -0.5f, y);
  return fused(n, 0.693359375f, f + y);
}

}  // namespace
}  // namespace tokenburst
