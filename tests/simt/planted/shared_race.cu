// No barrier between writing a slot and reading the neighbour's.
#include "common/cuda.cuh"

__global__ void reversed(const float* in, float* out, int n) {
  __shared__ float tile[64];
  const int i = threadIdx.x;
  tile[63 - i] = 0.0f;
  __syncthreads();
  tile[i] = i < n ? in[i] : 0.0f;
  if (i < n) out[i] = tile[63 - i];
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(reversed, dim3(1), dim3(64), 0, nullptr, in, out, n);
}
