// The tail of the last block is not masked.
#include "common/cuda.cuh"

__global__ void copy(const float* in, float* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = i < n ? in[i] : 0.0f;
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(copy, dim3((n + 63) / 64), dim3(64), 0, nullptr, in, out, n);
}
