// One block per sequence, one thread per node. Parents stand in shared memory, where each thread
// walks up to the root on its own: indices only fall on the way, so the words of its mask are
// finished one after the other, highest first.
#include "common/cuda.cuh"
#include "tree/tree_build.h"

namespace tokenburst {
namespace {

constexpr int32_t no_node = -2;

__global__ void build_kernel(TreeBuildParams p) {
  TB_DYNAMIC_SHARED(int32_t, given);  // [nodes], parents as they came
  int32_t* parent = given + p.nodes;  // [nodes], no_node also where a node above is none
  const int nodes = static_cast<int>(p.nodes), words = static_cast<int>(p.words);
  const int64_t b = blockIdx.x, row = b * p.nodes, count = p.n_nodes[b];

  for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
    const int64_t up = i == 0 ? -1 : p.parent[row + i];
    const bool possible = i < count && (i == 0 || (0 <= up && up < i));
    given[i] = possible ? static_cast<int32_t>(up) : no_node;
  }
  __syncthreads();

  for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
    int depth = -1, top = i;
    while (top >= 0) {
      top = given[top];
      ++depth;
    }
    const bool is_node = top != no_node;
    parent[i] = is_node ? given[i] : no_node;
    p.depth[row + i] = is_node ? depth : -1;

    uint32_t* mask = p.ancestors + (row + i) * words;
    int node = is_node ? i : -1;
    for (int w = words - 1; w >= 0; --w) {
      uint32_t word = 0;
      for (; node >= 32 * w; node = given[node]) word |= 1u << (node - 32 * w);
      mask[w] = word;
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
    const int up = parent[i];
    int first = -1, next = -1;
    for (int j = i + 1; j < nodes && (first < 0 || next < 0); ++j) {
      const int other = parent[j];
      if (first < 0 && other == i) first = j;
      if (next < 0 && up >= 0 && other == up) next = j;
    }
    p.first_child[row + i] = first;
    p.next_sibling[row + i] = next;
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_tree_build_cuda(const tokenburst::TreeBuildParams* p, void* stream) {
  const int64_t rounded = (p->nodes + 31) / 32 * 32;
  const int threads = rounded < 1024 ? static_cast<int>(rounded) : 1024;
  return tokenburst::launch(tokenburst::build_kernel, dim3(p->batch), dim3(threads),
                            2 * p->nodes * sizeof(int32_t), stream, *p);
}
