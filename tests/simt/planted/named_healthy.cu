// Nothing is wrong here: warp 0 fills a tile, three warps use it, and two named barriers pass it to
// and fro. Two more hand the sums from warp to warp: out[96 b + 32 w + i] = (w + 1) times the sum
// of in[32 t + 31 - i] over the tiles t, plus that of the warps before.
#include "common/cuda.cuh"

namespace {

enum { full = 1, empty = 15 };
constexpr int both = 128;

__global__ void sum_tiles(const float* in, float* out, int tiles) {
  __shared__ float tile[32], sums[96];
  const int lane = threadIdx.x % 32, user = threadIdx.x - 32, warp = threadIdx.x / 32;
  if (warp == 0) {
    for (int t = 0; t < tiles; ++t) {
      if (t > 0) tokenburst::named_barrier_sync(empty, both);
      tile[lane] = in[32 * t + lane];
      tokenburst::named_barrier_arrive(full, both);
    }
  } else {
    float sum = 0.0f;
    for (int t = 0; t < tiles; ++t) {
      tokenburst::named_barrier_sync(full, both);
      sum += tile[31 - lane];
      if (t + 1 < tiles) tokenburst::named_barrier_arrive(empty, both);
    }
    if (warp > 1) tokenburst::named_barrier_sync(warp, 64);
    sums[user] = static_cast<float>(warp) * sum;
    for (int before = 1; before < warp; ++before) sums[user] += sums[32 * (before - 1) + lane];
    if (warp < 3) tokenburst::named_barrier_arrive(warp + 1, 64);
  }
  __syncthreads();
  if (warp > 0) out[96 * blockIdx.x + user] = sums[user];
}

}  // namespace

TB_EXPORT int planted(const float* in, float* out, int tiles) {
  return tokenburst::launch(sum_tiles, dim3(2), dim3(both), 0, nullptr, in, out, tiles);
}
