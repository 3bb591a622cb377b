// Threads past the end leave their slot of the tile unwritten, the sum reads it.
#include "common/cuda.cuh"

__global__ void total(const float* in, float* out, int n) {
  __shared__ float tile[64];
  const int i = threadIdx.x;
  if (i < n) tile[i] = in[i];
  __syncthreads();
  float sum = 0.0f;
  for (int j = 0; j < 64; ++j) sum += tile[j];
  if (i < n) out[i] = sum;
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(total, dim3(1), dim3(64), 0, nullptr, in, out, n);
}
