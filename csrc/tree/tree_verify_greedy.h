#pragma once
// Greedy verification: the deepest node whose whole path the target model would have written
// itself.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

struct TreeVerifyGreedyParams {
  int64_t batch, nodes, width, num_eos;
  Ints tokens;          // [batch, nodes], -1 = no token, never accepted
  Ints argmax;          // [batch, nodes, width], the first is the target's choice; -1 = none
  Ints parent;          // [batch, nodes], parent[i] < i, -1 at the root
  Ints n_nodes;         // [batch], 0 = sequence takes no part
  Ints eos;             // [num_eos], may be absent
  int32_t* path;        // [batch, nodes], -1 past the accepted nodes
  int32_t* n_accepted;  // [batch]
  int64_t* next_token;  // [batch], -1 if n_nodes is 0
};

}  // namespace tokenburst

TB_KERNEL(tree_verify_greedy, tokenburst::TreeVerifyGreedyParams);
