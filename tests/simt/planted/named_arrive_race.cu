// The warp that only arrives reads what the others wrote before the same barrier.
#include "common/cuda.cuh"

__global__ void handed(const float* in, float* out, int n) {
  __shared__ float tile[64];
  const int i = threadIdx.x;
  tile[i] = 0.0f;
  __syncthreads();
  tile[i] = i < n ? in[i] : 0.0f;
  if (i < 32) {
    tokenburst::named_barrier_arrive(1, 64);
  } else {
    tokenburst::named_barrier_sync(1, 64);
  }
  if (i < n) out[i] = tile[63 - i];
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(handed, dim3(1), dim3(64), 0, nullptr, in, out, n);
}
