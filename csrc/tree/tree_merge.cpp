#include "tree/tree_merge.h"

#include "tree/tree.h"

namespace tokenburst {

std::tuple<Tensor, Tensor, Tensor> tree_merge(const Tensor& tokens, const Tensor& parent) {
  const Check check("tree_merge", tokens, "tokens");
  check.integer(tokens, "tokens", {any, any});
  const int64_t batch = tokens.size(0), nodes = tokens.size(1);
  check.integer(parent, "parent", {batch, nodes});
  check.that(check.on_cpu() || nodes <= tree_merge_max_cuda_nodes, "tokens",
             "at most " + std::to_string(tree_merge_max_cuda_nodes) + " nodes on a GPU", nodes);

  const Tensor tokens_ = packed(tokens), parent_ = packed(parent);
  check_parents(check, ints(parent_), batch, nodes);

  const Tensor merged_tokens = empty_like_device(tokens, {batch, nodes}, ScalarType::Long);
  const Tensor merged_parent = empty_like_device(tokens, {batch, nodes}, ScalarType::Int);
  const Tensor node = empty_like_device(tokens, {batch, nodes}, ScalarType::Int);
  const TreeMergeParams params{
      .batch = batch,
      .nodes = nodes,
      .tokens = ints(tokens_),
      .parent = ints(parent_),
      .merged_tokens = merged_tokens.mutable_data_ptr<int64_t>(),
      .merged_parent = merged_parent.mutable_data_ptr<int32_t>(),
      .node = node.mutable_data_ptr<int32_t>(),
  };
  if (batch > 0 && nodes > 0) TB_LAUNCH(tree_merge, params, check.device());
  return {merged_tokens, merged_parent, node};
}

}  // namespace tokenburst

TB_REGISTER(tree_merge)
