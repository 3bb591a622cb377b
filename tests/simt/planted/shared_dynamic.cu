// The launcher gives room for 63 floats, the block uses 64.
#include "common/cuda.cuh"

__global__ void stage(const float* in, float* out, int n) {
  TB_DYNAMIC_SHARED(float, tile);
  const int i = threadIdx.x;
  tile[i] = i < n ? in[i] : 0.0f;
  __syncthreads();
  if (i < n) out[i] = tile[i];
}

TB_EXPORT int planted(const float* in, float* out, int n) {
  return tokenburst::launch(stage, dim3(1), dim3(64), 63 * sizeof(float), nullptr, in, out, n);
}
