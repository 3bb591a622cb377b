// The reading warp says that it is done before it has read.
#include "common/cuda.cuh"

__global__ void handed(const float* in, float* out, int n) {
  __shared__ float tile[32];
  const int i = threadIdx.x;
  if (i < 32) tile[i] = in[i];
  __syncthreads();
  if (i < 32) {
    tokenburst::named_barrier_sync(1, 64);
    tile[i] = 0.0f;
  } else {
    tokenburst::named_barrier_arrive(1, 64);
    if (i < n) out[i] = tile[63 - i];
  }
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(handed, dim3(1), dim3(64), 0, nullptr, in, out, n);
}
