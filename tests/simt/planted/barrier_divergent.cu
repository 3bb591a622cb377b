// Only the threads with an element reach the barrier.
#include "common/cuda.cuh"

__global__ void stage(const float* in, float* out, int n) {
  __shared__ float tile[64];
  const int i = threadIdx.x;
  if (i < n) {
    tile[i] = in[i];
    __syncthreads();
    out[i] = tile[n - 1 - i];
  }
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(stage, dim3(1), dim3(64), 0, nullptr, in, out, n);
}
