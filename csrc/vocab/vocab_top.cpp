#include "vocab/vocab_top.h"

#include <algorithm>
#include <limits>

#include "common/check.h"

namespace tokenburst {

std::tuple<Tensor, Tensor> vocab_top(const Tensor& logits, int64_t k, const OptionalTensor& count) {
  const Check check("vocab_top", logits, "logits");
  const bool batched = logits.dim() == 3;
  if (batched) {
    check.floating(logits, "logits", {any, any, any});
  } else {
    check.floating(logits, "logits", {any, any});
  }
  check.last_dim_contiguous(logits, "logits");
  const int64_t batch = batched ? logits.size(0) : 1, row_dim = batched ? 1 : 0;
  const int64_t row_length = logits.size(row_dim), vocab = logits.size(row_dim + 1);
  check.that(vocab <= std::numeric_limits<int32_t>::max(), "logits", "fewer than 2^31 columns",
             vocab);
  check.that(
      1 <= k && k <= std::min(vocab, vocab_top_max_k), "k",
      [&] { return "1 <= k <= min(V, 64) with V = " + std::to_string(vocab); }, k);
  check.that(batched || !count, "count", "None for logits of two dimensions", "a tensor");
  check.optional(&Check::integer, count, "count", {batch});
  const OptionalTensor count_ = packed(count);
  const Ints counts = ints(count_);
  for (int64_t b = 0; count && check.on_cpu() && b < batch; ++b) {
    check.that(
        0 <= counts[b] && counts[b] <= row_length, "count",
        [&] {
          return "0 <= count <= " + std::to_string(row_length) + " in sequence " +
                 std::to_string(b);
        },
        counts[b]);
  }

  const auto made = [&](ScalarType dtype) {
    return batched ? empty_like_device(logits, {batch, row_length, k}, dtype)
                   : empty_like_device(logits, {row_length, k}, dtype);
  };
  const Tensor ids = made(ScalarType::Long), values = made(ScalarType::Float);
  const int64_t rows = batch * row_length;
  const int64_t bytes = check.on_cpu() ? vocab_top_cpu_workspace(rows, vocab, k)
                                       : vocab_top_cuda_workspace(rows, vocab, k);
  OptionalTensor workspace;
  if (bytes > 0) workspace = empty_like_device(logits, {bytes}, ScalarType::Byte);
  const VocabTopParams params{
      .dtype = dtype_of(logits),
      .batch = batch,
      .row_length = row_length,
      .vocab = vocab,
      .k = k,
      .logits = logits.const_data_ptr(),
      .outer_stride = batched ? logits.stride(0) : 0,
      .row_stride = logits.stride(row_dim),
      .count = counts,
      .workspace = workspace ? workspace->mutable_data_ptr() : nullptr,
      .ids = ids.mutable_data_ptr<int64_t>(),
      .values = values.mutable_data_ptr<float>(),
  };
  if (rows > 0) TB_LAUNCH(vocab_top, params, check.device());
  return {ids, values};
}

}  // namespace tokenburst

TB_REGISTER(vocab_top)
