// In node order: a node's text is its parent's and its token, so it has been seen before exactly
// where an earlier child of the merged parent has the same token.
#include "common/parallel.h"
#include "tree/tree_merge.h"

namespace tokenburst::TB_ISA {
namespace {

void merge_sequence(const TreeMergeParams& p, int64_t b) {
  const int64_t row = b * p.nodes;
  int64_t* tokens = p.merged_tokens + row;
  int32_t* parent = p.merged_parent + row;
  int32_t* node = p.node + row;
  tokens[0] = p.tokens[row];
  parent[0] = -1;
  node[0] = 0;
  for (int64_t i = 1; i < p.nodes; ++i) {
    const int64_t up = p.parent[row + i], token = p.tokens[row + i];
    const bool is_node = token >= 0 && 0 <= up && up < i && node[up] >= 0;
    tokens[i] = -1;
    parent[i] = is_node ? node[up] : 0;
    node[i] = is_node ? static_cast<int32_t>(i) : -1;
    if (!is_node) continue;
    for (int32_t j = parent[i] + 1; j < i; ++j) {
      if (tokens[j] != token || parent[j] != parent[i]) continue;
      node[i] = j;
      break;
    }
    if (node[i] == i) tokens[i] = token;
  }
}

}  // namespace

void tree_merge(const TreeMergeParams& p) {
  parallel_for(p.batch, 8, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) merge_sequence(p, b);
  });
}

}  // namespace tokenburst::TB_ISA
