// One row at a time in the thread's scratch memory: guidance, biases and suppression are applied
// once, then everything is read from there, eight ids at a time where no order of ids matters.
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

// Rows end in whole vectors: what is beyond the vocabulary is -inf.
inline int64_t padded(int64_t vocab) { return (vocab + 63) / 64 * 64; }

// Writes logits with NaN as -inf and +inf as the largest float; returns the number of NaN.
template <class T>
int32_t clean(const T* l, int64_t n, float* out) {
  const F32x8 least = F32x8::splat(none), most = F32x8::splat(filter_largest);
  int32_t n_nan = 0;
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const F32x8 x = F32x8::load(l + i);
    n_nan += __builtin_popcount(unordered(x));
    min(max(x, least), most).store(out + i);
  }
  for (; i < n; ++i) {
    const float x = widen(l[i]);
    n_nan += x != x;
    out[i] = x != x ? none : x > filter_largest ? filter_largest : x;
  }
  return n_nan;
}

// The guided logits of eight ids, where that takes no more than arithmetic.
template <class T>
bool guide(const T* l, const T* u, float guidance, float* out) {
  const F32x8 lowest = F32x8::splat(-filter_largest), most = F32x8::splat(filter_largest);
  const F32x8 a = F32x8::load(l), b = F32x8::load(u);
  const unsigned numbers = greater(a, F32x8::splat(none)) & greater(b, F32x8::splat(none));
  const F32x8 free = min(b, most), apart = min(max(min(a, most) - free, lowest), most);
  const F32x8 guided = fused(F32x8::splat(guidance), apart, free);
  min(max(guided, lowest), most).store(out);
  return numbers == 0xff && !unordered(guided);
}

Best best_of(const float* x, int64_t n) {
  Best best{none, none, -1};
  for (int64_t i = 0; i < n; i += 8) {
    unsigned above = greater(F32x8::load(x + i), F32x8::splat(best.second));
    for (; above; above &= above - 1) {
      const int lane = __builtin_ctz(above);
      best.add(x[i + lane], i + lane);
    }
  }
  return best;
}

int32_t count_of(const float* x, int64_t n) {  // that are not -inf
  int32_t count = 0;
  for (int64_t i = 0; i < n; i += 8) {
    count += __builtin_popcount(greater(F32x8::load(x + i), F32x8::splat(none)));
  }
  return count;
}

// Sums of e^(x - first) and of it times x - first, in float over 64 ids and in double beyond.
void add_up(const float* x, int64_t n, FilterSums& sums) {
  const F32x8 first = F32x8::splat(sums.first), zero = F32x8::splat(0.0f);
  for (int64_t i = 0; i < n; i += 64) {
    F32x8 others = zero, weighted = zero;
    for (int64_t j = i; j < i + 64; j += 8) {
      const F32x8 below = max(F32x8::load(x + j) - first, F32x8::splat(-100.0f));  // e^-100 is 0
      const F32x8 e = exp_fast(below);
      others = others + e;
      weighted = fused(e, below, weighted);
    }
    sums.others += reduce_add(others);
    sums.weighted += reduce_add(weighted);
  }
}

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

  // Statistics from `counted` [padded(vocab)]: what enters them, -inf elsewhere. The token's place
  // is cleared on the way.
  void finish(const Best& best, int64_t token, float* counted) const {
    FilterSums sums{best.first, best.second, counted[token], 0.0, 0.0};
    counted[token] = none;
    if (best.id >= 0) add_up(counted, padded(p.vocab), sums);
    filter_finish(p, ask.n, sums);
  }

  // Leaves what is kept and counts; returns how many are kept.
  int32_t count(const FilterCut& cut, float* counted) const {
    int32_t kept = 0;
    for (int64_t id = 0; id < p.vocab; ++id) {
      const bool keeps = logits[id] != none && filter_keeps(cut, filter_word(scaled(id)), id);
      const bool counts = logits[id] != none && filter_ranked(p, id) && (!p.tempered || keeps);
      kept += keeps;
      counted[id] = !counts ? none : p.tempered ? scaled(id) : logits[id];
    }
    for (int64_t id = p.vocab; id < padded(p.vocab); ++id) counted[id] = none;
    return kept;
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
  const int64_t size = padded(p.vocab);
  auto* combined = static_cast<float*>(scratch(2 * size * sizeof(float)));
  auto* counted = combined + size;
  const Row row{p, filter_row(p, n), combined};
  const T* l = row_at<T>(p, p.logits, p.outer_stride, p.row_stride, r);
  const T* u =
      p.uncond ? row_at<T>(p, p.uncond, p.uncond_outer_stride, p.uncond_row_stride, r) : nullptr;
  const auto form = [&](int64_t id) {
    combined[id] = filter_logit(p, row.ask, id, widen(l[id]), u ? widen(u[id]) : 0.0f);
  };
  p.n_nan[n] = clean(l, p.vocab, combined);
  for (int64_t id = 0; u && id < p.vocab; id += 8) {
    if (id + 8 <= p.vocab && guide(l + id, u + id, row.ask.guidance, combined + id)) continue;
    for (int64_t i = id; i < id + 8 && i < p.vocab; ++i) form(i);
  }
  for (int64_t i = 0; i < p.num_suppress; ++i) form(p.suppress[i]);
  for (int64_t i = 0; i < p.num_bias; ++i) form(p.bias_ids[i]);
  for (int64_t id = p.vocab; id < size; ++id) combined[id] = none;
  const Best best = best_of(combined, size);
  if (best.id < 0) return;
  p.gap[n] = best.first - best.second;
  const float top = filter_scaled(row.ask, best.first);
  const FilterCut cut = filter_stricter(row.top_k_cut(), row.top_p_cut(top));
  p.token[n] = row.ask.draws ? row.draw(cut) : best.id;
  const bool all = cut.word == filter_all.word && cut.last == filter_all.last;
  if (all && !p.tempered && p.num_unranked == 0) {
    p.n_kept[n] = count_of(combined, size);
    row.finish(best, p.token[n], combined);
  } else {
    p.n_kept[n] = row.count(cut, counted);
    row.finish(best_of(counted, size), p.token[n], counted);
  }
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
