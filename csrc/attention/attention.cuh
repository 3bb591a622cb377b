#pragma once
// What attention kernels have in common: base-2 softmax, pairs of 16-bit values, swizzled tiles.
#include "common/cuda.cuh"

namespace tokenburst {
namespace {

constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

// Natural log of sum * 2^maximum.
__device__ float log_sum(float maximum, float sum) {
  return sum > 0.0f ? maximum * ln_2 + log_fast(sum) : -INFINITY;
}

__device__ uint32_t pair_of(float a, float b, __half) {
  const __half2 pair = __floats2half2_rn(a, b);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}
__device__ uint32_t pair_of(float a, float b, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// Rows of `dim` 16-bit values in shared memory, in chunks of 16 bytes. A row's chunks are permuted
// so that one logical chunk of eight rows lies in eight different groups of four banks.
template <int dim>
struct Swizzled {
  static constexpr int chunks = dim / 8;
  static constexpr int width = chunks % 8 == 0 ? 8 : chunks % 4 == 0 ? 4 : chunks % 2 == 0 ? 2 : 1;
  static_assert(dim % 8 == 0, "a chunk is eight values");

  // What a chunk's index is combined with (exclusive or) in this row; repeats after eight rows.
  __device__ static int twist(int row) { return row / (8 / width) % width; }
  __device__ static int at(int row, int chunk) { return row * dim + (chunk ^ twist(row)) * 8; }
};

}  // namespace
}  // namespace tokenburst
