#include "common/parallel.h"
#include "recycle/recycle_draft.h"

namespace tokenburst::TB_ISA {
namespace {

void draft_sequence(const RecycleDraftParams& p, int64_t b) {
  const int32_t* matrix =
      p.adjacency + (p.group.present() ? p.group[b] * p.group_stride : int64_t{0});
  int64_t* tokens = p.tokens + b * p.nodes;
  tokens[0] = p.root[b];
  for (int64_t i = 1; i < p.nodes; ++i) {
    const int64_t before = tokens[p.parent[i]];
    const int64_t next = before < 0 ? -1 : matrix[before * p.token_stride + p.rank[i]];
    tokens[i] = 0 <= next && next < p.vocab ? next : -1;
  }
}

}  // namespace

void recycle_draft(const RecycleDraftParams& p) {
  parallel_for(p.batch, 16, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) draft_sequence(p, b);
  });
}

}  // namespace tokenburst::TB_ISA
