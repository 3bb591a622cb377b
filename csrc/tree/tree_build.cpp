#include "tree/tree_build.h"

#include "tree/tree.h"

namespace tokenburst {

std::tuple<Tensor, Tensor, Tensor, Tensor> tree_build(const Tensor& parent, const Tensor& n_nodes) {
  const Check check("tree_build", parent, "parent");
  check.integer(parent, "parent", {any, any});
  const int64_t batch = parent.size(0), nodes = parent.size(1), words = (nodes + 31) / 32;
  check.integer(n_nodes, "n_nodes", {batch});
  check.that(check.on_cpu() || nodes <= tree_build_max_cuda_nodes, "parent",
             "at most " + std::to_string(tree_build_max_cuda_nodes) + " nodes on a GPU", nodes);

  const Tensor parent_ = packed(parent), n_nodes_ = packed(n_nodes);
  check_tree(check, ints(parent_), ints(n_nodes_), batch, nodes);

  const Tensor depth = empty_like_device(parent, {batch, nodes}, ScalarType::Int);
  const Tensor first_child = empty_like_device(parent, {batch, nodes}, ScalarType::Int);
  const Tensor next_sibling = empty_like_device(parent, {batch, nodes}, ScalarType::Int);
  const Tensor ancestors = empty_like_device(parent, {batch, nodes, words}, ScalarType::Int);
  const TreeBuildParams params{
      .batch = batch,
      .nodes = nodes,
      .words = words,
      .parent = ints(parent_),
      .n_nodes = ints(n_nodes_),
      .depth = depth.mutable_data_ptr<int32_t>(),
      .first_child = first_child.mutable_data_ptr<int32_t>(),
      .next_sibling = next_sibling.mutable_data_ptr<int32_t>(),
      .ancestors = reinterpret_cast<uint32_t*>(ancestors.mutable_data_ptr<int32_t>()),
  };
  if (batch > 0 && nodes > 0) TB_LAUNCH(tree_build, params, check.device());
  return {depth, first_child, next_sibling, ancestors};
}

}  // namespace tokenburst

TB_REGISTER(tree_build)
