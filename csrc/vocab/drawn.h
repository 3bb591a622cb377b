#pragma once
// The draws of one row, given its total and something that finds the token at a place in the
// cumulative masses. Gumbel values are the logarithms of arrival times: tokens arrive at rates
// proportional to their probabilities, so the first arrival is exponential and picks a token by
// its share, and what is left goes on as if it had just begun. The k earliest arrivals are k draws
// without replacement, in order, and no token needs noise of its own.
#include "vocab/tile.h"

namespace tokenburst {
namespace {

struct RowLaw {
  float most, inv_t;  // inv_t 0: greedy
  float best;         // log2 of the best token's mass, in units of 2^40
  uint64_t total;
  TB_HD float log_total() const {  // beside the best token
    const float log = fused(best, -0.693147181f, log_of(total));
    return log > 0.0f ? log : 0.0f;
  }
  TB_HD float lse() const { return inv_t == 0.0f ? most : fused(most, inv_t, log_total()); }
  TB_HD static float log_of(uint64_t mass) {
    return log_fast(static_cast<float>(static_cast<double>(mass) * 0x1p-40));
  }
};

// ln(e^a + e^b)
TB_HD float log_add(float a, float b) {
  const float high = a > b ? a : b, low = a > b ? b : a;
  return high + log_fast(1.0f + exp_fast(low - high));
}

TB_HD void write_none(const VocabSampleParams& p, int64_t n, int64_t from) {
  for (int64_t i = from; i < p.k; ++i) {
    p.ids[n * p.k + i] = -1;
    p.logq[n * p.k + i] = p.g[n * p.k + i] = from_bits(0xff800000u);
  }
}

struct Found {
  int64_t id;
  uint64_t mass;  // that leaves with it
};

// Row supplies: logit(id), find(target), which gives the token at a place in the cumulative masses
// without those that were removed, and remove(found).
template <class Row>
TB_HD void write_draws(const VocabSampleParams& p, int64_t n, const RowLaw& law, Row& row,
                       bool leader) {
  const auto seed = static_cast<uint64_t>(p.rng[n * 4]);
  const auto sequence = static_cast<uint32_t>(p.rng[n * 4 + 1]);
  const auto step = static_cast<uint32_t>(p.rng[n * 4 + 2]);
  const auto position = static_cast<uint32_t>(p.rng[n * 4 + 3]);
  const float phi = p.parent_phi ? p.parent_phi[n] : 0.0f;
  const float log_total = law.log_total(), log_all = RowLaw::log_of(law.total);
  uint64_t left = law.total;
  float late = 0.0f;  // ln of the last arrival
  for (int64_t i = 0; i < p.k; ++i) {
    if (left == 0) {
      if (leader) write_none(p, n, i);
      return;
    }
    const Philox4 random =
        philox(seed, drafting + static_cast<uint32_t>(i), position, step, sequence);
    const Found found = row.find(random_below(left, random));
    float g = 0.0f;
    if (!p.replacement) {
      const float rate = phi + (RowLaw::log_of(left) - log_all);
      const float wait = log_fast(exponential(random.word[2])) - rate;
      const bool given = i == 0 && p.parent_g;
      late = given ? -p.parent_g[n] : i == 0 ? wait : log_add(late, wait);
      g = -late;
      row.remove(found);
      left -= found.mass;
    }
    if (!leader) continue;
    p.ids[n * p.k + i] = found.id;
    p.logq[n * p.k + i] = fused(row.logit(found.id) - law.most, law.inv_t, -log_total);
    p.g[n * p.k + i] = g;
  }
}

// At temperature 0, without noise: token `id` of rank i, all probability on the first.
TB_HD void write_ranked(const VocabSampleParams& p, int64_t n, int64_t i, int64_t id) {
  const int64_t at = n * p.k + i;
  p.ids[at] = id;
  p.logq[at] = i == 0 || p.replacement ? 0.0f : from_bits(0xff800000u);
  p.g[at] = i > 0 && !p.replacement ? p.logq[at] : p.parent_g ? p.parent_g[n] : 0.0f;
}

}  // namespace
}  // namespace tokenburst
