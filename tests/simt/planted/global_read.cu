// Each thread adds its right neighbour; the last one reads past the tensor.
#include "common/cuda.cuh"

__global__ void add_neighbour(const float* in, float* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = in[i] + in[i + 1];
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(add_neighbour, dim3((n + 63) / 64), dim3(64), 0, nullptr, in, out, n);
}
