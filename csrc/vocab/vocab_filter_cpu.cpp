// A row is read in passes over its blocks: for their maxima, for masses where top-p cuts, for what
// lies near the cut, for the draw and for the sums of the statistics. Each pass leaves out the
// blocks whose maximum says that they do not matter to it.
#include <cmath>

#include "common/parallel.h"
#include "vocab/draw_cpu.h"
#include "vocab/filter_cut_cpu.h"

namespace tokenburst::TB_ISA {
namespace {

struct Chosen {
  int64_t token;
  int32_t n_kept;
};

template <class T>
class Filter {
 public:
  Filter(const FilterBlocks<T>& row, const FilterCut& at)
      : b(row), p(row.p), cut(at), all(at.word == filter_all.word) {
    const float value = all ? -filter_largest : filter_value(cut.word);
    to_last = value;
    behind = all || cut.last == filter_all.last ? value : filter_value(cut.word + 1);
  }

  Chosen choose(int64_t best) const {
    if (all && !b.ask.draws) return {best, b.num_finite()};
    Chosen chosen{best, 0};
    uint64_t drawn = 0;  // the best score and its id
    b.ranges([&](int64_t begin, int64_t end) {
      int32_t kept = 0;
      Draw draw{b.ask.draws, b.ask.inverse, b.ask.seed, b.ask.sequence, b.ask.step, b.ask.position,
                none,        none,          -1};
      if (draw.active && keeps(b.scaled(best), best)) {
        draw.offer(best, b.logit(best), draw.words(best).word[best % 4]);
      }
      for (int64_t i = begin; i < end; ++i) kept += choose(i, draw);
      __atomic_fetch_add(&chosen.n_kept, kept, __ATOMIC_RELAXED);
      if (draw.token < 0) return;
      const uint64_t mine = static_cast<uint64_t>(filter_word(draw.score)) << 32 |
                            (0xffffffffu - static_cast<uint32_t>(draw.token));
      uint64_t most = __atomic_load_n(&drawn, __ATOMIC_RELAXED);
      while (mine > most && !__atomic_compare_exchange_n(&drawn, &most, mine, false,
                                                         __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      }
    });
    if (b.ask.draws) chosen.token = 0xffffffffu - static_cast<uint32_t>(drawn);
    return chosen;
  }

  void finish(const Best& best, const Chosen& chosen) const {
    const float inverse = p.tempered ? b.ask.inverse : 1.0f;
    const float* tops = p.tempered ? b.s.height : b.s.most;
    const auto scaled = [&](float l) { return l == none ? none : filter_bounded(l * inverse); };
    Best two{scaled(best.first), scaled(best.second), best.id};
    if (p.tempered && chosen.n_kept < 2) two.second = none;
    if (p.num_unranked > 0) {
      for (int64_t i = 0; i < b.blocks; ++i) b.s.unranked[i] = 0;
      for (int64_t i = 0; i < p.num_unranked; ++i) b.s.unranked[p.unranked[i] / block] = 1;
      two = b.best_two(tops, inverse, [&](float value, int64_t id) {
        return filter_ranked(p, id) && (!p.tempered || keeps(value, id));
      });
    }
    const float own = filter_ranked(p, chosen.token) ? scaled(b.logit(chosen.token)) : none;
    FilterSums sums{two.first, two.second, own, 0.0, 0.0};
    if (two.first != none) {
      b.ranges([&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          double* out = b.s.sums + 2 * i;
          out[0] = out[1] = 0.0;
          const bool counts = p.tempered ? tops[i] >= least(i) : tops[i] != none;
          if (counts && tops[i] - two.first > -88.0f) add_up(i, two.first, inverse, chosen, out);
        }
      });
      for (int64_t i = 0; i < b.blocks; ++i) {
        sums.others += b.s.sums[2 * i];
        sums.weighted += b.s.sums[2 * i + 1];
      }
    }
    filter_finish(p, b.ask.n, sums);
  }

 private:
  const FilterBlocks<T>& b;
  const VocabFilterParams& p;
  const FilterCut cut;
  const bool all;         // nothing is cut
  float to_last, behind;  // the least scaled logit that is kept, up to id `last` and after it

  bool keeps(float scaled, int64_t id) const { return filter_keeps(cut, filter_word(scaled), id); }
  // The least scaled logit that block i keeps; where `last` divides it, more is to be asked.
  float least(int64_t i) const { return i * block <= cut.last ? to_last : behind; }
  bool divided(int64_t i) const {
    return to_last != behind && i * block <= cut.last && cut.last < (i + 1) * block - 1;
  }

  // Counts what block i keeps, and draws from it.
  int32_t choose(int64_t i, Draw& draw) const {
    if (!(b.s.height[i] >= least(i))) return 0;
    const F32x8 inverse = F32x8::splat(b.ask.inverse), bar = F32x8::splat(least(i));
    return b.view(i, [&](auto v) {
      uint32_t kept[block / 32] = {};
      int32_t n = 0;
      for (int64_t x = 0; x < block; x += 8) {
        const unsigned in = ~greater(bar, v.scaled(x, inverse)) & 0xffu;
        kept[x / 32] |= in << (x % 32);
      }
      for (int64_t w = 0; divided(i) && w < block / 32; ++w) {
        for (uint32_t m = kept[w]; m; m &= m - 1) {
          const int64_t x = w * 32 + __builtin_ctz(m);
          if (!keeps(filter_scaled(b.ask, v.logit(x)), i * block + x)) kept[w] &= ~(m & -m);
        }
      }
      for (const uint32_t word : kept) n += __builtin_popcount(word);
      if (n == 0 || !draw.active || draw.hopeless(b.s.most[i])) return n;
      uint32_t within = draw.limit(b.s.most[i]);
      for (int64_t w = 0; w < block / 32; ++w) {
        if (kept[w] == 0) continue;
        draw.scan(i * block + w * 32, kept[w], b.s.most[i], within,
                  [&](int64_t x) { return v.logit(w * 32 + x); });
      }
      return n;
    });
  }

  // Sums of e^x and of e^x x over what counts in block i but the token, x = scaled logit - first:
  // in float within the block, in double beyond.
  void add_up(int64_t i, float first, float inverse, const Chosen& chosen, double* out) const {
    const float bar = p.tempered ? least(i) : -filter_largest;
    const bool cleared = chosen.token / block == i || (p.num_unranked > 0 && b.s.unranked[i]) ||
                         (p.tempered && divided(i));
    if (!cleared) return b.view(i, [&](auto v) { add_up(v, first, inverse, bar, out); });
    alignas(64) float copy[block];
    b.copy(i, copy);
    for (int64_t x = 0; x < block && p.tempered && divided(i); ++x) {
      if (!keeps(filter_scaled(b.ask, copy[x]), i * block + x)) copy[x] = none;
    }
    for (int64_t j = 0; j < p.num_unranked; ++j) {
      if (p.unranked[j] / block == i) copy[p.unranked[j] % block] = none;
    }
    if (chosen.token / block == i) copy[chosen.token % block] = none;
    add_up(Patch{copy}, first, inverse, bar, out);
  }
  template <class View>
  static void add_up(View v, float first, float inverse, float least, double* out) {
    const F32x8 base = F32x8::splat(first), scale = F32x8::splat(inverse),
                bar = F32x8::splat(least);
    F32x8 others[4], weighted[4];
    for (int j = 0; j < 4; ++j) others[j] = weighted[j] = F32x8::splat(0.0f);
    alignas(32) float kept[block + 32];
    int64_t n = 0;
    for (int64_t x = 0; x < block; x += 8) {
      const F32x8 z = v.scaled(x, scale);
      n += append(kept + n, z - base, ~greater(bar, z) & 0xffu);
    }
    for (int64_t x = n; x < (n + 31) / 32 * 32; ++x) kept[x] = none;
    for (int64_t x = 0; x < n; x += 32) {
      for (int j = 0; j < 4; ++j) {
        const F32x8 below = max(F32x8::load(kept + x + 8 * j), F32x8::splat(-100.0f));
        const F32x8 e = exp_fast(below);  // e^-100 is 0
        others[j] = others[j] + e;
        weighted[j] = fused(e, below, weighted[j]);
      }
    }
    out[0] = reduce_add((others[0] + others[1]) + (others[2] + others[3]));
    out[1] = reduce_add((weighted[0] + weighted[1]) + (weighted[2] + weighted[3]));
  }
};

template <class T>
const T* row_at(const VocabFilterParams& p, const void* data, int64_t outer, int64_t inner,
                int64_t r) {
  return static_cast<const T*>(data) + r / p.row_length * outer + r % p.row_length * inner;
}

template <class T>
void filter_one(const VocabFilterParams& p, int64_t n, bool shared) {
  const int64_t r = p.rows.present() ? p.rows[n] : n;
  p.token[n] = -1;
  p.gap[n] = 0.0f;
  p.n_kept[n] = p.n_nan[n] = 0;
  filter_finish(p, n, {none, none, none, 0.0, 0.0});
  if (r < 0) return;
  const T* l = row_at<T>(p, p.logits, p.outer_stride, p.row_stride, r);
  const T* u =
      p.uncond ? row_at<T>(p, p.uncond, p.uncond_outer_stride, p.uncond_row_stride, r) : nullptr;
  FilterBlocks<T> row(p, n, l, u, FilterSpace::of((p.vocab + block - 1) / block), shared);
  p.n_nan[n] = row.survey();
  const Best best = row.best_two(row.s.most, 1.0f, [](float, int64_t) { return true; });
  if (best.id < 0) return;
  p.gap[n] = best.first - best.second;
  const FilterCuts<T> cuts(row, filter_scaled(row.ask, best.first));
  const Filter<T> filter(row, filter_stricter(cuts.top_k(), cuts.top_p()));
  const Chosen chosen = filter.choose(best.id);
  p.token[n] = chosen.token;
  p.n_kept[n] = chosen.n_kept;
  filter.finish(best, chosen);
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
  const auto filter = [&p](int64_t begin, int64_t end, bool shared) {
    for (int64_t n = begin; n < end; ++n) {
      switch (p.dtype) {
        case DType::f32:
          filter_one<float>(p, n, shared);
          break;
        case DType::f16:
          filter_one<Half>(p, n, shared);
          break;
        case DType::bf16:
          filter_one<BFloat>(p, n, shared);
          break;
      }
    }
  };
  if (p.count < thread_count() && p.vocab >= 2 * grain * block) return filter(0, p.count, true);
  parallel_for(p.count, p.vocab < 4096 ? 4096 / p.vocab + 1 : 1,
               [&](int64_t begin, int64_t end) { filter(begin, end, false); });
}

}  // namespace tokenburst::TB_ISA
