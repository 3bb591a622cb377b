// Each block publishes its sum, and the first one adds them all up without waiting for the others.
#include "common/cuda.cuh"

__global__ void sums(const float* in, float* out, int n) {
  const int i = 32 * blockIdx.x + threadIdx.x;
  const float sum = tokenburst::warp_sum(i < n ? in[i] : 0.0f);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
  if (i == 0) {
    float total = 0.0f;
    for (int j = 0; j < gridDim.x; ++j) total += out[j];
    out[gridDim.x] = total;
  }
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(sums, dim3((n + 31) / 32), dim3(32), 0, nullptr, in, out, n);
}
