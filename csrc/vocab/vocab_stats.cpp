#include "vocab/vocab_stats.h"

#include <algorithm>
#include <limits>

#include "common/check.h"

namespace tokenburst {
namespace {

// Messages for values that only the CPU can look at; a GPU ignores such ids and temperatures.
void check_values(const Check& check, const VocabStatsParams& p) {
  if (!check.on_cpu()) return;
  const std::string last_row = std::to_string(p.num_rows - 1);
  for (int64_t i = 0; p.rows.present() && i < p.count; ++i) {
    check.that(
        -1 <= p.rows[i] && p.rows[i] < p.num_rows, "rows",
        [&] { return "-1 <= row <= " + last_row + " at index " + std::to_string(i); }, p.rows[i]);
  }
  const std::string last_id = std::to_string(p.vocab - 1);
  for (int64_t i = 0; i < p.num_suppress; ++i) {
    check.that(
        0 <= p.suppress[i] && p.suppress[i] < p.vocab, "suppress",
        [&] { return "0 <= id <= " + last_id + " at index " + std::to_string(i); }, p.suppress[i]);
  }
  for (int64_t i = 0; p.temperature && i < p.count; ++i) {
    check.that(
        p.temperature[i] >= 0.0f, "temperature",
        [&] { return "a number >= 0 at index " + std::to_string(i); }, p.temperature[i]);
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> vocab_stats(
    const Tensor& logits, int64_t k, const OptionalTensor& rows, const OptionalTensor& suppress,
    const OptionalTensor& temperature, const OptionalTensor& rng) {
  const Check check("vocab_stats", logits, "logits");
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
  check.that(vocab <= std::numeric_limits<int32_t>::max(), "logits", "fewer than 2^31 columns",
             vocab);
  check.that(1 <= k && k <= std::min(vocab, vocab_stats_max_k), "k",
             "1 <= k <= min(V, 64) with V = " + std::to_string(vocab), k);
  check.optional(&Check::integer, rows, "rows", {any});
  const int64_t count = rows ? rows->size(0) : num_rows;
  check.optional(&Check::integer, suppress, "suppress", {any});
  check.optional(&Check::float32, temperature, "temperature", {count});
  check.optional(&Check::integer, rng, "rng", {count, 4});
  check.that(temperature.has_value() == rng.has_value(), temperature ? "rng" : "temperature",
             "both temperature and rng or neither", "None");

  const OptionalTensor rows_ = packed(rows), suppress_ = packed(suppress),
                       temperature_ = packed(temperature), rng_ = packed(rng);
  VocabStatsParams params{
      .dtype = dtype_of(logits),
      .count = count,
      .num_rows = num_rows,
      .row_length = row_length,
      .vocab = vocab,
      .k = k,
      .num_suppress = suppress_ ? suppress_->numel() : 0,
      .logits = logits.const_data_ptr(),
      .outer_stride = batched ? logits.stride(0) : 0,
      .row_stride = logits.stride(row_dim),
      .rows = ints(rows_),
      .suppress = ints(suppress_),
      .temperature = temperature_ ? temperature_->const_data_ptr<float>() : nullptr,
      .rng = ints(rng_),
      .workspace = nullptr,
      .ids = nullptr,
      .values = nullptr,
      .lse = nullptr,
      .token = nullptr,
      .confidence = nullptr,
      .margin = nullptr,
      .entropy = nullptr,
      .n_nan = nullptr,
  };
  check_values(check, params);

  const Tensor ids = empty_like_device(logits, {count, k}, ScalarType::Long);
  const Tensor values = empty_like_device(logits, {count, k}, ScalarType::Float);
  const Tensor token = empty_like_device(logits, {count}, ScalarType::Long);
  const Tensor lse = empty_like_device(logits, {count}, ScalarType::Float);
  const Tensor confidence = empty_like_device(logits, {count}, ScalarType::Float);
  const Tensor margin = empty_like_device(logits, {count}, ScalarType::Float);
  const Tensor entropy = empty_like_device(logits, {count}, ScalarType::Float);
  const Tensor n_nan = empty_like_device(logits, {count}, ScalarType::Int);
  const int64_t bytes = check.on_cpu() ? vocab_stats_cpu_workspace(count, vocab, k)
                                       : vocab_stats_cuda_workspace(count, vocab, k);
  const Tensor workspace = empty_like_device(logits, {bytes}, ScalarType::Byte);
  params.workspace = workspace.mutable_data_ptr();
  params.ids = ids.mutable_data_ptr<int64_t>();
  params.values = values.mutable_data_ptr<float>();
  params.lse = lse.mutable_data_ptr<float>();
  params.token = token.mutable_data_ptr<int64_t>();
  params.confidence = confidence.mutable_data_ptr<float>();
  params.margin = margin.mutable_data_ptr<float>();
  params.entropy = entropy.mutable_data_ptr<float>();
  params.n_nan = n_nan.mutable_data_ptr<int32_t>();
  if (count > 0) TB_LAUNCH(vocab_stats, params, check.device());
  return {ids, values, lse, token, confidence, margin, entropy, n_nan};
}

}  // namespace tokenburst

TB_REGISTER(vocab_stats)
