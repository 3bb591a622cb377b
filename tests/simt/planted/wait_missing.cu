// Two copies in two groups; the wait leaves one in flight, and the block reads both.
#include "common/cuda.cuh"

__global__ void stage(const float* in, float* out, int n) {
  __shared__ __align__(16) float tile[2][128];
  const int i = threadIdx.x;
  for (int half = 0; half < 2; ++half) {
    tokenburst::cp_async16(&tile[half][4 * i], in + 4 * i, 4 * i + 4 <= n);
    tokenburst::cp_async_commit();
  }
  tokenburst::cp_async_wait<1>();
  __syncthreads();
  for (int j = i; j < n && j < 128; j += 32) out[j] = tile[0][j] + tile[1][j];
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(stage, dim3(1), dim3(32), 0, nullptr, in, out, n);
}
