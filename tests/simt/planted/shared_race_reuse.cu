// The second round overwrites the tile while others may still read the first one.
#include "common/cuda.cuh"

__global__ void rounds(const float* in, float* out, int n) {
  __shared__ float tile[64];
  const int i = threadIdx.x;
  float sum = 0.0f;
  for (int round = 0; round < 2; ++round) {
    tile[i] = i < n ? in[i] + round : 0.0f;
    __syncthreads();
    sum += tile[63 - i];
  }
  if (i < n) out[i] = sum;
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(rounds, dim3(1), dim3(64), 0, nullptr, in, out, n);
}
