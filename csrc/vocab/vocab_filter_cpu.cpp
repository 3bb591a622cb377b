// One row at a time in the thread's scratch memory: guidance, biases and suppression are applied
// once, then everything is read from there.
#include <cmath>

#include "common/parallel.h"
#include "common/simd.h"
#include "vocab/vocab_filter.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr float none = -infinity;

struct Best {
  float first, second;
  int64_t id;
  void add(float value, int64_t at) {
    if (value > first) {
      second = first;
      first = value;
      id = at;
    } else if (value > second) {
      second = value;
    }
  }
};

struct Row {
  const VocabFilterParams& p;
  FilterRow ask;
  const float* logits;  // after guidance, biases and suppression

  float scaled(int64_t id) const { return filter_scaled(ask, logits[id]); }

  // f(id) is (key, integer): the first key from the top that brings the sum of integers beyond
  // `limit`.
  template <class F>
  FilterFound search(uint64_t limit, F f) const {
    FilterFound found{true, 0, 0};
    for (int shift = 24; shift >= 0; shift -= 8) {
      unsigned long long bins[filter_bins] = {};
      const uint32_t known = shift == 24 ? 0 : ~0u << (shift + 8);
      for (int64_t id = 0; id < p.vocab; ++id) {
        if (logits[id] == none) continue;
        const auto [key, amount] = f(id);
        if ((key & known) == (found.key & known)) bins[key >> shift & 255] += amount;
      }
      const int digit = filter_digit(bins, limit, found.above);
      if (digit < 0) return {false, 0, 0};
      found.key |= static_cast<uint32_t>(digit) << shift;
    }
    return found;
  }

  struct KeyAmount {
    uint32_t key;
    uint64_t amount;
  };

  FilterCut top_k_cut() const {
    const int64_t k = p.top_k.present() ? p.top_k[ask.n] : 0;
    if (k < 1) return filter_all;
    const FilterFound found = search(static_cast<uint64_t>(k - 1), [&](int64_t id) {
      return KeyAmount{filter_word(scaled(id)), 1};
    });
    return found.found ? FilterCut{found.key, 0xffffffffu} : filter_all;
  }

  FilterCut top_p_cut(float best) const {
    const float top_p = p.top_p ? p.top_p[ask.n] : 1.0f;
    if (!(top_p < 1.0f)) return filter_all;
    uint64_t total = 0;
    for (int64_t id = 0; id < p.vocab; ++id) {
      if (logits[id] != none) total += filter_mass(scaled(id), best);
    }
    const auto limit = static_cast<uint64_t>(static_cast<double>(top_p) * total);
    const FilterFound at = search(limit, [&](int64_t id) {
      const float value = scaled(id);
      return KeyAmount{filter_word(value), filter_mass(value, best)};
    });
    if (!at.found) return filter_all;
    uint64_t sum = at.above;  // of ids with this word the first ones, up to the one that crosses
    for (int64_t id = 0; id < p.vocab; ++id) {
      if (logits[id] == none || filter_word(scaled(id)) != at.key) continue;
      sum += filter_mass(scaled(id), best);
      if (sum > limit) return {at.key, static_cast<uint32_t>(id)};
    }
    return {at.key, 0xffffffffu};
  }

  int64_t draw(const FilterCut& cut) const {
    float score = none;
    int64_t token = -1;
    for (int64_t base = 0; base < p.vocab; base += 4) {
      Philox4 random;
      bool drawn = false;
      for (int64_t id = base; id < base + 4 && id < p.vocab; ++id) {
        if (logits[id] == none || !filter_keeps(cut, filter_word(scaled(id)), id)) continue;
        if (!drawn) {
          random = philox(ask.seed, static_cast<uint32_t>(base / 4), ask.position, ask.step,
                          ask.sequence);
          drawn = true;
        }
        const float noisy = filter_bounded(
            tokenburst::fused(logits[id], ask.inverse, gumbel(random.word[id - base])));
        if (noisy > score) {
          score = noisy;
          token = id;
        }
      }
    }
    return token;
  }

  void finish(const FilterCut& cut, int64_t token) const {
    Best best{none, none, -1};
    int32_t kept = 0;
    const auto counts = [&](int64_t id) {  // whether an id enters the statistics
      return logits[id] != none && filter_ranked(p, id) &&
             (!p.tempered || filter_keeps(cut, filter_word(scaled(id)), id));
    };
    const auto value = [&](int64_t id) { return p.tempered ? scaled(id) : logits[id]; };
    for (int64_t id = 0; id < p.vocab; ++id) {
      if (logits[id] == none) continue;
      kept += filter_keeps(cut, filter_word(scaled(id)), id);
      if (counts(id)) best.add(value(id), id);
    }
    FilterSums sums{best.first, best.second, none, 0.0, 0.0};
    for (int64_t id = 0; id < p.vocab; ++id) {
      if (!counts(id)) continue;
      const float x = value(id) - best.first, e = tokenburst::exp_fast(x);
      if (id == token) {
        sums.token = value(id);
      } else if (e > 0.0f) {
        sums.others += e;
        sums.weighted += static_cast<double>(e) * x;
      }
    }
    p.n_kept[ask.n] = kept;
    filter_finish(p, ask.n, sums);
  }
};

template <class T>
const T* row_at(const VocabFilterParams& p, const void* data, int64_t outer, int64_t inner,
                int64_t r) {
  return static_cast<const T*>(data) + r / p.row_length * outer + r % p.row_length * inner;
}

template <class T>
void filter_one(const VocabFilterParams& p, int64_t n) {
  const int64_t r = p.rows.present() ? p.rows[n] : n;
  p.token[n] = -1;
  p.gap[n] = 0.0f;
  p.n_kept[n] = p.n_nan[n] = 0;
  filter_finish(p, n, {none, none, none, 0.0, 0.0});
  if (r < 0) return;
  auto* combined = static_cast<float*>(scratch(p.vocab * sizeof(float)));
  const Row row{p, filter_row(p, n), combined};
  const T* l = row_at<T>(p, p.logits, p.outer_stride, p.row_stride, r);
  const T* u =
      p.uncond ? row_at<T>(p, p.uncond, p.uncond_outer_stride, p.uncond_row_stride, r) : nullptr;
  Best best{none, none, -1};
  int32_t n_nan = 0;
  for (int64_t id = 0; id < p.vocab; ++id) {
    const float given = widen(l[id]);
    n_nan += given != given;
    combined[id] = filter_logit(p, row.ask, id, given, u ? widen(u[id]) : 0.0f);
    best.add(combined[id], id);
  }
  p.n_nan[n] = n_nan;
  if (best.id < 0) return;
  p.gap[n] = best.first - best.second;
  const float top = filter_scaled(row.ask, best.first);
  const FilterCut cut = filter_stricter(row.top_k_cut(), row.top_p_cut(top));
  p.token[n] = row.ask.draws ? row.draw(cut) : best.id;
  row.finish(cut, p.token[n]);
}

void mark(const VocabFilterParams& p, const Ints& ids, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p.special[ids[i] / 32] |= 1u << (ids[i] % 32);
}

}  // namespace

void vocab_filter(const VocabFilterParams& p) {
  if (p.special) {
    for (int64_t w = 0; w < (p.vocab + 31) / 32; ++w) p.special[w] = 0;
    mark(p, p.suppress, p.num_suppress);
    mark(p, p.bias_ids, p.num_bias);
    mark(p, p.unranked, p.num_unranked);
  }
  parallel_for(p.count, p.vocab < 4096 ? 4096 / p.vocab + 1 : 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      switch (p.dtype) {
        case DType::f32:
          filter_one<float>(p, n);
          break;
        case DType::f16:
          filter_one<Half>(p, n);
          break;
        case DType::bf16:
          filter_one<BFloat>(p, n);
          break;
      }
    }
  });
}

}  // namespace tokenburst::TB_ISA
