// One block per sequence, a thread for every blockDim-th candidate. The chosen keys are those from
// some smallest key up; it is found bit by bit with one vote of the block per bit, so no sort, no
// limit on the number of candidates, and the same set whatever the block size. The first key of a
// thread stays in a register, further ones in the workspace, which only their thread reads.
#include "common/cuda.cuh"
#include "unmask/unmask_select_.h"

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

__device__ uint64_t least_chosen(const UnmaskSelectParams& p, int64_t b, const uint64_t* keys,
                                 uint64_t first) {
  if (p.commit_all && p.commit_all[b]) return 1;
  const uint64_t threshold = threshold_key(p, b);
  const int64_t k = wanted(p, b);
  if (count_from(keys, p.candidates, first, threshold) >= k) return threshold;
  if (count_from(keys, p.candidates, first, 1) <= k) return 1;
  return kth_largest(keys, p.candidates, first, k);
}

__global__ void select_kernel(UnmaskSelectParams p) {
  __shared__ int masks, chosen;
  const int64_t b = blockIdx.x, row = b * p.candidates;
  int32_t* owner = p.owner + b * p.length;
  uint64_t* keys = p.keys + row;
  if (threadIdx.x == 0) masks = chosen = 0;

  // Of the candidates for one position only the first takes part.
  for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
    const int64_t position = masked_position(p, b, i);
    if (position >= 0) atomicExch(owner + position, 0x7fffffff);
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
    const int64_t position = masked_position(p, b, i);
    if (position >= 0) atomicMin(owner + position, static_cast<int>(i));
  }
  __syncthreads();

  uint64_t first = 0;
  int my_masks = 0;
  for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
    const int64_t position = masked_position(p, b, i);
    const bool takes_part = position >= 0 && owner[position] == i;
    const uint64_t key = takes_part ? key_of(p, b, i, position) : 0;
    if (i < blockDim.x) {
      first = key;
    } else {
      keys[i] = key;
    }
    my_masks += takes_part;
  }
  if (my_masks > 0) atomicAdd(&masks, my_masks);

  __syncthreads();  // x is written below
  const uint64_t least = least_chosen(p, b, keys, first);
  int my_chosen = 0;
  for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
    const uint64_t key = i < blockDim.x ? first : keys[i];
    const bool commit = key >= least;
    p.committed[row + i] = commit;
    my_chosen += commit;
    if (commit) write_x(p, b, p.position[row + i], p.token[row + i]);
  }
  if (my_chosen > 0) atomicAdd(&chosen, my_chosen);
  __syncthreads();
  if (threadIdx.x == 0) {
    p.n_committed[b] = chosen;
    p.n_left[b] = masks - chosen;
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_unmask_select__cuda(const tokenburst::UnmaskSelectParams* p,
                                             void* stream) {
  const int64_t warps = (p->candidates + 31) / 32;
  const int threads = warps < 1 ? 32 : warps > 32 ? 1024 : static_cast<int>(32 * warps);
  return tokenburst::launch(tokenburst::select_kernel, dim3(p->batch), dim3(threads), 0, stream,
                            *p);
}
