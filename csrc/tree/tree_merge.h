#pragma once
// Several drafts in one tree: nodes that stand for the same text become the first of them.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

// 16 bytes per node in shared memory; 3072 of them need no opt-in above 48 KB.
constexpr int64_t tree_merge_max_cuda_nodes = 3072;

struct TreeMergeParams {
  int64_t batch, nodes;
  Ints tokens;             // [batch, nodes], < 0 = no node
  Ints parent;             // [batch, nodes], parent[i] < i, -1 at the root
  int64_t* merged_tokens;  // [batch, nodes], -1 where node[i] != i
  int32_t* merged_parent;  // [batch, nodes], node[parent[i]], 0 at what is no node, -1 at the root
  int32_t* node;           // [batch, nodes], first node of the same text, -1 = no node
};

}  // namespace tokenburst

TB_KERNEL(tree_merge, tokenburst::TreeMergeParams);
