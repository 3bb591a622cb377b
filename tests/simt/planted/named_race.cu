// Each half of the block meets in a barrier of its own, but the halves exchange values.
#include "common/cuda.cuh"

__global__ void reversed(const float* in, float* out, int n) {
  __shared__ float tile[128];
  const int i = threadIdx.x;
  tile[i] = 0.0f;
  __syncthreads();
  tile[i] = i < n ? in[i] : 0.0f;
  tokenburst::named_barrier_sync(1 + i / 64, 64);
  if (i < n) out[i] = tile[127 - i];
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(reversed, dim3(1), dim3(128), 0, nullptr, in, out, n);
}
