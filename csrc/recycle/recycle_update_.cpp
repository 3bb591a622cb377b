#include "recycle/recycle_update_.h"

#include "recycle/recycle.h"

namespace tokenburst {
namespace {

void check_values(const Check& check, const RecycleUpdateParams& p) {
  check_group(check, p.group, p.batch, p.groups);
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t count = p.n_nodes.present() ? p.n_nodes[b] : p.nodes;
    check.that(
        0 <= count && count <= p.nodes, "n_nodes",
        [&] {
          return "0 <= n_nodes <= " + std::to_string(p.nodes) + " in sequence " + std::to_string(b);
        },
        count);
    for (int64_t e = b * p.nodes; e < b * p.nodes + count; ++e) {
      for (int64_t r = 0; r < p.ranks; ++r) {
        const int64_t id = p.ids[e * p.width + r];
        if (-1 <= id && id < p.vocab) continue;
        check.refuse("ids",
                     "-1 <= ids < " + std::to_string(p.vocab) + " at node " +
                         std::to_string(e - b * p.nodes) + " of sequence " + std::to_string(b),
                     std::to_string(id));
      }
    }
  }
}

}  // namespace

void recycle_update_(const Tensor& adjacency, const Tensor& tokens, const Tensor& ids,
                     const OptionalTensor& n_nodes, const OptionalTensor& group) {
  const Check check("recycle_update_", adjacency, "adjacency");
  check.integer(tokens, "tokens", {any, any});
  const int64_t batch = tokens.size(0), nodes = tokens.size(1);
  check_adjacency(check, adjacency, group, batch);
  check.not_expanded(adjacency, "adjacency");
  const int64_t dims = adjacency.dim(), ranks = adjacency.size(dims - 1);
  check.integer(ids, "ids", {batch, nodes, any});
  check.that(ids.size(2) >= ranks, "ids", "at least " + std::to_string(ranks) + " ids per node",
             ids.size(2));
  check.optional(&Check::integer, n_nodes, "n_nodes", {batch});

  const Tensor tokens_ = packed(tokens), ids_ = packed(ids);
  const OptionalTensor n_nodes_ = packed(n_nodes), group_ = packed(group);
  const RecycleUpdateParams params{
      .batch = batch,
      .nodes = nodes,
      .groups = dims == 3 ? adjacency.size(0) : 1,
      .vocab = adjacency.size(dims - 2),
      .ranks = ranks,
      .width = ids.size(2),
      .adjacency = adjacency.mutable_data_ptr<int32_t>(),
      .group_stride = dims == 3 ? adjacency.stride(0) : 0,
      .token_stride = adjacency.stride(dims - 2),
      .tokens = ints(tokens_),
      .ids = ints(ids_),
      .n_nodes = ints(n_nodes_),
      .group = ints(group_),
  };
  if (check.on_cpu()) check_values(check, params);
  if (batch > 0 && nodes > 0 && ranks > 0) TB_LAUNCH(recycle_update_, params, check.device());
}

}  // namespace tokenburst

TB_REGISTER(recycle_update_)
