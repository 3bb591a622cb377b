// One block per sequence, a thread for every blockDim-th candidate. The chosen keys are those from
// some smallest key up; it is found bit by bit with one vote of the block per bit, so no sort, no
// limit on the number of candidates, and the same set whatever the block size. The first key of a
// thread stays in a register, further ones in the workspace, which only their thread reads.
#include "unmask/order.cuh"
#include "unmask/unmask_select_.h"

namespace tokenburst {
namespace {

// What the block's keys >= least are together. Integer sums, so their order does not matter.
__device__ Prefix prefix_from(const UnmaskSelectParams& p, const uint64_t* keys, uint64_t first,
                              uint64_t least) {
  __shared__ unsigned long long worst, cost;
  const int64_t count = count_from(keys, p.candidates, first, least);
  if (threadIdx.x == 0) {
    worst = ~0ull;
    cost = 0;
  }
  __syncthreads();
  uint64_t my_worst = ~0ull, my_cost = 0;
  for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
    const uint64_t key = i < blockDim.x ? first : keys[i];
    if (key < least) continue;
    my_worst = key < my_worst ? key : my_worst;
    my_cost += p.budget ? cost_of(key) : 0;
  }
  if (my_worst < ~0ull) atomicMin(&worst, static_cast<unsigned long long>(my_worst));
  if (my_cost > 0) atomicAdd(&cost, static_cast<unsigned long long>(my_cost));
  __syncthreads();
  const Prefix prefix{count, worst, cost};
  __syncthreads();
  return prefix;
}

// Smallest key from which on factor or budget admit everything.
__device__ uint64_t least_admitted(const UnmaskSelectParams& p, int64_t b, const uint64_t* keys,
                                   uint64_t first) {
  if (!searches(p)) return ~static_cast<uint64_t>(0);
  uint64_t found = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t step = static_cast<uint64_t>(1) << bit, trial = found | (step - 1);
    if (trial > 0 && !admits(p, b, prefix_from(p, keys, first, trial))) found |= step;
  }
  return found > 0 ? found : 1;
}

__device__ uint64_t least_counted(const UnmaskSelectParams& p, int64_t b, const uint64_t* keys,
                                  uint64_t first) {
  if (p.commit_all && p.commit_all[b]) return 1;
  const uint64_t threshold = threshold_key(p, b);
  const int64_t k = wanted(p, b);
  if (count_from(keys, p.candidates, first, threshold) >= k) return threshold;
  if (count_from(keys, p.candidates, first, 1) <= k) return 1;
  return kth_largest(keys, p.candidates, first, k);
}

__device__ uint64_t least_chosen(const UnmaskSelectParams& p, int64_t b, const uint64_t* keys,
                                 uint64_t first) {
  const uint64_t counted = least_counted(p, b, keys, first);
  const uint64_t admitted = least_admitted(p, b, keys, first);
  const uint64_t least = counted < admitted ? counted : admitted;
  if (!p.most.present() || count_from(keys, p.candidates, first, least) <= p.most[b]) return least;
  return p.most[b] < 1 ? ~static_cast<uint64_t>(0)
                       : kth_largest(keys, p.candidates, first, p.most[b]);
}

__global__ void select_kernel(UnmaskSelectParams p) {
  __shared__ int masks, chosen, edited;
  const int64_t b = blockIdx.x, row = b * p.candidates;
  int32_t* owner = p.owner + b * p.length;
  uint64_t* keys = p.keys + row;
  if (threadIdx.x == 0) masks = chosen = edited = 0;

  // Of the candidates for one position only the first takes part.
  if (p.near) {
    for (int64_t i = threadIdx.x; i < p.length; i += blockDim.x) owner[i] = nobody;
  } else {
    for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
      const int64_t position = open_position(p, b, i);
      if (position >= 0) atomicExch(owner + position, nobody);
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
    const int64_t position = open_position(p, b, i);
    if (position >= 0) atomicMin(owner + position, static_cast<int>(i));
  }
  __syncthreads();

  uint64_t first = 0;
  int my_masks = 0, my_edits = 0;
  for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
    const int64_t position = open_position(p, b, i);
    const bool takes_part = position >= 0 && owner[position] == i;
    const bool masked = takes_part && x_at(p, b, position) == p.mask_id;
    const uint64_t key = masked ? key_of(p, b, i, position) : 0;
    if (i < blockDim.x) {
      first = key;
    } else {
      keys[i] = key;
    }
    const bool edit = takes_part && !masked && edits(p, b, i, position);
    p.committed[row + i] = edit;
    my_masks += masked;
    my_edits += edit;
  }
  if (my_masks > 0) atomicAdd(&masks, my_masks);
  if (my_edits > 0) atomicAdd(&edited, my_edits);

  __syncthreads();  // x and the anchors are written below
  const uint64_t least = least_chosen(p, b, keys, first), sure = threshold_key(p, b);
  if (p.near) {
    for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
      if ((i < blockDim.x ? first : keys[i]) >= sure) owner[p.position[row + i]] = anchor;
    }
    __syncthreads();
  }
  int my_chosen = 0;
  for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
    const uint64_t key = i < blockDim.x ? first : keys[i];
    const bool commit = key >= least || (key > 0 && beside_the_order(p, b, i, owner));
    const bool write = commit || p.committed[row + i];
    if (write) write_x(p, b, p.position[row + i], p.token[row + i]);
    p.committed[row + i] = write;
    my_chosen += commit;
  }
  if (my_chosen > 0) atomicAdd(&chosen, my_chosen);
  __syncthreads();
  if (threadIdx.x == 0) {
    p.n_committed[b] = chosen;
    p.n_left[b] = masks - chosen;
    p.n_edited[b] = edited;
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_unmask_select__cuda(const tokenburst::UnmaskSelectParams* p,
                                             void* stream) {
  const int threads = tokenburst::order_threads(p->candidates);
  return tokenburst::launch(tokenburst::select_kernel, dim3(p->batch), dim3(threads), 0, stream,
                            *p);
}
