#pragma once
// Ranks without sorting, by all threads of a block: 64-bit keys, larger is better, 0 takes no part.
// Each thread has the key of its first candidate in a register and further ones in global memory,
// which only it reads.
#include "common/cuda.cuh"

namespace tokenburst {
namespace {

// Keys of the block that are >= least. Every thread must call it.
__device__ int64_t count_from(const uint64_t* keys, int64_t n, uint64_t first, uint64_t least) {
  int64_t count = __syncthreads_count(first >= least);
  for (int64_t base = blockDim.x; base < n; base += blockDim.x) {
    const int64_t i = base + threadIdx.x;
    count += __syncthreads_count(i < n && keys[i] >= least);
  }
  return count;
}

__device__ uint64_t kth_largest(const uint64_t* keys, int64_t n, uint64_t first, int64_t k) {
  uint64_t found = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t trial = found | static_cast<uint64_t>(1) << bit;
    const int64_t count = count_from(keys, n, first, trial);
    if (count >= k) found = trial;
    if (count == k) break;  // no other key lies between
  }
  return found;
}

// Threads for so many candidates.
inline int order_threads(int64_t candidates) {
  const int64_t warps = (candidates + 31) / 32;
  return warps < 1 ? 32 : warps > 32 ? 1024 : static_cast<int>(32 * warps);
}

}  // namespace
}  // namespace tokenburst
