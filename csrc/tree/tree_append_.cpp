#include "tree/tree_append_.h"

#include <algorithm>

#include "common/check.h"

namespace tokenburst {
namespace {

void check_values(const Check& check, const TreeAppendParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const auto within = [b](const char* range, int64_t most) {
      return [=] { return range + std::to_string(most) + " in sequence " + std::to_string(b); };
    };
    check.that(0 <= p.length[b] && p.length[b] <= p.capacity, "length",
               within("0 <= length <= ", p.capacity), p.length[b]);
    const int64_t count = p.n_accepted[b];
    check.that(0 <= count && count <= p.nodes, "n_accepted", within("0 <= n_accepted <= ", p.nodes),
               count);
    for (int64_t j = 1; j < count; ++j) {
      const int64_t node = p.path[b * p.nodes + j];
      check.that(0 <= node && node < p.nodes, "path", within("0 <= path < ", p.nodes), node);
    }
  }
}

}  // namespace

Tensor tree_append_(const Tensor& text, const Tensor& length, const Tensor& root,
                    const Tensor& active, const Tensor& rng, const Tensor& end,
                    const Tensor& tokens, const Tensor& path, const Tensor& n_accepted,
                    const Tensor& next_token, const OptionalTensor& eos,
                    const OptionalTensor& kv_len) {
  const Check check("tree_append_", text, "text");
  check.int64(text, "text", {any, any});
  check.last_dim_contiguous(text, "text");
  check.not_expanded(text, "text");
  const int64_t batch = text.size(0);
  check.int32(length, "length", {batch});
  check.int64(root, "root", {batch});
  check.boolean(active, "active", {batch});
  check.int64(rng, "rng", {batch, 3});
  check.optional(&Check::int32, kv_len, "kv_len", {batch});
  const auto contiguous = [&](const Tensor& t, const char* name) {
    check.that(t.is_contiguous(), name, "a contiguous tensor", "other strides");
  };
  contiguous(length, "length");
  contiguous(root, "root");
  contiguous(active, "active");
  contiguous(rng, "rng");
  if (kv_len) contiguous(*kv_len, "kv_len");
  check.integer(end, "end", {batch});
  check.integer(tokens, "tokens", {batch, any});
  const int64_t nodes = tokens.size(1);
  check.integer(path, "path", {batch, nodes});
  check.integer(n_accepted, "n_accepted", {batch});
  check.integer(next_token, "next_token", {batch});
  check.optional(&Check::integer, eos, "eos", {any});

  const Tensor end_ = packed(end), tokens_ = packed(tokens), path_ = packed(path),
               n_accepted_ = packed(n_accepted), next_token_ = packed(next_token);
  const OptionalTensor eos_ = packed(eos);
  const Tensor taken = empty_like_device(text, {batch}, ScalarType::Int);
  const TreeAppendParams params{
      .batch = batch,
      .nodes = nodes,
      .capacity = text.size(1),
      .num_eos = eos_ ? eos_->numel() : 0,
      .text = text.mutable_data_ptr<int64_t>(),
      .text_stride = text.stride(0),
      .length = length.mutable_data_ptr<int32_t>(),
      .root = root.mutable_data_ptr<int64_t>(),
      .active = active.mutable_data_ptr<bool>(),
      .rng = rng.mutable_data_ptr<int64_t>(),
      .kv_len = kv_len ? kv_len->mutable_data_ptr<int32_t>() : nullptr,
      .end = ints(end_),
      .tokens = ints(tokens_),
      .path = ints(path_),
      .n_accepted = ints(n_accepted_),
      .next_token = ints(next_token_),
      .eos = ints(eos_),
      .taken = taken.mutable_data_ptr<int32_t>(),
  };
  if (check.on_cpu()) check_values(check, params);
  if (batch > 0) TB_LAUNCH(tree_append_, params, check.device());
  return taken;
}

}  // namespace tokenburst

TB_REGISTER(tree_append_)
