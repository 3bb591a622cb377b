#include "vocab/vocab_filter.h"

#include <limits>

#include "common/check.h"

namespace tokenburst {
namespace {

// Messages for values that only the CPU can look at.
void check_values(const Check& check, const VocabFilterParams& p) {
  if (!check.on_cpu()) return;
  const auto at = [](int64_t i) { return " at index " + std::to_string(i); };
  const auto ids = [&](const Ints& list, int64_t n, const char* name) {
    for (int64_t i = 0; i < n; ++i) {
      check.that(
          0 <= list[i] && list[i] < p.vocab, name,
          [&] { return "0 <= id <= " + std::to_string(p.vocab - 1) + at(i); }, list[i]);
    }
  };
  ids(p.suppress, p.num_suppress, "suppress");
  ids(p.bias_ids, p.num_bias, "bias_ids");
  ids(p.unranked, p.num_unranked, "unranked");
  for (int64_t i = 0; i < p.count; ++i) {
    if (p.rows.present()) {
      check.that(
          -1 <= p.rows[i] && p.rows[i] < p.num_rows, "rows",
          [&] { return "-1 <= row <= " + std::to_string(p.num_rows - 1) + at(i); }, p.rows[i]);
    }
    if (p.temperature) {
      check.that(
          p.temperature[i] >= 0.0f, "temperature", [&] { return "a number >= 0" + at(i); },
          p.temperature[i]);
    }
    if (p.uncond) {
      check.that(
          p.guidance[i] == p.guidance[i], "guidance", [&] { return "a number" + at(i); },
          p.guidance[i]);
    }
    if (p.top_k.present()) {
      check.that(p.top_k[i] >= 0, "top_k", [&] { return "top_k >= 0" + at(i); }, p.top_k[i]);
    }
    if (p.top_p) {
      check.that(
          p.top_p[i] > 0.0f && p.top_p[i] <= 1.0f, "top_p",
          [&] { return "a number > 0 and <= 1" + at(i); }, p.top_p[i]);
    }
  }
}

const float* floats(const OptionalTensor& t) { return t ? t->const_data_ptr<float>() : nullptr; }
int64_t numel(const OptionalTensor& t) { return t ? t->numel() : 0; }

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> vocab_filter(
    const Tensor& logits, const OptionalTensor& rows, const OptionalTensor& uncond,
    const OptionalTensor& guidance, const OptionalTensor& suppress, const OptionalTensor& bias_ids,
    const OptionalTensor& bias, const OptionalTensor& unranked, const OptionalTensor& temperature,
    const OptionalTensor& rng, const OptionalTensor& top_k, const OptionalTensor& top_p,
    bool tempered) {
  const Check check("vocab_filter", logits, "logits");
  const bool batched = logits.dim() == 3;
  if (batched) {
    check.floating(logits, "logits", {any, any, any});
  } else {
    check.floating(logits, "logits", {any, any});
  }
  check.last_dim_contiguous(logits, "logits");
  const int64_t row_dim = batched ? 1 : 0;
  const int64_t row_length = logits.size(row_dim), vocab = logits.size(row_dim + 1);
  const int64_t num_rows = batched ? logits.size(0) * row_length : row_length;
  check.that(1 <= vocab && vocab <= std::numeric_limits<int32_t>::max(), "logits",
             "1 to 2^31 - 1 columns", vocab);
  check.optional(&Check::integer, rows, "rows", {any});
  const int64_t count = rows ? rows->size(0) : num_rows;
  if (uncond && batched) {
    check.floating(*uncond, "uncond", {logits.size(0), row_length, vocab});
  } else if (uncond) {
    check.floating(*uncond, "uncond", {row_length, vocab});
  }
  if (uncond) {
    check.same_dtype(*uncond, "uncond", logits, "logits");
    check.last_dim_contiguous(*uncond, "uncond");
  }
  check.optional(&Check::float32, guidance, "guidance", {count});
  check.that(uncond.has_value() == guidance.has_value(), guidance ? "uncond" : "guidance",
             "both uncond and guidance or neither", "None");
  check.optional(&Check::integer, suppress, "suppress", {any});
  check.optional(&Check::integer, bias_ids, "bias_ids", {any});
  check.optional(&Check::float32, bias, "bias", {numel(bias_ids)});
  check.that(bias_ids.has_value() == bias.has_value(), bias ? "bias_ids" : "bias",
             "both bias_ids and bias or neither", "None");
  check.optional(&Check::integer, unranked, "unranked", {any});
  check.optional(&Check::float32, temperature, "temperature", {count});
  check.optional(&Check::integer, rng, "rng", {count, 4});
  check.that(temperature.has_value() == rng.has_value(), temperature ? "rng" : "temperature",
             "both temperature and rng or neither", "None");
  check.optional(&Check::integer, top_k, "top_k", {count});
  check.optional(&Check::float32, top_p, "top_p", {count});

  const OptionalTensor rows_ = packed(rows), guidance_ = packed(guidance),
                       suppress_ = packed(suppress), bias_ids_ = packed(bias_ids),
                       bias_ = packed(bias), unranked_ = packed(unranked),
                       temperature_ = packed(temperature), rng_ = packed(rng),
                       top_k_ = packed(top_k), top_p_ = packed(top_p);
  const bool listed = numel(suppress_) + numel(bias_ids_) + numel(unranked_) > 0;
  const Tensor special =
      empty_like_device(logits, {listed ? (vocab + 31) / 32 : 0}, ScalarType::Int);
  const auto make = [&](ScalarType dtype) { return empty_like_device(logits, {count}, dtype); };
  const Tensor token = make(ScalarType::Long), confidence = make(ScalarType::Float),
               margin = make(ScalarType::Float), entropy = make(ScalarType::Float),
               log_odds = make(ScalarType::Float), gap = make(ScalarType::Float),
               n_kept = make(ScalarType::Int), n_nan = make(ScalarType::Int);
  const VocabFilterParams params{
      .dtype = dtype_of(logits),
      .count = count,
      .num_rows = num_rows,
      .row_length = row_length,
      .vocab = vocab,
      .num_suppress = numel(suppress_),
      .num_bias = numel(bias_ids_),
      .num_unranked = numel(unranked_),
      .tempered = tempered,
      .logits = logits.const_data_ptr(),
      .outer_stride = batched ? logits.stride(0) : 0,
      .row_stride = logits.stride(row_dim),
      .uncond = uncond ? uncond->const_data_ptr() : nullptr,
      .uncond_outer_stride = uncond && batched ? uncond->stride(0) : 0,
      .uncond_row_stride = uncond ? uncond->stride(row_dim) : 0,
      .guidance = floats(guidance_),
      .rows = ints(rows_),
      .suppress = ints(suppress_),
      .bias_ids = ints(bias_ids_),
      .bias = floats(bias_),
      .unranked = ints(unranked_),
      .temperature = floats(temperature_),
      .rng = ints(rng_),
      .top_k = ints(top_k_),
      .top_p = floats(top_p_),
      .special =
          listed ? reinterpret_cast<uint32_t*>(special.mutable_data_ptr<int32_t>()) : nullptr,
      .token = token.mutable_data_ptr<int64_t>(),
      .confidence = confidence.mutable_data_ptr<float>(),
      .margin = margin.mutable_data_ptr<float>(),
      .entropy = entropy.mutable_data_ptr<float>(),
      .log_odds = log_odds.mutable_data_ptr<float>(),
      .gap = gap.mutable_data_ptr<float>(),
      .n_kept = n_kept.mutable_data_ptr<int32_t>(),
      .n_nan = n_nan.mutable_data_ptr<int32_t>(),
  };
  check_values(check, params);
  if (count > 0) TB_LAUNCH(vocab_filter, params, check.device());
  return {token, confidence, margin, entropy, log_odds, gap, n_kept, n_nan};
}

}  // namespace tokenburst

TB_REGISTER(vocab_filter)
