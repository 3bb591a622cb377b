// A tile of 32 for a block of 64.
#include "common/cuda.cuh"

__global__ void stage(const float* in, float* out, int n) {
  __shared__ float tile[32];
  const int i = threadIdx.x;
  tile[i] = i < n ? in[i] : 0.0f;
  __syncthreads();
  if (i < n) out[i] = tile[i];
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(stage, dim3(1), dim3(64), 0, nullptr, in, out, n);
}
