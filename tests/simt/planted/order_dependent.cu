// A sum whose order is the order in which threads arrive.
#include "common/cuda.cuh"

__global__ void sum(const float* in, float* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i == 0) out[1] = 0.0f;
  if (i < n) atomicAdd(out, in[i] * in[i]);
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(sum, dim3((n + 31) / 32), dim3(32), 0, nullptr, in, out, n);
}
