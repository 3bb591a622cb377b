// One thread, in (batch, node) order: among equal tokens the last writer is the one that must win.
#include "recycle/recycle_update_.h"

namespace tokenburst::TB_ISA {

void recycle_update_(const RecycleUpdateParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t count = p.n_nodes.present() ? p.n_nodes[b] : p.nodes;
    int32_t* matrix = p.adjacency + (p.group.present() ? p.group[b] * p.group_stride : int64_t{0});
    for (int64_t e = b * p.nodes; e < b * p.nodes + count; ++e) {
      const int64_t token = p.tokens[e];
      if (token < 0 || token >= p.vocab || p.ids[e * p.width] < 0) continue;
      int32_t* row = matrix + token * p.token_stride;
      for (int64_t r = 0; r < p.ranks; ++r) row[r] = static_cast<int32_t>(p.ids[e * p.width + r]);
    }
  }
}

}  // namespace tokenburst::TB_ISA
