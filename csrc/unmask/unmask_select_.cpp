#include "unmask/unmask_select_.h"

#include "common/check.h"

namespace tokenburst {
namespace {

// CPU tensors: what a caller can have meant wrongly. On a GPU such candidates take no part.
void check_values(const Check& check, const UnmaskSelectParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const std::string sequence = " in sequence " + std::to_string(b);
    for (int64_t i = b * p.candidates; i < (b + 1) * p.candidates; ++i) {
      check.that(
          -1 <= p.position[i] && p.position[i] < p.length, "position",
          [&] { return "-1 <= position < " + std::to_string(p.length) + sequence; }, p.position[i]);
      check.that(
          p.token[i] >= -1, "token", [&] { return "a token id, or -1 for none," + sequence; },
          p.token[i]);
    }
    if (p.top_k.present()) {
      check.that(p.top_k[b] >= 0, "top_k", "top_k >= 0" + sequence, p.top_k[b]);
    }
    const auto number = [&](const float* values, const char* name, bool negative) {
      if (!values) return;
      check.that(
          negative ? values[b] == values[b] : values[b] >= 0.0f, name,
          [&] { return (negative ? "a number" : "a number >= 0") + sequence; }, values[b]);
    };
    number(p.threshold, "threshold", true);
    number(p.near, "near", true);
    number(p.edit, "edit", true);
    number(p.factor, "factor", false);
    number(p.budget, "budget", false);
    number(p.reveal, "reveal", false);
    number(p.noise, "noise", false);
    number(p.damping, "damping", false);
    if (p.most.present()) {
      check.that(p.most[b] >= 0, "most", "most >= 0" + sequence, p.most[b]);
    }
  }
}

const float* floats(const OptionalTensor& t) { return t ? t->const_data_ptr<float>() : nullptr; }

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> unmask_select_(
    const Tensor& x, const Tensor& position, const Tensor& token, int64_t mask_id,
    const OptionalTensor& score, const OptionalTensor& rng, bool lowest_first, bool strict,
    const OptionalTensor& top_k, const OptionalTensor& threshold, const OptionalTensor& factor,
    const OptionalTensor& budget, bool min_one, const OptionalTensor& commit_all,
    const OptionalTensor& most, const OptionalTensor& near, int64_t reach,
    const OptionalTensor& reveal, const OptionalTensor& noise, const OptionalTensor& damped,
    const OptionalTensor& damping, const OptionalTensor& edit) {
  const Check check("unmask_select_", x, "x");
  check.integer(x, "x", {any, any});
  check.last_dim_contiguous(x, "x");
  const int64_t batch = x.size(0), length = x.size(1);
  check.that(batch < 2 || x.stride(0) >= length, "x", "rows that do not overlap", x.stride(0));
  check.that(length <= INT32_MAX, "x", "at most 2^31 - 1 positions", length);
  check.integer(position, "position", {batch, any});
  const int64_t candidates = position.size(1);
  check.integer(token, "token", {batch, candidates});
  check.that(mask_id >= 0, "mask_id", "a token id", mask_id);
  check.optional(&Check::float32, score, "score", {batch, candidates});
  check.optional(&Check::int64, rng, "rng", {batch, 3});
  check.that(score || rng, "score", "score or rng", "neither");
  check.that(!score || !rng || reveal || noise, "rng",
             "none beside score, unless for reveal or noise", "both");
  check.that(rng || !(reveal || noise), "rng", "one for reveal and noise", "None");
  check.optional(&Check::integer, top_k, "top_k", {batch});
  check.optional(&Check::float32, threshold, "threshold", {batch});
  check.optional(&Check::float32, factor, "factor", {batch});
  check.that(!factor || !lowest_first, "factor", "scores of which the highest is best", "lowest");
  check.optional(&Check::float32, budget, "budget", {batch});
  check.that(!budget || lowest_first, "budget", "scores of which the lowest is best", "highest");
  check.that(!budget || candidates <= budget_candidates, "budget", "at most 2^19 candidates",
             candidates);
  check.optional(&Check::boolean, commit_all, "commit_all", {batch});
  check.optional(&Check::integer, most, "most", {batch});
  check.optional(&Check::float32, near, "near", {batch});
  check.that(!near || threshold, "near", "a threshold that makes anchors", "None");
  check.that(reach >= 0, "reach", "reach >= 0", reach);
  check.optional(&Check::float32, reveal, "reveal", {batch});
  check.optional(&Check::float32, noise, "noise", {batch});
  check.that(!noise || !(threshold || factor || budget), "noise",
             "no threshold, factor or budget beside it", "both");
  check.that(damped.has_value() == damping.has_value(), "damping", "both damped and damping",
             "one of them");
  check.optional(&Check::integer, damped, "damped", {any});
  check.optional(&Check::float32, damping, "damping", {batch});
  check.that(!damped || score, "damped", "a score to damp", "None");
  check.optional(&Check::float32, edit, "edit", {batch});
  check.that(!edit || score, "edit", "a score", "None");
  check.that(top_k || threshold || factor || budget || min_one || commit_all || reveal || edit,
             "top_k",
             "at least one rule of top_k, threshold, factor, budget, min_one, commit_all, reveal "
             "and edit",
             "none");

  const Tensor position_ = packed(position), token_ = packed(token);
  const OptionalTensor score_ = packed(score), rng_ = packed(rng), top_k_ = packed(top_k),
                       threshold_ = packed(threshold), factor_ = packed(factor),
                       budget_ = packed(budget), commit_all_ = packed(commit_all),
                       most_ = packed(most), near_ = packed(near), reveal_ = packed(reveal),
                       noise_ = packed(noise), damped_ = packed(damped), damping_ = packed(damping),
                       edit_ = packed(edit);
  const Tensor committed = empty_like_device(x, {batch, candidates}, ScalarType::Bool);
  const Tensor n_committed = empty_like_device(x, {batch}, ScalarType::Int);
  const Tensor n_left = empty_like_device(x, {batch}, ScalarType::Int);
  const Tensor n_edited = empty_like_device(x, {batch}, ScalarType::Int);
  const int64_t spare = check.on_cpu() ? 0 : batch;  // the CPU kernel has its own memory
  const Tensor owner = empty_like_device(x, {spare, length}, ScalarType::Int);
  const Tensor keys = empty_like_device(x, {spare, candidates}, ScalarType::Long);
  const UnmaskSelectParams params{
      .batch = batch,
      .length = length,
      .candidates = candidates,
      .mask_id = mask_id,
      .x_stride = x.stride(0),
      .x = x.mutable_data_ptr(),
      .x_wide = x.scalar_type() == ScalarType::Long,
      .lowest_first = lowest_first,
      .min_one = min_one,
      .strict = strict,
      .reach = reach < length ? reach : length,
      .num_damped = damped_ ? damped_->numel() : 0,
      .position = ints(position_),
      .token = ints(token_),
      .score = floats(score_),
      .rng = rng_ ? rng_->const_data_ptr<int64_t>() : nullptr,
      .top_k = ints(top_k_),
      .threshold = floats(threshold_),
      .factor = floats(factor_),
      .budget = floats(budget_),
      .most = ints(most_),
      .near = floats(near_),
      .reveal = floats(reveal_),
      .noise = floats(noise_),
      .damped = ints(damped_),
      .damping = floats(damping_),
      .edit = floats(edit_),
      .commit_all = commit_all_ ? commit_all_->const_data_ptr<bool>() : nullptr,
      .committed = committed.mutable_data_ptr<bool>(),
      .n_committed = n_committed.mutable_data_ptr<int32_t>(),
      .n_left = n_left.mutable_data_ptr<int32_t>(),
      .n_edited = n_edited.mutable_data_ptr<int32_t>(),
      .owner = owner.mutable_data_ptr<int32_t>(),
      .keys = reinterpret_cast<uint64_t*>(keys.mutable_data_ptr<int64_t>()),
  };
  if (check.on_cpu()) check_values(check, params);
  if (batch > 0) TB_LAUNCH(unmask_select_, params, check.device());
  return {committed, n_committed, n_left, n_edited};
}

}  // namespace tokenburst

TB_REGISTER(unmask_select_)
