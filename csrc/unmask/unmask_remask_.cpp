#include "unmask/unmask_remask_.h"

#include "common/check.h"

namespace tokenburst {
namespace {

// CPU tensors: what a caller can have meant wrongly. On a GPU such candidates take no part.
void check_values(const Check& check, const UnmaskRemaskParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const std::string sequence = " in sequence " + std::to_string(b);
    for (int64_t i = b * p.candidates; i < (b + 1) * p.candidates; ++i) {
      check.that(
          -1 <= p.position[i] && p.position[i] <= p.length - p.span, "position",
          [&] { return "-1 <= position <= " + std::to_string(p.length - p.span) + sequence; },
          p.position[i]);
      if (p.probability) {
        check.that(
            p.probability[i] >= 0.0f, "probability", [&] { return "a number >= 0" + sequence; },
            p.probability[i]);
      }
    }
    if (p.top_k.present()) {
      check.that(p.top_k[b] >= 0, "top_k", "top_k >= 0" + sequence, p.top_k[b]);
    }
    if (p.most.present()) check.that(p.most[b] >= 0, "most", "most >= 0" + sequence, p.most[b]);
    if (p.threshold) {
      check.that(p.threshold[b] == p.threshold[b], "threshold", "a number" + sequence,
                 p.threshold[b]);
    }
  }
}

}  // namespace

std::tuple<Tensor, Tensor> unmask_remask_(
    const Tensor& x, const Tensor& position, int64_t mask_id, const Tensor& score, int64_t span,
    const OptionalTensor& top_k, const OptionalTensor& threshold, const OptionalTensor& most,
    const OptionalTensor& probability, const OptionalTensor& rng) {
  const Check check("unmask_remask_", x, "x");
  check.integer(x, "x", {any, any});
  check.last_dim_contiguous(x, "x");
  const int64_t batch = x.size(0), length = x.size(1);
  check.that(batch < 2 || x.stride(0) >= length, "x", "rows that do not overlap", x.stride(0));
  check.that(length <= INT32_MAX, "x", "at most 2^31 - 1 positions", length);
  check.integer(position, "position", {batch, any});
  const int64_t candidates = position.size(1);
  check.that(mask_id >= 0, "mask_id", "a token id", mask_id);
  check.float32(score, "score", {batch, candidates});
  check.that(span >= 1, "span", "span >= 1", span);
  check.optional(&Check::integer, top_k, "top_k", {batch});
  check.optional(&Check::float32, threshold, "threshold", {batch});
  check.optional(&Check::integer, most, "most", {batch});
  check.optional(&Check::float32, probability, "probability", {batch, candidates});
  check.optional(&Check::int64, rng, "rng", {batch, 3});
  check.that(probability.has_value() == rng.has_value(), probability ? "rng" : "probability",
             "both probability and rng or neither", "None");
  check.that(top_k || threshold || probability, "top_k",
             "at least one rule of top_k, threshold and probability", "none");

  const Tensor position_ = packed(position), score_ = packed(score);
  const OptionalTensor top_k_ = packed(top_k), threshold_ = packed(threshold), most_ = packed(most),
                       probability_ = packed(probability), rng_ = packed(rng);
  const Tensor remasked = empty_like_device(x, {batch, candidates}, ScalarType::Bool);
  const Tensor n_remasked = empty_like_device(x, {batch}, ScalarType::Int);
  const int64_t spare = check.on_cpu() ? 0 : batch;  // the CPU kernel has its own memory
  const Tensor owner = empty_like_device(x, {spare, length}, ScalarType::Int);
  const Tensor keys = empty_like_device(x, {spare, candidates}, ScalarType::Long);
  const UnmaskRemaskParams params{
      .batch = batch,
      .length = length,
      .candidates = candidates,
      .mask_id = mask_id,
      .x_stride = x.stride(0),
      .span = span <= length ? span : length + 1,
      .x = x.mutable_data_ptr(),
      .x_wide = x.scalar_type() == ScalarType::Long,
      .position = ints(position_),
      .score = score_.const_data_ptr<float>(),
      .rng = rng_ ? rng_->const_data_ptr<int64_t>() : nullptr,
      .top_k = ints(top_k_),
      .threshold = threshold_ ? threshold_->const_data_ptr<float>() : nullptr,
      .most = ints(most_),
      .probability = probability_ ? probability_->const_data_ptr<float>() : nullptr,
      .remasked = remasked.mutable_data_ptr<bool>(),
      .n_remasked = n_remasked.mutable_data_ptr<int32_t>(),
      .owner = owner.mutable_data_ptr<int32_t>(),
      .keys = reinterpret_cast<uint64_t*>(keys.mutable_data_ptr<int64_t>()),
  };
  if (check.on_cpu()) check_values(check, params);
  if (batch > 0) TB_LAUNCH(unmask_remask_, params, check.device());
  return {remasked, n_remasked};
}

}  // namespace tokenburst

TB_REGISTER(unmask_remask_)
