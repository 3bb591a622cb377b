// Lanes exchange through shared memory; the ballot between orders nothing.
#include "common/cuda.cuh"

__global__ void exchange(const float* in, float* out, int n) {
  __shared__ float slot[32];
  const int i = threadIdx.x;
  slot[i] = i < n ? in[i] : 0.0f;
  const unsigned present = __ballot_sync(tokenburst::full_warp, i < n);
  if (i < n) out[i] = slot[__popc(present) - 1 - i];
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(exchange, dim3(1), dim3(32), 0, nullptr, in, out, n < 32 ? n : 32);
}
