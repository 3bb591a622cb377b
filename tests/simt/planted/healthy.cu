// Nothing is wrong here: a tile product through cp.async, ldmatrix and mma, a warp exchange with
// __syncwarp, partial masks, votes and a counting barrier. out[16][8] = a[16][16] b[16][8].
#include "common/cuda.cuh"

namespace {

using tokenburst::full_warp;

__global__ void product(const __nv_bfloat16* a, const __nv_bfloat16* b, float* out, int* counts) {
  TB_DYNAMIC_SHARED(__nv_bfloat16, tile);  // a[16][16], then b[16][8]
  __shared__ float exchange[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  __nv_bfloat16* shared_b = tile + 256;
  if (warp == 0) {
    tokenburst::cp_async16(tile + 8 * lane, a + 8 * lane, true);
    tokenburst::cp_async_commit();
    if (lane < 16) tokenburst::cp_async16(shared_b + 8 * lane, b + 8 * lane, true);
    tokenburst::cp_async_commit();
    tokenburst::cp_async_wait<0>();
  }
  const int even = __syncthreads_count(threadIdx.x % 2 == 0);
  if (warp == 1) {
    uint32_t ra[4], rb[4];
    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    tokenburst::ldmatrix_x4(ra, tile + lane % 16 * 16 + lane / 16 * 8);
    tokenburst::ldmatrix_x4_trans(rb, shared_b + lane % 16 * 8);
    tokenburst::mma_m16n8k16(c, ra, rb[0], rb[1], __nv_bfloat16{});
    for (int i = 0; i < 4; ++i) out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = c[i];
  }
  __syncthreads();
  if (warp == 0) {
    exchange[lane] = static_cast<float>(lane);
    __syncwarp();
    const float other = exchange[31 - lane];
    const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    const int top = static_cast<int>(__reduce_max_sync(half, static_cast<unsigned>(other)));
    const unsigned odd = __ballot_sync(full_warp, lane % 2);
    const int from = __shfl_up_sync(full_warp, lane, 1, 16);
    counts[lane] = top + 100 * __popc(odd) + 10000 * from + 1000000 * even;
  }
}

}  // namespace

TB_EXPORT int planted(const __nv_bfloat16* a, const __nv_bfloat16* b, float* out, int* counts) {
  return tokenburst::launch(product, dim3(1), dim3(64), 768, nullptr, a, b, out, counts);
}
