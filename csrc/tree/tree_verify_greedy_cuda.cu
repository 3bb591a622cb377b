// One block per sequence, one thread per node. A node matches if every edge on its way up matches,
// so each thread walks up alone; the deepest node, lowest index first, wins by one atomicMax on a
// packed key and writes its path.
#include "common/cuda.cuh"
#include "tree/tree_verify_greedy.h"

namespace tokenburst {
namespace {

// Length of the path that ends in node i, 0 unless all of it is what the target would have written.
__device__ int path_length(const TreeVerifyGreedyParams& p, int64_t row, int64_t i) {
  int length = 1;
  while (i > 0) {
    const int64_t parent = p.parent[row + i], token = p.tokens[row + i];
    if (parent < 0 || parent >= i || token < 0 || token != p.argmax[(row + parent) * p.width])
      return 0;
    if (parent > 0) {
      const int64_t before = p.tokens[row + parent];
      for (int64_t e = 0; e < p.num_eos; ++e) {
        if (p.eos[e] == before) return 0;
      }
    }
    i = parent;
    ++length;
  }
  return length;
}

__global__ void verify_kernel(TreeVerifyGreedyParams p) {
  __shared__ unsigned long long best;
  const int64_t b = blockIdx.x, row = b * p.nodes;
  const int64_t given = p.n_nodes[b];
  const int64_t count = given < p.nodes ? given : p.nodes;
  if (threadIdx.x == 0) best = 0;
  __syncthreads();

  for (int64_t i = threadIdx.x; i < p.nodes; i += blockDim.x) {
    p.path[row + i] = -1;
    const int length = i < count ? path_length(p, row, i) : 0;
    // Longer first, then the lower node.
    const auto key =
        static_cast<unsigned long long>(length) << 32 | (0xffffffffu - static_cast<unsigned>(i));
    if (length > 0) atomicMax(&best, key);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;

  const int length = static_cast<int>(best >> 32);
  p.n_accepted[b] = length;
  if (length == 0) {
    p.next_token[b] = -1;
    return;
  }
  int64_t node = 0xffffffffu - static_cast<unsigned>(best);
  p.next_token[b] = p.argmax[(row + node) * p.width];
  for (int j = length - 1; j >= 0; --j) {
    p.path[row + j] = static_cast<int32_t>(node);
    node = p.parent[row + node];
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_tree_verify_greedy_cuda(const tokenburst::TreeVerifyGreedyParams* p,
                                                 void* stream) {
  const int threads = p->nodes <= 32 ? 32 : p->nodes <= 128 ? 128 : 256;
  return tokenburst::launch(tokenburst::verify_kernel, dim3(p->batch), dim3(threads), 0, stream,
                            *p);
}
