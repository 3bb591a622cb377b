#include "ngram/ngram_draft.h"

#include "ngram/ngram_check.h"

namespace tokenburst {
namespace {

void check_values(const Check& check, const NgramDraftParams& p) {
  check_start(check, p.text, p.batch);
  check_parents(check, p.parent, 1, p.text.nodes, Ints{nullptr, false});
  for (int64_t i = 1; i < p.text.nodes; ++i) {
    check.that(
        p.rank[i] >= 0, "rank", [&] { return "rank >= 0 at node " + std::to_string(i); },
        p.rank[i]);
  }
  for (int64_t b = 0; p.temperature && b < p.batch; ++b) {
    check.that(
        p.temperature[b] >= 0.0f, "temperature",
        [&] { return "temperature >= 0 in sequence " + std::to_string(b); }, p.temperature[b]);
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> ngram_draft(
    const Tensor& key, const Tensor& ids, const Tensor& probs, const Tensor& text,
    const Tensor& start, const Tensor& parent, const Tensor& rank,
    const OptionalTensor& temperature, const OptionalTensor& rng, int64_t most, int64_t least) {
  const Check check("ngram_draft", key, "key");
  check_table(check, key, ids, probs);
  check_in_place(check, key, "key");
  check_in_place(check, ids, "ids");
  check_in_place(check, probs, "probs");
  check.integer(text, "text", {any, any});
  const int64_t batch = text.size(0), width = ids.size(1);
  check.integer(start, "start", {batch});
  check.integer(parent, "parent", {any});
  const int64_t nodes = parent.size(0);
  check.integer(rank, "rank", {nodes});
  check.optional(&Check::float32, temperature, "temperature", {batch});
  check.optional(&Check::integer, rng, "rng", {batch, 3});
  check_contexts(check, most, least);
  check.that(check.on_cpu() || nodes <= ngram_draft_max_cuda_nodes, "parent",
             "at most " + std::to_string(ngram_draft_max_cuda_nodes) + " nodes on a GPU", nodes);

  const Tensor text_ = text.size(1) <= 1 || text.stride(1) != 1 ? packed(text) : text;
  const Tensor start_ = packed(start), parent_ = packed(parent), rank_ = packed(rank);
  const OptionalTensor temperature_ = packed(temperature), rng_ = packed(rng);
  const Tensor tokens = empty_like_device(key, {batch, nodes}, ScalarType::Long);
  const Tensor drawn = empty_like_device(key, {batch, nodes, width}, ScalarType::Long);
  const Tensor drawn_probs = empty_like_device(key, {batch, nodes, width}, ScalarType::Float);
  const NgramDraftParams params{
      .batch = batch,
      .slots = key.size(0),
      .width = width,
      .most = most,
      .least = least,
      .key = key.const_data_ptr<int64_t>(),
      .ids = ids.const_data_ptr<int32_t>(),
      .probs = probs.const_data_ptr<float>(),
      .text = {.capacity = text.size(1),
               .stride = text_.stride(0),
               .nodes = nodes,
               .text = ints(text_),
               .start = ints(start_)},
      .parent = ints(parent_),
      .rank = ints(rank_),
      .temperature = temperature_ ? temperature_->const_data_ptr<float>() : nullptr,
      .rng = ints(rng_),
      .tokens = tokens.mutable_data_ptr<int64_t>(),
      .drawn = drawn.mutable_data_ptr<int64_t>(),
      .drawn_probs = drawn_probs.mutable_data_ptr<float>(),
  };
  if (check.on_cpu()) check_values(check, params);
  if (batch > 0 && nodes > 0) TB_LAUNCH(ngram_draft, params, check.device());
  return {tokens, drawn, drawn_probs};
}

}  // namespace tokenburst

TB_REGISTER(ngram_draft)
