// Downwards a node takes its parent's mask and depth; upwards each node becomes the head of its
// parent's list of children, which leaves the lists in node order.
#include "common/parallel.h"
#include "tree/tree_build.h"

namespace tokenburst::TB_ISA {
namespace {

void build_sequence(const TreeBuildParams& p, int64_t b) {
  const int64_t row = b * p.nodes;
  const int64_t count = p.n_nodes[b] < p.nodes ? p.n_nodes[b] : p.nodes;
  int32_t* depth = p.depth + row;
  int32_t* first_child = p.first_child + row;
  int32_t* next_sibling = p.next_sibling + row;
  uint32_t* ancestors = p.ancestors + row * p.words;
  for (int64_t i = 0; i < p.nodes; ++i) {
    const int64_t parent = p.parent[row + i];
    const bool below = 0 <= parent && parent < i && depth[parent] >= 0;
    const bool is_node = i < count && (i == 0 || below);
    depth[i] = !is_node ? -1 : i == 0 ? 0 : depth[parent] + 1;
    first_child[i] = next_sibling[i] = -1;
    uint32_t* mask = ancestors + i * p.words;
    const uint32_t* above = is_node && i > 0 ? ancestors + parent * p.words : nullptr;
    for (int64_t w = 0; w < p.words; ++w) mask[w] = above ? above[w] : 0;
    if (is_node) mask[i / 32] |= 1u << (i % 32);
  }
  for (int64_t i = count - 1; i > 0; --i) {
    if (depth[i] < 0) continue;
    const int64_t parent = p.parent[row + i];
    next_sibling[i] = first_child[parent];
    first_child[parent] = static_cast<int32_t>(i);
  }
}

}  // namespace

void tree_build(const TreeBuildParams& p) {
  parallel_for(p.batch, 16, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) build_sequence(p, b);
  });
}

}  // namespace tokenburst::TB_ISA
