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
    if (p.threshold) {
      check.that(p.threshold[b] == p.threshold[b], "threshold", "a number" + sequence,
                 p.threshold[b]);
    }
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> unmask_select_(const Tensor& x, const Tensor& position,
                                                  const Tensor& token, int64_t mask_id,
                                                  const OptionalTensor& score,
                                                  const OptionalTensor& rng, bool lowest_first,
                                                  const OptionalTensor& top_k,
                                                  const OptionalTensor& threshold, bool min_one,
                                                  const OptionalTensor& commit_all) {
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
  check.that(score.has_value() != rng.has_value(), "score", "exactly one of score and rng",
             score ? "both" : "neither");
  check.optional(&Check::integer, top_k, "top_k", {batch});
  check.optional(&Check::float32, threshold, "threshold", {batch});
  check.optional(&Check::boolean, commit_all, "commit_all", {batch});
  check.that(top_k || threshold || min_one || commit_all, "top_k",
             "at least one rule of top_k, threshold, min_one and commit_all", "none");

  const Tensor position_ = packed(position), token_ = packed(token);
  const OptionalTensor score_ = packed(score), rng_ = packed(rng), top_k_ = packed(top_k),
                       threshold_ = packed(threshold), commit_all_ = packed(commit_all);
  const Tensor committed = empty_like_device(x, {batch, candidates}, ScalarType::Bool);
  const Tensor n_committed = empty_like_device(x, {batch}, ScalarType::Int);
  const Tensor n_left = empty_like_device(x, {batch}, ScalarType::Int);
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
      .position = ints(position_),
      .token = ints(token_),
      .score = score_ ? score_->const_data_ptr<float>() : nullptr,
      .rng = rng_ ? rng_->const_data_ptr<int64_t>() : nullptr,
      .top_k = ints(top_k_),
      .threshold = threshold_ ? threshold_->const_data_ptr<float>() : nullptr,
      .commit_all = commit_all_ ? commit_all_->const_data_ptr<bool>() : nullptr,
      .committed = committed.mutable_data_ptr<bool>(),
      .n_committed = n_committed.mutable_data_ptr<int32_t>(),
      .n_left = n_left.mutable_data_ptr<int32_t>(),
      .owner = owner.mutable_data_ptr<int32_t>(),
      .keys = reinterpret_cast<uint64_t*>(keys.mutable_data_ptr<int64_t>()),
  };
  if (check.on_cpu()) check_values(check, params);
  if (batch > 0) TB_LAUNCH(unmask_select_, params, check.device());
  return {committed, n_committed, n_left};
}

}  // namespace tokenburst

TB_REGISTER(unmask_select_)
