#include "ngram/ngram_match.h"

#include "common/check.h"

namespace tokenburst {
namespace {

void check_values(const Check& check, const NgramMatchParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    check.that(
        0 <= p.length[b] && p.length[b] <= p.capacity, "length",
        [&] {
          return "0 <= length <= " + std::to_string(p.capacity) + " in sequence " +
                 std::to_string(b);
        },
        p.length[b]);
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> ngram_match(const Tensor& tokens, const Tensor& length,
                                               int64_t k, int64_t most, int64_t least, bool whole,
                                               bool latest) {
  const Check check("ngram_match", tokens, "tokens");
  check.integer(tokens, "tokens", {any, any});
  const int64_t batch = tokens.size(0), capacity = tokens.size(1);
  check.integer(length, "length", {batch});
  check.that(k >= 0, "k", "k >= 0", k);
  check.that(capacity < (int64_t{1} << 31), "tokens", "fewer than 2^31 positions", capacity);
  check.that(1 <= least, "least", "least >= 1", least);
  check.that(least <= most, "most", "most >= " + std::to_string(least) + " (least)", most);

  // A long history is not copied only because it is a slice of a longer buffer.
  const Tensor tokens_ = capacity <= 1 || tokens.stride(1) != 1 ? packed(tokens) : tokens;
  const Tensor length_ = packed(length);
  const Tensor draft = empty_like_device(tokens, {batch, k}, ScalarType::Long);
  const Tensor n_draft = empty_like_device(tokens, {batch}, ScalarType::Int);
  const Tensor match_len = empty_like_device(tokens, {batch}, ScalarType::Int);
  const NgramMatchParams params{
      .batch = batch,
      .capacity = capacity,
      .k = k,
      .most = most,
      .least = least,
      .whole = whole,
      .latest = latest,
      .tokens = ints(tokens_),
      .stride = tokens_.stride(0),
      .length = ints(length_),
      .draft = draft.mutable_data_ptr<int64_t>(),
      .n_draft = n_draft.mutable_data_ptr<int32_t>(),
      .match_len = match_len.mutable_data_ptr<int32_t>(),
  };
  if (check.on_cpu()) check_values(check, params);
  if (batch > 0) TB_LAUNCH(ngram_match, params, check.device());
  return {draft, n_draft, match_len};
}

}  // namespace tokenburst

TB_REGISTER(ngram_match)
