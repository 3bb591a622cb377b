// One block per sequence. Every position is tried by one thread; the best key, agreeing tokens
// first and position second, is found by a maximum, so the order of threads does not matter.
#include "common/cuda.cuh"
#include "ngram/ngram_match.h"

namespace tokenburst {
namespace {

constexpr int threads = 512;

__device__ inline uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

__global__ void __launch_bounds__(threads) match_kernel(NgramMatchParams p) {
  __shared__ uint64_t partial[threads / 32];
  const int thread = threadIdx.x;
  const int64_t b = blockIdx.x, row = b * p.stride, given = p.length[b];
  const int64_t length = given < 0 ? 0 : given < p.capacity ? given : p.capacity;

  uint64_t key = 0;  // agreeing tokens, then the position so that the wanted one is larger
  for (int64_t start = 1 + thread; start < length; start += threads) {
    const uint64_t n = ngram_match_at(p, row, length, start);
    const uint32_t at = static_cast<uint32_t>(start);
    if (n > 0) key = larger(key, n << 32 | (p.latest ? at : ~at));
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    key = larger(key, __shfl_xor_sync(full_warp, key, offset));
  }
  if (thread % 32 == 0) partial[thread / 32] = key;
  __syncthreads();
  for (int i = 0; i < threads / 32; ++i) key = larger(key, partial[i]);

  const int64_t best = static_cast<int64_t>(key >> 32);
  const uint32_t at = static_cast<uint32_t>(key);
  const int64_t from = p.latest ? at : ~at;
  const int64_t left = best > 0 ? length - from : 0, count = left < p.k ? left : p.k;
  for (int64_t i = thread; i < p.k; i += threads) {
    p.draft[b * p.k + i] = i < count ? p.tokens[row + from + i] : -1;
  }
  if (thread == 0) {
    p.n_draft[b] = static_cast<int32_t>(count);
    p.match_len[b] = static_cast<int32_t>(best);
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_ngram_match_cuda(const tokenburst::NgramMatchParams* p, void* stream) {
  return tokenburst::launch(tokenburst::match_kernel, dim3(p->batch), dim3(tokenburst::threads), 0,
                            stream, *p);
}
