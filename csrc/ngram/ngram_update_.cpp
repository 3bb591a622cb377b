#include "ngram/ngram_update_.h"

#include "ngram/ngram_check.h"

namespace tokenburst {

void ngram_update_(const Tensor& key, const Tensor& count, const Tensor& ids, const Tensor& probs,
                   const Tensor& text, const Tensor& start, const Tensor& tokens,
                   const Tensor& parent, const Tensor& top_ids, const Tensor& top_probs,
                   const OptionalTensor& n_nodes, int64_t most, int64_t least) {
  const Check check("ngram_update_", key, "key");
  check_table(check, key, ids, probs);
  check.int32(count, "count", {key.size(0)});
  check_in_place(check, key, "key");
  check_in_place(check, count, "count");
  check_in_place(check, ids, "ids");
  check_in_place(check, probs, "probs");
  check.integer(tokens, "tokens", {any, any});
  const int64_t batch = tokens.size(0), nodes = tokens.size(1);
  check.integer(parent, "parent", {batch, nodes});
  check.integer(text, "text", {batch, any});
  check.integer(start, "start", {batch});
  check.integer(top_ids, "top_ids", {batch, nodes, any});
  check.float32(top_probs, "top_probs", {batch, nodes, top_ids.size(2)});
  check.optional(&Check::integer, n_nodes, "n_nodes", {batch});
  check_contexts(check, most, least);

  const Tensor text_ = text.size(1) <= 1 || text.stride(1) != 1 ? packed(text) : text;
  const Tensor start_ = packed(start), tokens_ = packed(tokens), parent_ = packed(parent),
               top_ids_ = packed(top_ids), top_probs_ = packed(top_probs);
  const OptionalTensor n_nodes_ = packed(n_nodes);
  NgramUpdateParams params{
      .batch = batch,
      .slots = key.size(0),
      .width = ids.size(1),
      .most = most,
      .least = least,
      .candidates = top_ids.size(2),
      .key = key.mutable_data_ptr<int64_t>(),
      .count = count.mutable_data_ptr<int32_t>(),
      .ids = ids.mutable_data_ptr<int32_t>(),
      .probs = probs.mutable_data_ptr<float>(),
      .text = {.capacity = text.size(1),
               .stride = text_.stride(0),
               .nodes = nodes,
               .text = ints(text_),
               .start = ints(start_)},
      .tokens = ints(tokens_),
      .parent = ints(parent_),
      .top_ids = ints(top_ids_),
      .top_probs = top_probs_.const_data_ptr<float>(),
      .n_nodes = ints(n_nodes_),
      .contexts = nullptr,
  };
  if (check.on_cpu()) {
    check_start(check, params.text, batch);
    check_parents(check, params.parent, batch, nodes, params.n_nodes);
  }
  const int64_t entries = batch * nodes * (most - least + 1);
  if (entries == 0) return;
  OptionalTensor contexts;
  if (!check.on_cpu()) {
    contexts = empty_like_device(key, {entries}, ScalarType::Long);
    params.contexts = reinterpret_cast<uint64_t*>(contexts->mutable_data_ptr<int64_t>());
  }
  TB_LAUNCH(ngram_update_, params, check.device());
}

}  // namespace tokenburst

TB_REGISTER(ngram_update_)
