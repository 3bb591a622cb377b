// One block per sequence, one thread per node, one round per level: nodes can be equal only where
// their merged parents are, so a level is decided when the one above it is.
#include "common/cuda.cuh"
#include "tree/tree_merge.h"

namespace tokenburst {
namespace {

__global__ void merge_kernel(TreeMergeParams p) {
  TB_DYNAMIC_SHARED(int64_t, token);                              // [nodes], -1 = no node
  int32_t* parent = reinterpret_cast<int32_t*>(token + p.nodes);  // [nodes], merged level by level
  int32_t* level = parent + p.nodes;                              // [nodes], -1 = no node
  const int nodes = static_cast<int>(p.nodes);
  const int64_t b = blockIdx.x, row = b * p.nodes;

  for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
    const int64_t up = p.parent[row + i], given = p.tokens[row + i];
    const bool possible = i > 0 && given >= 0 && 0 <= up && up < i;
    token[i] = i == 0 || possible ? given : -1;
    parent[i] = possible ? static_cast<int32_t>(up) : -1;
  }
  __syncthreads();

  int deepest = 0;  // level of this thread's nodes
  for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
    int depth = 0, top = i;
    for (; parent[top] >= 0; top = parent[top]) ++depth;
    level[i] = top == 0 ? depth : -1;  // hangs on the root
    deepest = top == 0 && depth > deepest ? depth : deepest;
    p.node[row + i] = top == 0 ? i : -1;
    p.merged_parent[row + i] = i == 0 ? -1 : 0;
    p.merged_tokens[row + i] = i == 0 ? token[0] : -1;
  }
  __syncthreads();

  // In round r the nodes of level r have their merged parent in `parent`, whose own merging is
  // known; they find the first of their kind and hand it to their children through `node`.
  for (int round = 1; __syncthreads_or(deepest >= round); ++round) {
    for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
      if (level[i] == round) parent[i] = p.node[row + parent[i]];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
      if (level[i] != round) continue;
      int first = parent[i] + 1;
      while (level[first] != round || parent[first] != parent[i] || token[first] != token[i]) {
        ++first;  // ends at i
      }
      p.node[row + i] = first;
      p.merged_parent[row + i] = parent[i];
      if (first == i) p.merged_tokens[row + i] = token[i];
    }
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_tree_merge_cuda(const tokenburst::TreeMergeParams* p, void* stream) {
  const int64_t rounded = (p->nodes + 31) / 32 * 32;
  const int threads = rounded < 1024 ? static_cast<int>(rounded) : 1024;
  return tokenburst::launch(tokenburst::merge_kernel, dim3(p->batch), dim3(threads),
                            p->nodes * (sizeof(int64_t) + 2 * sizeof(int32_t)), stream, *p);
}
