#pragma once
// What the front doors of the table's two ops ask alike.
#include "common/check.h"
#include "ngram/ngram.h"

namespace tokenburst {

inline void check_table(const Check& check, const Tensor& key, const Tensor& ids,
                        const Tensor& probs) {
  check.int64(key, "key", {any});
  const int64_t slots = key.size(0), buckets = slots / ngram_ways;
  check.that(slots > 0 && slots % ngram_ways == 0 && (buckets & (buckets - 1)) == 0, "key",
             "8, 16, 32, ... slots, a power of two", slots);
  check.int32(ids, "ids", {slots, any});
  check.that(1 <= ids.size(1) && ids.size(1) <= ngram_max_width, "ids",
             "1 to " + std::to_string(ngram_max_width) + " tokens per slot", ids.size(1));
  check.float32(probs, "probs", {slots, ids.size(1)});
}

// Tables are read and written where they lie.
inline void check_in_place(const Check& check, const Tensor& t, const char* name) {
  check.that(t.is_contiguous(), name, "a contiguous tensor", "strides");
}

inline void check_contexts(const Check& check, int64_t most, int64_t least) {
  check.that(1 <= least, "least", "least >= 1", least);
  check.that(least <= most && most <= ngram_max_context, "most",
             std::to_string(least) + " (least) <= most <= " + std::to_string(ngram_max_context),
             most);
}

inline void check_start(const Check& check, const NgramText& t, int64_t batch) {
  for (int64_t b = 0; b < batch; ++b) {
    check.that(
        0 <= t.start[b] && t.start[b] <= t.capacity, "start",
        [&] {
          return "0 <= start <= " + std::to_string(t.capacity) + " in sequence " +
                 std::to_string(b);
        },
        t.start[b]);
  }
}

inline void check_parents(const Check& check, const Ints& parent, int64_t batch, int64_t nodes,
                          const Ints& n_nodes) {
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t count = n_nodes.present() ? n_nodes[b] : nodes;
    check.that(0 <= count && count <= nodes, "n_nodes",
               "0 <= n_nodes <= " + std::to_string(nodes) + " in sequence " + std::to_string(b),
               count);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t up = parent[b * nodes + i];
      check.that(
          i == 0 ? up == -1 : 0 <= up && up < i, "parent",
          [&] {
            return "a topological order, -1 at node 0, else 0 <= parent < node, at node " +
                   std::to_string(i) + " of sequence " + std::to_string(b);
          },
          up);
    }
  }
}

}  // namespace tokenburst
