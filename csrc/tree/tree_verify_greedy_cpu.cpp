// One pass in topological order: a node's depth on a matching path is its parent's plus one, or
// none.
#include "common/parallel.h"
#include "tree/tree_verify_greedy.h"

namespace tokenburst::TB_ISA {
namespace {

bool is_eos(const TreeVerifyGreedyParams& p, int64_t token) {
  for (int64_t e = 0; e < p.num_eos; ++e) {
    if (p.eos[e] == token) return true;
  }
  return false;
}

void verify_sequence(const TreeVerifyGreedyParams& p, int64_t b) {
  const int64_t row = b * p.nodes;
  const int64_t count = p.n_nodes[b] < p.nodes ? p.n_nodes[b] : p.nodes;
  int32_t* path = p.path + row;
  for (int64_t i = 0; i < p.nodes; ++i) path[i] = -1;
  if (count <= 0) {
    p.n_accepted[b] = 0;
    p.next_token[b] = -1;
    return;
  }
  auto* length =
      static_cast<int32_t*>(scratch(count * sizeof(int32_t)));  // of the path, 0 = no match
  int64_t best = 0;
  length[0] = 1;
  for (int64_t i = 1; i < count; ++i) {
    const int64_t parent = p.parent[row + i], token = p.tokens[row + i];
    const bool follows = 0 <= parent && parent < i && length[parent] > 0 && token >= 0 &&
                         token == p.argmax[(row + parent) * p.width] &&
                         !(parent > 0 && is_eos(p, p.tokens[row + parent]));
    length[i] = follows ? length[parent] + 1 : 0;
    if (length[i] > length[best]) best = i;
  }
  p.n_accepted[b] = length[best];
  p.next_token[b] = p.argmax[(row + best) * p.width];
  int64_t node = best;
  for (int32_t j = length[best] - 1; j >= 0; --j) {
    path[j] = static_cast<int32_t>(node);
    node = p.parent[row + node];
  }
}

}  // namespace

void tree_verify_greedy(const TreeVerifyGreedyParams& p) {
  parallel_for(p.batch, 64, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) verify_sequence(p, b);
  });
}

}  // namespace tokenburst::TB_ISA
