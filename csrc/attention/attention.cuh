#pragma once
// What attention kernels have in common: base-2 softmax, a warp's row, pairs of 16-bit values,
// swizzled tiles.
#include "common/cuda.cuh"

namespace tokenburst {
namespace {

constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

// Natural log of sum * 2^maximum.
__device__ inline float log_sum(float maximum, float sum) {
  return sum > 0.0f ? maximum * ln_2 + log_fast(sum) : -INFINITY;
}

// One query and one key, in order of d, so that the alignment of the keys does not show.
template <class T>
__device__ float dot(const float* q, const T* key, int dim, bool vectors) {
  float sum = 0.0f;
  if (!vectors) {
    for (int d = 0; d < dim; ++d) sum = fused(q[d], widen(key[d]), sum);
    return sum;
  }
#pragma unroll 2
  for (int d = 0; d < dim; d += Pack<T>::size) {
    const Pack<T> part = Pack<T>::load(key + d);
#pragma unroll
    for (int i = 0; i < Pack<T>::size; ++i) sum = fused(q[d + i], widen(part.value[i]), sum);
  }
  return sum;
}

// out[d] = o[d] / sum, or 0 where the row saw nothing; lane l of the warp has d = l, l + 32, ...
template <class T>
__device__ void store_row(const float (&o)[8], float sum, int dim, int lane, T* out) {
  const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
  for (int i = 0; i < 8; ++i) {
    if (32 * i + lane < dim) out[32 * i + lane] = narrow<T>(o[i] * inverse);
  }
}

__device__ inline uint32_t pair_of(float a, float b, __half) {
  const __half2 pair = __floats2half2_rn(a, b);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}
__device__ inline uint32_t pair_of(float a, float b, __nv_bfloat16) {
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

// Every row of 16-bit values lies at a multiple of 16 bytes.
inline bool aligned(const void* data, const int64_t (&strides)[3]) {
  return (reinterpret_cast<uintptr_t>(data) | 2 * (strides[0] | strides[1] | strides[2])) % 16 == 0;
}

}  // namespace
}  // namespace tokenburst
