// Half of the warp shuffles with a mask that names all of it; the rest waits at the barrier.
#include "common/cuda.cuh"

__global__ void half_warp(const float* in, float* out, int n) {
  const int i = threadIdx.x;
  float value = i < n ? in[i] : 0.0f;
  if (i < 16) value += __shfl_xor_sync(tokenburst::full_warp, value, 1);
  __syncthreads();
  if (i < n) out[i] = value;
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(half_warp, dim3(1), dim3(32), 0, nullptr, in, out, n < 32 ? n : 32);
}
