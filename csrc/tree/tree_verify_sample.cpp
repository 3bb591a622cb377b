#include "tree/tree_verify_sample.h"

#include <cmath>

#include "common/weights.h"
#include "tree/tree.h"

namespace tokenburst {
namespace {

constexpr const char* mode_names[] = {"walk",  "rrs",           "rrs_wr",       "kseq",
                                      "block", "lossy_typical", "lossy_grouped"};

VerifyMode mode_of(const Check& check, const std::string& name) {
  for (int32_t i = 0; i < 7; ++i) {
    if (name == mode_names[i]) return static_cast<VerifyMode>(i);
  }
  check.refuse("mode",
               "'walk', 'rrs', 'rrs_wr', 'kseq', 'block', 'lossy_typical' or 'lossy_grouped'",
               "'" + name + "'");
}

template <class Holds>
void check_each(const Check& check, const float* values, int64_t n, const char* name,
                const char* expected, Holds holds) {
  for (int64_t i = 0; values && i < n; ++i) {
    check.that(
        holds(values[i]), name,
        [&] { return std::string(expected) + " in sequence " + std::to_string(i); }, values[i]);
  }
}

// Draft rows that a draw names, and their probabilities.
void check_drafts(const Check& check, const TreeVerifySampleParams& p) {
  for (int64_t i = 0; p.draws.present() && i < p.batch * p.num_draws; ++i) {
    check.that(
        -1 <= p.draws[i] && p.draws[i] < p.nodes, "draws",
        [&] {
          return "-1 <= node < " + std::to_string(p.nodes) + " in sequence " +
                 std::to_string(i / p.num_draws);
        },
        p.draws[i]);
  }
  for (int64_t i = 0; p.draft_row.present() && i < p.batch * p.num_draws; ++i) {
    check.that(
        -1 <= p.draft_row[i] && p.draft_row[i] < p.draft_rows, "draft_row",
        [&] {
          return "-1 <= row < " + std::to_string(p.draft_rows) + " in sequence " +
                 std::to_string(i / p.num_draws);
        },
        p.draft_row[i]);
  }
  if (!p.draft_probs) return;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t m = 0; m < p.num_draws; ++m) {
      const int64_t node = p.draws.present() ? p.draws[b * p.num_draws + m] : m;
      if (node < 1 || node >= p.n_nodes[b] || p.tokens[b * p.nodes + node] < 0) continue;
      const int64_t row =
          p.draft_row.present() ? p.draft_row[b * p.num_draws + m] : p.parent[b * p.nodes + node];
      if (row < 0 || row >= p.draft_rows) continue;
      const int64_t first = (b * p.draft_rows + row) * p.draft_width;
      double sum = 0.0, mine = 0.0;
      bool proper = true;
      for (int64_t i = first; i < first + p.draft_width; ++i) {
        const float prob = p.draft_probs[i];
        proper = proper && prob >= 0.0f;
        if (p.draft_ids[i] >= 0 && p.draft_ids[i] < p.vocab) sum += prob;
        if (p.draft_ids[i] == p.tokens[b * p.nodes + node]) mine += prob;
      }
      const auto where = [&] {
        return " in row " + std::to_string(row) + " of sequence " + std::to_string(b);
      };
      check.that(
          proper && std::fabs(sum - 1.0) < 1e-3, "draft_probs",
          [&] { return "probabilities that sum to 1" + where(); }, sum);
      check.that(
          mine > 0.0, "draft_probs",
          [&] {
            return "a probability > 0 of the token of node " + std::to_string(node) + where();
          },
          mine);
    }
  }
}

void check_values(const Check& check, const TreeVerifySampleParams& p) {
  if (!check.on_cpu()) return;
  check_tree(check, p.parent, p.n_nodes, p.batch, p.nodes);
  check_each(check, p.temperature, p.batch, "temperature", "a number >= 0",
             [](float t) { return t >= 0.0f; });
  check_each(check, p.top_p, p.batch, "top_p", "0 <= top_p <= 1",
             [](float t) { return 0.0f <= t && t <= 1.0f; });
  check_each(check, p.min_p, p.batch, "min_p", "0 <= min_p <= 1",
             [](float t) { return 0.0f <= t && t <= 1.0f; });
  check_each(check, p.penalty, p.batch, "repetition_penalty", "a finite number > 0",
             [](float t) { return t > 0.0f && std::isfinite(t); });
  check_each(check, p.draft_temperature, p.batch, "draft_temperature", "a number >= 0",
             [](float t) { return t >= 0.0f; });
  for (int64_t b = 0; p.top_k.present() && b < p.batch; ++b) {
    check.that(
        p.top_k[b] >= 0, "top_k", [&] { return "top_k >= 0 in sequence " + std::to_string(b); },
        p.top_k[b]);
  }
  check_drafts(check, p);
  for (int64_t b = 0; p.mode == VerifyMode::block && b < p.batch; ++b) {
    for (int64_t i = 1; i < p.n_nodes[b]; ++i) {
      check.that(
          p.parent[b * p.nodes + i] == i - 1, "parent",
          [&] { return "a chain (mode 'block') in sequence " + std::to_string(b); },
          p.parent[b * p.nodes + i]);
    }
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> tree_verify_sample(
    const Tensor& tokens, const Tensor& parent, const Tensor& n_nodes, const Tensor& logits,
    const std::string& mode, const Tensor& rng, const OptionalTensor& temperature,
    const OptionalTensor& top_k, const OptionalTensor& top_p, const OptionalTensor& min_p,
    const OptionalTensor& repetition_penalty, const OptionalTensor& seen,
    const OptionalTensor& draft_logits, const OptionalTensor& draft_temperature,
    const OptionalTensor& draft_ids, const OptionalTensor& draft_probs,
    const OptionalTensor& draft_row, const OptionalTensor& draws, const OptionalTensor& eos,
    double epsilon, double delta, int64_t group_size, double group_delta) {
  const Check check("tree_verify_sample", tokens, "tokens");
  check.integer(tokens, "tokens", {any, any});
  const int64_t batch = tokens.size(0), nodes = tokens.size(1);
  check.integer(parent, "parent", {batch, nodes});
  check.integer(n_nodes, "n_nodes", {batch});
  check.floating(logits, "logits", {batch, nodes, any});
  check.last_dim_contiguous(logits, "logits");
  const int64_t vocab = logits.size(2), words = (vocab + 31) / 32;
  check.that(vocab <= max_weighed_vocab, "logits", "at most 2^22 columns", vocab);
  const VerifyMode verify_mode = mode_of(check, mode);
  check.integer(rng, "rng", {batch, 3});
  check.optional(&Check::float32, temperature, "temperature", {batch});
  check.optional(&Check::integer, top_k, "top_k", {batch});
  check.optional(&Check::float32, top_p, "top_p", {batch});
  check.optional(&Check::float32, min_p, "min_p", {batch});
  check.optional(&Check::float32, repetition_penalty, "repetition_penalty", {batch});
  check.optional(&Check::int32, seen, "seen", {batch, words});
  check.optional(&Check::floating, draft_logits, "draft_logits", {batch, any, vocab});
  if (draft_logits) check.last_dim_contiguous(*draft_logits, "draft_logits");
  check.optional(&Check::float32, draft_temperature, "draft_temperature", {batch});
  check.optional(&Check::integer, draft_ids, "draft_ids", {batch, any, any});
  check.that(draft_ids.has_value() == draft_probs.has_value(),
             draft_ids ? "draft_probs" : "draft_ids", "both draft_ids and draft_probs or neither",
             "None");
  if (draft_ids) {
    check.float32(*draft_probs, "draft_probs", {batch, draft_ids->size(1), draft_ids->size(2)});
    check.that(!draft_logits, "draft_logits", "None beside draft_probs", "a tensor");
  }
  check.optional(&Check::integer, draws, "draws", {batch, any});
  const bool chain = verify_mode == VerifyMode::block;
  check.that(!(draws && chain), "draws", "None in mode 'block'", "a tensor");
  const int64_t num_draws = draws ? draws->size(1) : nodes;
  check.optional(&Check::integer, draft_row, "draft_row", {batch, num_draws});
  check.optional(&Check::integer, eos, "eos", {any});
  check.that(1 <= group_size && group_size <= 65, "group_size", "1 <= group_size <= 65",
             group_size);

  const Tensor tokens_ = packed(tokens), parent_ = packed(parent), n_nodes_ = packed(n_nodes),
               rng_ = packed(rng);
  const OptionalTensor temperature_ = packed(temperature), top_k_ = packed(top_k),
                       top_p_ = packed(top_p), min_p_ = packed(min_p),
                       penalty_ = packed(repetition_penalty), seen_ = packed(seen),
                       draft_temperature_ = packed(draft_temperature),
                       draft_ids_ = packed(draft_ids), draft_probs_ = packed(draft_probs),
                       draft_row_ = packed(draft_row), draws_ = packed(draws), eos_ = packed(eos);
  const auto floats = [](const OptionalTensor& t) {
    return t ? t->const_data_ptr<float>() : nullptr;
  };
  TreeVerifySampleParams params{
      .mode = verify_mode,
      .dtype = dtype_of(logits),
      .draft_dtype = draft_logits ? dtype_of(*draft_logits) : DType::f32,
      .batch = batch,
      .nodes = nodes,
      .vocab = vocab,
      .num_draws = num_draws,
      .num_eos = eos_ ? eos_->numel() : 0,
      .draft_rows = draft_logits ? draft_logits->size(1)
                    : draft_ids_ ? draft_ids_->size(1)
                                 : 0,
      .draft_width = draft_ids_ ? draft_ids_->size(2) : 0,
      .tokens = ints(tokens_),
      .parent = ints(parent_),
      .n_nodes = ints(n_nodes_),
      .logits = logits.const_data_ptr(),
      .batch_stride = logits.stride(0),
      .node_stride = logits.stride(1),
      .rng = ints(rng_),
      .temperature = floats(temperature_),
      .top_k = ints(top_k_),
      .top_p = floats(top_p_),
      .min_p = floats(min_p_),
      .penalty = floats(penalty_),
      .seen = seen_ ? seen_->const_data_ptr<int32_t>() : nullptr,
      .draft_logits = draft_logits ? draft_logits->const_data_ptr() : nullptr,
      .draft_batch_stride = draft_logits ? draft_logits->stride(0) : 0,
      .draft_stride = draft_logits ? draft_logits->stride(1) : 0,
      .draft_temperature = floats(draft_temperature_),
      .draft_ids = ints(draft_ids_),
      .draft_probs = floats(draft_probs_),
      .draft_row = ints(draft_row_),
      .draws = ints(draws_),
      .eos = ints(eos_),
      .epsilon = static_cast<float>(epsilon),
      .delta = static_cast<float>(delta),
      .group_size = group_size,
      .group_delta = static_cast<float>(group_delta),
      .marked = nullptr,
      .tried = nullptr,
      .path = nullptr,
      .n_accepted = nullptr,
      .next_token = nullptr,
      .n_nan = nullptr,
  };
  check_values(check, params);

  const Tensor path = empty_like_device(tokens, {batch, nodes}, ScalarType::Int);
  const Tensor n_accepted = empty_like_device(tokens, {batch}, ScalarType::Int);
  const Tensor next_token = empty_like_device(tokens, {batch}, ScalarType::Long);
  const Tensor n_nan = empty_like_device(tokens, {batch}, ScalarType::Int);
  const Tensor marked = empty_like_device(tokens, {batch, penalty_ ? words : 0}, ScalarType::Int);
  const Tensor tried =
      empty_like_device(tokens, {batch, std::max(nodes, num_draws)}, ScalarType::Long);
  params.marked = reinterpret_cast<uint32_t*>(marked.mutable_data_ptr<int32_t>());
  params.tried = tried.mutable_data_ptr<int64_t>();
  params.path = path.mutable_data_ptr<int32_t>();
  params.n_accepted = n_accepted.mutable_data_ptr<int32_t>();
  params.next_token = next_token.mutable_data_ptr<int64_t>();
  params.n_nan = n_nan.mutable_data_ptr<int32_t>();
  if (batch > 0) TB_LAUNCH(tree_verify_sample, params, check.device());
  return {path, n_accepted, next_token, n_nan};
}

}  // namespace tokenburst

TB_REGISTER(tree_verify_sample)
