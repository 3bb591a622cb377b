#include "tree/tree_verify_greedy.h"

#include "tree/tree.h"

namespace tokenburst {

std::tuple<Tensor, Tensor, Tensor> tree_verify_greedy(const Tensor& tokens, const Tensor& argmax,
                                                      const Tensor& parent, const Tensor& n_nodes,
                                                      const OptionalTensor& eos) {
  const Check check("tree_verify_greedy", tokens, "tokens");
  check.integer(tokens, "tokens", {any, any});
  const int64_t batch = tokens.size(0), nodes = tokens.size(1);
  const bool ranked = argmax.dim() == 3;  // the best tokens, best first
  if (ranked) {
    check.integer(argmax, "argmax", {batch, nodes, any});
    check.that(argmax.size(2) > 0, "argmax", "at least one token per node", 0);
  } else {
    check.integer(argmax, "argmax", {batch, nodes});
  }
  check.integer(parent, "parent", {batch, nodes});
  check.integer(n_nodes, "n_nodes", {batch});
  check.optional(&Check::integer, eos, "eos", {any});

  const Tensor tokens_ = packed(tokens), argmax_ = packed(argmax), parent_ = packed(parent),
               n_nodes_ = packed(n_nodes);
  const OptionalTensor eos_ = packed(eos);
  check_tree(check, ints(parent_), ints(n_nodes_), batch, nodes);

  const Tensor path = empty_like_device(tokens, {batch, nodes}, ScalarType::Int);
  const Tensor n_accepted = empty_like_device(tokens, {batch}, ScalarType::Int);
  const Tensor next_token = empty_like_device(tokens, {batch}, ScalarType::Long);
  const TreeVerifyGreedyParams params{
      .batch = batch,
      .nodes = nodes,
      .width = ranked ? argmax.size(2) : 1,
      .num_eos = eos_ ? eos_->numel() : 0,
      .tokens = ints(tokens_),
      .argmax = ints(argmax_),
      .parent = ints(parent_),
      .n_nodes = ints(n_nodes_),
      .eos = ints(eos_),
      .path = path.mutable_data_ptr<int32_t>(),
      .n_accepted = n_accepted.mutable_data_ptr<int32_t>(),
      .next_token = next_token.mutable_data_ptr<int64_t>(),
  };
  if (batch > 0) TB_LAUNCH(tree_verify_greedy, params, check.device());
  return {path, n_accepted, next_token};
}

}  // namespace tokenburst

TB_REGISTER(tree_verify_greedy)
