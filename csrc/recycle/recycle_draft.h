#pragma once
// Token Recycling, drafting: a tree template is filled with the tokens that followed before.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

// A node takes twelve bytes of shared memory; 4096 nodes need no opt-in above 48 KB.
constexpr int64_t recycle_draft_max_cuda_nodes = 4096;

struct RecycleDraftParams {
  int64_t batch, nodes, groups, vocab, ranks;
  const int32_t* adjacency;  // [groups, vocab, ranks], strides below, last dimension contiguous
  int64_t group_stride, token_stride;
  Ints root;        // [batch], -1 = no draft
  Ints parent;      // [nodes], parent[i] < i, -1 at the root
  Ints rank;        // [nodes], which successor of the parent's token; [0] is not read
  Ints group;       // [batch], may be absent: all of matrix 0
  int64_t* tokens;  // [batch, nodes], -1 = no token
};

}  // namespace tokenburst

TB_KERNEL(recycle_draft, tokenburst::RecycleDraftParams);
