#pragma once
// What is drawn from a row of logits after guidance, biases, temperature, top-p and top-k, and how
// sure the model is of it. Nothing is sorted: the smallest kept logit is found digit by digit from
// histograms of counts and of probability in integer units, so sums have no order and every device
// keeps the same ids.
#include "common/launch.h"
#include "common/math.h"
#include "common/philox.h"
#include "common/types.h"

namespace tokenburst {

struct VocabFilterParams {
  DType dtype;
  int64_t count;                 // results, N
  int64_t num_rows, row_length;  // rows of the logits, rows per outermost index (L of [B, L, V])
  int64_t vocab, num_suppress, num_bias, num_unranked;
  bool tempered;
  const void* logits;  // row r at (r / row_length) * outer_stride + (r % row_length) * row_stride
  int64_t outer_stride, row_stride;
  const void* uncond;  // of the shape of logits, may be nullptr
  int64_t uncond_outer_stride, uncond_row_stride;
  const float* guidance;     // [count], with uncond
  Ints rows;                 // [count], -1 = none; absent: row n is result n
  Ints suppress;             // [num_suppress], may be absent
  Ints bias_ids;             // [num_bias], may be absent
  const float* bias;         // [num_bias]
  Ints unranked;             // [num_unranked], may be absent
  const float* temperature;  // [count], may be nullptr
  Ints rng;                  // [count, 4]: seed, sequence, step, position; with temperature
  Ints top_k;                // [count], may be absent; 0 = all
  const float* top_p;        // [count], may be nullptr
  uint32_t* special;         // [ceil(vocab / 32)], one bit per id in any list
  int64_t* token;            // [count], as all below
  float* confidence;
  float* margin;
  float* entropy;
  float* log_odds;
  float* gap;
  int32_t* n_kept;
  int32_t* n_nan;
};

namespace {

constexpr float filter_largest = 3.402823466e38f;
constexpr int filter_bins = 256;
constexpr double filter_units = 4294967296.0;  // of probability, relative to the best id

TB_HD float filter_infinity() { return from_bits(0x7f800000u); }
TB_HD float filter_bounded(float x) {
  return x > filter_largest ? filter_largest : x < -filter_largest ? -filter_largest : x;
}

// Equal floats give equal words, larger ones larger words; -0 counts as +0. 0 is below all of them.
TB_HD uint32_t filter_word(float x) {
  const uint32_t bits = to_bits(x == 0.0f ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

TB_HD float filter_value(uint32_t word) {  // of a word of filter_word
  return from_bits(word & 0x80000000u ? word & 0x7fffffffu : ~word);
}

TB_HD bool filter_listed(const Ints& ids, int64_t n, int64_t id) {
  for (int64_t i = 0; i < n; ++i) {
    if (ids[i] == id) return true;
  }
  return false;
}

// What one result asks of its row.
struct FilterRow {
  int64_t n;
  float guidance, inverse;  // 1 + w, 1 / T or 1
  bool draws;
  uint64_t seed;
  uint32_t sequence, step, position;
};

TB_HD FilterRow filter_row(const VocabFilterParams& p, int64_t n) {
  FilterRow row{n, 1.0f, 1.0f, false, 0, 0, 0, 0};
  if (p.uncond) row.guidance = p.guidance[n] + 1.0f;
  const float temperature = p.temperature ? p.temperature[n] : 0.0f;
  if (temperature > 0.0f) {
    const float inverse = 1.0f / temperature;
    row.inverse = inverse > filter_largest ? filter_largest : inverse;
    row.draws = true;
    row.seed = static_cast<uint64_t>(p.rng[n * 4]);
    row.sequence = static_cast<uint32_t>(p.rng[n * 4 + 1]);
    row.step = static_cast<uint32_t>(p.rng[n * 4 + 2]);
    row.position = static_cast<uint32_t>(p.rng[n * 4 + 3]);
  }
  return row;
}

// The logit of an id after guidance; -inf = never.
TB_HD float filter_guided(const VocabFilterParams& p, const FilterRow& row, float l, float u) {
  const float infinity = filter_infinity();
  if (l != l || l == -infinity) return -infinity;
  if (p.uncond) {
    if (u != u || u == -infinity) return -infinity;
    l = filter_bounded(l);
    u = filter_bounded(u);
    l = fused(row.guidance, filter_bounded(l - u), u);
  }
  return l != l ? -infinity : filter_bounded(l);
}

// The same after biases and suppression.
TB_HD float filter_logit(const VocabFilterParams& p, const FilterRow& row, int64_t id, float l,
                         float u) {
  const float infinity = filter_infinity();
  l = filter_guided(p, row, l, u);
  if (!(p.special && (p.special[id / 32] >> (id % 32) & 1u))) return l;
  if (filter_listed(p.suppress, p.num_suppress, id)) return -infinity;
  for (int64_t i = 0; i < p.num_bias; ++i) {
    if (p.bias_ids[i] == id) l = l + p.bias[i];
  }
  return l != l ? -infinity : l == -infinity ? l : filter_bounded(l);
}

TB_HD bool filter_ranked(const VocabFilterParams& p, int64_t id) {
  if (!(p.special && (p.special[id / 32] >> (id % 32) & 1u))) return true;
  return !filter_listed(p.unranked, p.num_unranked, id);
}

TB_HD float filter_scaled(const FilterRow& row, float l) { return filter_bounded(l * row.inverse); }

TB_HD uint64_t filter_mass(float scaled, float best) {
  return static_cast<uint64_t>(static_cast<double>(exp_fast(scaled - best)) * filter_units);
}

// Kept are the ids with a word above `word`, and of those with this word the ones up to id `last`.
struct FilterCut {
  uint32_t word, last;
};
constexpr FilterCut filter_all{0, 0xffffffffu};

TB_HD bool filter_keeps(const FilterCut& cut, uint32_t word, int64_t id) {
  return word > cut.word || (word == cut.word && id <= cut.last);
}
TB_HD FilterCut filter_stricter(const FilterCut& a, const FilterCut& b) {
  if (a.word != b.word) return a.word > b.word ? a : b;
  return a.last < b.last ? a : b;
}

// One digit of the search for the first key, from the top, that brings a sum beyond `limit`. The
// bins hold what lies in each digit, `above` what lies higher; -1 = no key does.
TB_HD int filter_digit(const unsigned long long* bins, uint64_t limit, uint64_t& above) {
  for (int digit = filter_bins - 1; digit >= 0; --digit) {
    if (bins[digit] > 0 && above + bins[digit] > limit) return digit;
    above += bins[digit];
  }
  return -1;
}

struct FilterFound {
  bool found;
  uint32_t key;
  uint64_t above;  // sum over larger keys
};

// Statistics of the ids that count, from the best two of them and sums over all but the token.
struct FilterSums {
  float first, second, token;  // -inf where there is none
  double others, weighted;     // sum of e^(x - first), and of it times x - first
};

TB_HD void filter_finish(const VocabFilterParams& p, int64_t n, const FilterSums& s) {
  const float infinity = filter_infinity();
  const double own = s.token == -infinity ? 0.0 : exp_fast(s.token - s.first);
  const double sum = s.others + own;
  if (s.first == -infinity || sum == 0.0) {
    p.confidence[n] = p.margin[n] = p.entropy[n] = 0.0f;
    p.log_odds[n] = -infinity;
    return;
  }
  const double second = s.second == -infinity ? 0.0 : exp_fast(s.second - s.first);
  const double weighted = own > 0.0 ? s.weighted + own * (s.token - s.first) : s.weighted;
  const double entropy = log(sum) - weighted / sum;
  p.confidence[n] = static_cast<float>(own / sum);
  p.margin[n] = static_cast<float>((1.0 - second) / sum);
  p.entropy[n] = entropy > 0.0 ? static_cast<float>(entropy) : 0.0f;
  p.log_odds[n] =
      s.token == -infinity ? -infinity
      : s.others == 0.0
          ? infinity
          : static_cast<float>((static_cast<double>(s.token) - s.first) - log(s.others));
}

}  // namespace
}  // namespace tokenburst

TB_KERNEL(vocab_filter, tokenburst::VocabFilterParams);
