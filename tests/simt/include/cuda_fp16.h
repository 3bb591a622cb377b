#pragma once
// Half precision as 16 bits; arithmetic is in float, rounded once.
#include <cuda_runtime.h>

struct alignas(2) __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
using half = __half;
using half2 = __half2;

SIMT_UNWATCHED inline float __half2float(__half h) {
  _Float16 value;
  __builtin_memcpy(&value, &h, 2);
  return static_cast<float>(value);
}
SIMT_UNWATCHED inline __half __float2half_rn(float f) {
  const _Float16 value = static_cast<_Float16>(f);
  __half h;
  __builtin_memcpy(&h, &value, 2);
  return h;
}
inline __half __float2half(float f) { return __float2half_rn(f); }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline __half2 __float22half2_rn(float2 v) { return __floats2half2_rn(v.x, v.y); }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
inline float __low2float(__half2 v) { return __half2float(v.x); }
inline float __high2float(__half2 v) { return __half2float(v.y); }
inline __half __hmul(__half a, __half b) {
  return __float2half_rn(__half2float(a) * __half2float(b));
}
inline __half __hadd(__half a, __half b) {
  return __float2half_rn(__half2float(a) + __half2float(b));
}
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
