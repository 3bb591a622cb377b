// One block per sequence, one thread per node, one round per level: every node of a level gathers
// at once, so the time is the tree's depth times one memory latency, not its size.
#include "common/cuda.cuh"
#include "recycle/recycle_draft.h"

namespace tokenburst {
namespace {

__global__ void draft_kernel(RecycleDraftParams p) {
  TB_DYNAMIC_SHARED(int32_t, parent);  // [nodes], -1 at the root and where the template is wrong
  int32_t* level = parent + p.nodes;   // [nodes]
  int32_t* token = level + p.nodes;    // [nodes]
  const int nodes = static_cast<int>(p.nodes);
  const int64_t b = blockIdx.x, row = b * p.nodes;
  const int64_t group = p.group.present() ? p.group[b] : 0, root = p.root[b];
  const bool is_token = 0 <= root && root < p.vocab;
  const bool known = is_token && 0 <= group && group < p.groups;
  const int32_t* matrix = p.adjacency + (known ? group * p.group_stride : 0);

  for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
    const int64_t up = p.parent[i];
    parent[i] = 0 < i && 0 <= up && up < i ? static_cast<int32_t>(up) : -1;
    token[i] = i == 0 && known ? static_cast<int32_t>(root) : -1;
    p.tokens[row + i] = i == 0 && is_token ? root : -1;
  }
  __syncthreads();

  int mine = 0;  // deepest level of this thread's nodes
  for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
    int depth = 0;
    for (int up = parent[i]; up >= 0; up = parent[up]) ++depth;
    level[i] = depth;
    mine = depth > mine ? depth : mine;
  }

  for (int round = 1; __syncthreads_or(mine >= round); ++round) {
    for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
      const int before = level[i] == round ? token[parent[i]] : -1;
      const int64_t rank = before >= 0 ? p.rank[i] : -1;
      if (rank < 0 || rank >= p.ranks) continue;
      const int32_t next = matrix[before * p.token_stride + rank];
      if (next < 0 || next >= p.vocab) continue;
      token[i] = next;
      p.tokens[row + i] = next;
    }
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_recycle_draft_cuda(const tokenburst::RecycleDraftParams* p, void* stream) {
  const int64_t rounded = (p->nodes + 31) / 32 * 32;
  const int threads = rounded < 1024 ? static_cast<int>(rounded) : 1024;
  return tokenburst::launch(tokenburst::draft_kernel, dim3(p->batch), dim3(threads),
                            3 * p->nodes * sizeof(int32_t), stream, *p);
}
