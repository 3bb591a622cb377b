// One block per sequence, as in unmask_select_. Spans may overlap, so positions are marked first
// and written by whoever has them after that.
#include "unmask/order.cuh"
#include "unmask/unmask_remask_.h"

namespace tokenburst {
namespace {

__device__ uint64_t least_chosen(const UnmaskRemaskParams& p, int64_t b, const uint64_t* keys,
                                 uint64_t first) {
  const int64_t n = p.candidates, k = p.top_k.present() ? p.top_k[b] : 0;
  uint64_t least = below_key(p, b);
  if (count_from(keys, n, first, least) < k) {
    least = count_from(keys, n, first, 1) <= k ? 1 : kth_largest(keys, n, first, k);
  }
  if (!p.most.present() || count_from(keys, n, first, least) <= p.most[b]) return least;
  return p.most[b] < 1 ? ~static_cast<uint64_t>(0) : kth_largest(keys, n, first, p.most[b]);
}

__global__ void remask_kernel(UnmaskRemaskParams p) {
  __shared__ int count;
  const int64_t b = blockIdx.x, row = b * p.candidates;
  int32_t* owner = p.owner + b * p.length;
  uint64_t* keys = p.keys + row;
  if (threadIdx.x == 0) count = 0;

  // Of the candidates for one position only the first takes part.
  for (int64_t i = threadIdx.x; i < p.length; i += blockDim.x) owner[i] = unowned;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
    const int64_t position = decided_position(p, b, i);
    if (position >= 0) atomicMin(owner + position, static_cast<int>(i));
  }
  __syncthreads();

  uint64_t first = 0;
  for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
    const int64_t position = decided_position(p, b, i);
    const bool takes_part = position >= 0 && owner[position] == i;
    const uint64_t key = takes_part ? remask_key(p, b, i, position) : 0;
    if (i < blockDim.x) {
      first = key;
    } else {
      keys[i] = key;
    }
    p.remasked[row + i] = takes_part && chanced(p, b, i, position);
  }
  __syncthreads();  // owner and x are written below
  const uint64_t least = least_chosen(p, b, keys, first);
  int mine = 0;
  for (int64_t i = threadIdx.x; i < p.candidates; i += blockDim.x) {
    const bool remask = p.remasked[row + i] || (i < blockDim.x ? first : keys[i]) >= least;
    p.remasked[row + i] = remask;
    mine += remask;
    for (int64_t j = 0; remask && j < p.span; ++j) {
      atomicExch(owner + p.position[row + i] + j, opened);
    }
  }
  if (mine > 0) atomicAdd(&count, mine);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < p.length; i += blockDim.x) {
    if (owner[i] == opened) write_x(p, b, i, p.mask_id);
  }
  if (threadIdx.x == 0) p.n_remasked[b] = count;
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_unmask_remask__cuda(const tokenburst::UnmaskRemaskParams* p,
                                             void* stream) {
  return tokenburst::launch(tokenburst::remask_kernel, dim3(p->batch),
                            dim3(tokenburst::order_threads(p->candidates)), 0, stream, *p);
}
