#pragma once
// What both ops ask of the adjacency matrices: row t of a matrix holds the K tokens that last
// followed token t, best first, -1 where none has been seen.
#include "common/check.h"

namespace tokenburst {

// [V, K], or [G, V, K] and then a group [batch] that chooses each sequence's matrix.
inline void check_adjacency(const Check& check, const Tensor& adjacency,
                            const OptionalTensor& group, int64_t batch) {
  const bool grouped = adjacency.dim() == 3;
  if (grouped) {
    check.int32(adjacency, "adjacency", {any, any, any});
  } else {
    check.int32(adjacency, "adjacency", {any, any});
  }
  check.last_dim_contiguous(adjacency, "adjacency");
  check.that(
      grouped == group.has_value(), "group",
      grouped ? "an index per sequence beside adjacency [G, V, K]" : "none beside adjacency [V, K]",
      group ? shape_of(*group) : "none");
  check.optional(&Check::integer, group, "group", {batch});
}

inline void check_group(const Check& check, const Ints& group, int64_t batch, int64_t groups) {
  for (int64_t b = 0; group.present() && b < batch; ++b) {
    check.that(
        0 <= group[b] && group[b] < groups, "group",
        [&] {
          return "0 <= group < " + std::to_string(groups) + " in sequence " + std::to_string(b);
        },
        group[b]);
  }
}

}  // namespace tokenburst
