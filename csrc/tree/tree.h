#pragma once
// What the front doors of this room ask of a tree when its values can be read on the host.
#include "common/check.h"

namespace tokenburst {

// The first `count` parents of sequence b stand in topological order.
inline void check_parents_of(const Check& check, const Ints& parent, int64_t b, int64_t nodes,
                             int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t p = parent[b * nodes + i];
    const bool topological = i == 0 ? p == -1 : 0 <= p && p < i;
    const auto expected = [&] {
      const std::string node = std::to_string(i), sequence = " of sequence " + std::to_string(b);
      if (i == 0) return "-1 at the root (node 0)" + sequence;
      return "a topological order, 0 <= parent < " + node + " at node " + node + sequence;
    };
    check.that(topological, "parent", expected, p);
  }
}

// CPU tensors: parents topological, all `nodes` of them.
inline void check_parents(const Check& check, const Ints& parent, int64_t batch, int64_t nodes) {
  if (!check.on_cpu()) return;
  for (int64_t b = 0; b < batch; ++b) check_parents_of(check, parent, b, nodes, nodes);
}

// CPU tensors: parents topological, node counts in range. On a GPU the values stay on the device,
// and the kernels treat a node with an impossible parent as no node.
inline void check_tree(const Check& check, const Ints& parent, const Ints& n_nodes, int64_t batch,
                       int64_t nodes) {
  if (!check.on_cpu()) return;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t count = n_nodes[b];
    check.that(
        0 <= count && count <= nodes, "n_nodes",
        [&] {
          return "0 <= n_nodes <= " + std::to_string(nodes) + " in sequence " + std::to_string(b);
        },
        count);
    check_parents_of(check, parent, b, nodes, count);
  }
}

}  // namespace tokenburst
