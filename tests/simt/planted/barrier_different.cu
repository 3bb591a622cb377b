// Two halves of the block meet in two different barriers.
#include "common/cuda.cuh"

__global__ void halves(const float* in, float* out, int n) {
  const int i = threadIdx.x;
  float value = i < n ? in[i] : 0.0f;
  if (i < 32) {
    __syncthreads();
    value += 1.0f;
  } else {
    __syncthreads();
    value += 2.0f;
  }
  if (i < n) out[i] = value;
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(halves, dim3(1), dim3(64), 0, nullptr, in, out, n);
}
