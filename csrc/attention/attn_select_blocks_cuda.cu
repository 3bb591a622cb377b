// One warp per row. The k-th largest mass is found bit by bit with ballots; what lies above it is
// kept, and of what equals it the lowest indices.
#include "common/cuda.cuh"

#include "attention/attn_select_blocks.h"

namespace tokenburst {
namespace {

constexpr int warps = 4;

// The masses [from, to) of one row that compete, and what of them is kept.
struct Contest {
  const float* mass;
  int from, to;
  uint32_t least = 0;  // order of the last one kept
  int equal = 0;       // how many of those that equal it are kept

  __device__ Contest(const float* mass, int from, int to, double keep)
      : mass(mass), from(from), to(to) {
    const int kept = static_cast<int>(sparsed_kept(to - from, keep));
    for (uint32_t bit = 1u << 31; bit > 0; bit >>= 1) {
      if (count(least | bit) >= kept) least |= bit;
    }
    equal = kept - count(least + 1);  // no mass is the largest integer
  }

  __device__ uint32_t order(int j) const { return mass_order(mass[j]); }

  __device__ int count(uint32_t at_least) const {
    int total = 0;
    for (int base = from; base < to; base += 32) {
      const int j = base + static_cast<int>(threadIdx.x % 32);
      total += __popc(__ballot_sync(full_warp, j < to && order(j) >= at_least));
    }
    return total;
  }

  // Bits of the masses base, base + 1, ... base + 31, called in rising order.
  __device__ unsigned kept(int base) {
    const int lane = threadIdx.x % 32, j = base + lane;
    const uint32_t mine = from <= j && j < to ? order(j) : 0;
    const bool competes = from <= j && j < to;
    const unsigned above = __ballot_sync(full_warp, competes && mine > least);
    const unsigned ties = __ballot_sync(full_warp, competes && mine == least);
    const int rank = __popc(ties & ((1u << lane) - 1u));
    const unsigned first = __ballot_sync(full_warp, (ties >> lane & 1) && rank < equal);
    equal -= __popc(first);
    return above | first;
  }
};

__global__ void __launch_bounds__(warps * 32) select_kernel(AttnSelectBlocksParams p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  if (row >= p.batch * p.heads * p.blocks) return;  // whole warps
  const SparsedParts parts =
      sparsed_parts(p.kv_len, p.prompt_len, row / (p.heads * p.blocks), p.length, p.block);
  const bool padding = row % p.blocks >= parts.blocks;
  const int blocks = padding ? 0 : static_cast<int>(parts.blocks);
  const int split = padding ? 0 : static_cast<int>(parts.split);
  Contest all(p.prefix + row * p.blocks, 0, blocks, p.keep);
  Contest generated(p.generation + row * p.blocks, split, blocks, p.keep);
  for (int word = 0; word < p.words; ++word) {
    const int before = split - 32 * word;  // bits of the prompt
    const unsigned prompt = before >= 32 ? ~0u : before <= 0 ? 0u : (1u << before) - 1u;
    const unsigned bits = (all.kept(32 * word) & prompt) | generated.kept(32 * word);
    if (threadIdx.x % 32 == 0) p.bits[row * p.words + word] = static_cast<int32_t>(bits);
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_attn_select_blocks_cuda(const tokenburst::AttnSelectBlocksParams* p,
                                                 void* stream) {
  using namespace tokenburst;
  const int64_t rows = p->batch * p->heads * p->blocks;
  return launch(select_kernel, dim3((rows + warps - 1) / warps), dim3(warps * 32), 0, stream, *p);
}
