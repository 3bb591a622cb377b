#include "recycle/recycle_draft.h"

#include "recycle/recycle.h"

namespace tokenburst {
namespace {

void check_values(const Check& check, const RecycleDraftParams& p) {
  check_group(check, p.group, p.batch, p.groups);
  for (int64_t b = 0; b < p.batch; ++b) {
    check.that(
        -1 <= p.root[b] && p.root[b] < p.vocab, "root",
        [&] {
          return "-1 <= root < " + std::to_string(p.vocab) + " in sequence " + std::to_string(b);
        },
        p.root[b]);
  }
  for (int64_t i = 0; i < p.nodes; ++i) {
    const int64_t parent = p.parent[i];
    const auto node = [&] { return " at node " + std::to_string(i); };
    if (i == 0) {
      check.that(parent == -1, "parent", "-1 at the root (node 0)", parent);
      continue;
    }
    check.that(
        0 <= parent && parent < i, "parent",
        [&] { return "a topological order, 0 <= parent < " + std::to_string(i) + node(); }, parent);
    check.that(
        0 <= p.rank[i] && p.rank[i] < p.ranks, "rank",
        [&] { return "0 <= rank < " + std::to_string(p.ranks) + node(); }, p.rank[i]);
  }
}

}  // namespace

Tensor recycle_draft(const Tensor& adjacency, const Tensor& root, const Tensor& parent,
                     const Tensor& rank, const OptionalTensor& group) {
  const Check check("recycle_draft", adjacency, "adjacency");
  check.integer(root, "root", {any});
  const int64_t batch = root.size(0);
  check_adjacency(check, adjacency, group, batch);
  check.integer(parent, "parent", {any});
  const int64_t nodes = parent.size(0);
  check.integer(rank, "rank", {nodes});
  check.that(check.on_cpu() || nodes <= recycle_draft_max_cuda_nodes, "parent",
             "at most " + std::to_string(recycle_draft_max_cuda_nodes) + " nodes on a GPU", nodes);

  const Tensor root_ = packed(root), parent_ = packed(parent), rank_ = packed(rank);
  const OptionalTensor group_ = packed(group);
  const Tensor tokens = empty_like_device(root, {batch, nodes}, ScalarType::Long);
  const int64_t dims = adjacency.dim();
  const RecycleDraftParams params{
      .batch = batch,
      .nodes = nodes,
      .groups = dims == 3 ? adjacency.size(0) : 1,
      .vocab = adjacency.size(dims - 2),
      .ranks = adjacency.size(dims - 1),
      .adjacency = adjacency.const_data_ptr<int32_t>(),
      .group_stride = dims == 3 ? adjacency.stride(0) : 0,
      .token_stride = adjacency.stride(dims - 2),
      .root = ints(root_),
      .parent = ints(parent_),
      .rank = ints(rank_),
      .group = ints(group_),
      .tokens = tokens.mutable_data_ptr<int64_t>(),
  };
  if (check.on_cpu()) check_values(check, params);
  if (batch > 0 && nodes > 0) TB_LAUNCH(recycle_draft, params, check.device());
  return tokens;
}

}  // namespace tokenburst

TB_REGISTER(recycle_draft)
