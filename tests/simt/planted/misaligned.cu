// 16-byte loads from an address that is a multiple of 4 only.
#include "common/cuda.cuh"

__global__ void load(const float* in, float* out, int n) {
  const int i = 4 * threadIdx.x;
  if (i + 5 > n) return;
  const float4 v = *reinterpret_cast<const float4*>(in + i + 1);
  out[i] = v.x + v.y + v.z + v.w;
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(load, dim3(1), dim3(32), 0, nullptr, in, out, n);
}
