#pragma once
// Token Recycling, learning: every verified node, rejected or not, teaches what follows its token.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

struct RecycleUpdateParams {
  int64_t batch, nodes, groups, vocab, ranks;
  int64_t width;       // of a row of ids, >= ranks
  int32_t* adjacency;  // [groups, vocab, ranks], strides below, last dimension contiguous
  int64_t group_stride, token_stride;
  Ints tokens;   // [batch, nodes], outside 0 .. vocab - 1 = takes no part
  Ints ids;      // [batch, nodes, width], best first, -1 = none; first one -1 = takes no part
  Ints n_nodes;  // [batch], may be absent: all nodes
  Ints group;    // [batch], may be absent: all of matrix 0
};

}  // namespace tokenburst

TB_KERNEL(recycle_update_, tokenburst::RecycleUpdateParams);
