#pragma once
// The shape of a draft tree, from its parents: depths, child and sibling links, ancestor masks.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

// Node indices of one tree stand in shared memory twice; 4096 of them need no opt-in above 48 KB.
constexpr int64_t tree_build_max_cuda_nodes = 4096;

struct TreeBuildParams {
  int64_t batch, nodes, words;  // words = ceil(nodes / 32)
  Ints parent;                  // [batch, nodes], parent[i] < i, -1 at the root
  Ints n_nodes;                 // [batch]
  int32_t* depth;               // [batch, nodes], 0 at the root, -1 = no node
  int32_t* first_child;         // [batch, nodes], lowest child, -1 = none
  int32_t* next_sibling;        // [batch, nodes], next higher child of the same parent, -1 = none
  uint32_t* ancestors;  // [batch, nodes, words], bit j % 32 of word j / 32: j is i or above i
};

}  // namespace tokenburst

TB_KERNEL(tree_build, tokenburst::TreeBuildParams);
