#include "vocab/vocab_sample.h"

#include <algorithm>

#include "common/check.h"
#include "common/weights.h"

namespace tokenburst {
namespace {

// Messages for values that only the CPU can look at; a GPU ignores such rows and temperatures.
void check_values(const Check& check, const VocabSampleParams& p) {
  if (!check.on_cpu()) return;
  const std::string last_row = std::to_string(p.num_rows - 1);
  for (int64_t i = 0; i < p.count; ++i) {
    if (p.rows.present()) {
      check.that(
          -1 <= p.rows[i] && p.rows[i] < p.num_rows, "rows",
          [&] { return "-1 <= row <= " + last_row + " at index " + std::to_string(i); }, p.rows[i]);
    }
    check.that(
        p.temperature[i] >= 0.0f, "temperature",
        [&] { return "a number >= 0 at index " + std::to_string(i); }, p.temperature[i]);
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> vocab_sample(
    const Tensor& logits, int64_t k, const Tensor& temperature, const Tensor& rng,
    const OptionalTensor& rows, const OptionalTensor& parent_g, const OptionalTensor& parent_phi,
    bool replacement) {
  const Check check("vocab_sample", logits, "logits");
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
  check.that(vocab <= max_weighed_vocab, "logits", "at most 2^22 columns", vocab);
  const int64_t most = replacement ? vocab_sample_max_k : std::min(vocab, vocab_sample_max_k);
  check.that(1 <= k && k <= most, "k",
             replacement ? std::string("1 <= k <= 64")
                         : "1 <= k <= min(V, 64) with V = " + std::to_string(vocab),
             k);
  check.optional(&Check::integer, rows, "rows", {any});
  const int64_t count = rows ? rows->size(0) : num_rows;
  check.float32(temperature, "temperature", {count});
  check.integer(rng, "rng", {count, 4});
  check.optional(&Check::float32, parent_g, "parent_g", {count});
  check.optional(&Check::float32, parent_phi, "parent_phi", {count});
  check.that(parent_g.has_value() == parent_phi.has_value(), parent_g ? "parent_phi" : "parent_g",
             "both parent_g and parent_phi or neither", "None");
  check.that(!(replacement && parent_g), "parent_g", "None with replacement", "a tensor");

  const OptionalTensor rows_ = packed(rows), parent_g_ = packed(parent_g),
                       parent_phi_ = packed(parent_phi);
  const Tensor temperature_ = packed(temperature), rng_ = packed(rng);
  VocabSampleParams params{
      .dtype = dtype_of(logits),
      .replacement = replacement,
      .count = count,
      .num_rows = num_rows,
      .row_length = row_length,
      .vocab = vocab,
      .k = k,
      .logits = logits.const_data_ptr(),
      .outer_stride = batched ? logits.stride(0) : 0,
      .row_stride = logits.stride(row_dim),
      .rows = ints(rows_),
      .temperature = temperature_.const_data_ptr<float>(),
      .rng = ints(rng_),
      .parent_g = parent_g_ ? parent_g_->const_data_ptr<float>() : nullptr,
      .parent_phi = parent_phi_ ? parent_phi_->const_data_ptr<float>() : nullptr,
      .ids = nullptr,
      .logq = nullptr,
      .g = nullptr,
      .lse = nullptr,
      .workspace = nullptr,
  };
  check_values(check, params);

  const Tensor ids = empty_like_device(logits, {count, k}, ScalarType::Long);
  const Tensor logq = empty_like_device(logits, {count, k}, ScalarType::Float);
  const Tensor g = empty_like_device(logits, {count, k}, ScalarType::Float);
  const Tensor lse = empty_like_device(logits, {count}, ScalarType::Float);
  params.ids = ids.mutable_data_ptr<int64_t>();
  params.logq = logq.mutable_data_ptr<float>();
  params.g = g.mutable_data_ptr<float>();
  params.lse = lse.mutable_data_ptr<float>();
  const int64_t bytes = count * vocab_sample_tiles(vocab) * vocab_sample_tile_bytes;
  const Tensor workspace =
      check.on_cpu() ? ids : empty_like_device(logits, {bytes}, ScalarType::Byte);
  params.workspace = check.on_cpu() ? nullptr : workspace.mutable_data_ptr();
  if (count > 0) TB_LAUNCH(vocab_sample, params, check.device());
  return {ids, logq, g, lse};
}

}  // namespace tokenburst

TB_REGISTER(vocab_sample)
