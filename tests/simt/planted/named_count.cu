// Two warps wait for three; the third never comes.
#include "common/cuda.cuh"

__global__ void staged(const float* in, float* out, int n) {
  const int i = threadIdx.x;
  const float value = i < n ? in[i] : 0.0f;
  if (i < 64) tokenburst::named_barrier_sync(3, 96);
  if (i < n) out[i] = value;
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(staged, dim3(1), dim3(96), 0, nullptr, in, out, n);
}
