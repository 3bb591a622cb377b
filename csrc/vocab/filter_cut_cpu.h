#pragma once
// Where top-k and top-p cut a row. Masses are summed block by block; what may lie at the cut is
// counted into bins by its distance from the best id, and only what falls into the bin of the cut
// is looked at id by id. Ids whose masses come to nothing, or that are too light for the cut, are
// not looked at again.
#include "vocab/filter_row_cpu.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr float nothing = -22.5f;  // e^nothing is less than a unit of mass
constexpr int cut_bins = 1024;

// Sum of floor(e 2^32) over 0 <= e <= 1, exact, of at most 64 vectors.
class MassSum {
 public:
  void add(F32x8 e) {
    const F32x8 unit = F32x8::splat(65536.0f), wide = e * unit, high = truncated(wide);
    high_.add(high + F32x8::splat(grid));
    low_.add(truncated((wide - high) * unit) + F32x8::splat(grid));
    ++num_high_;
    ++num_low_;
  }
  void add_light(F32x8 e) {  // of e < 2^-9
    low_.add(truncated(e * F32x8::splat(4294967296.0f)) + F32x8::splat(grid));
    ++num_low_;
  }
  uint64_t take() const {
    uint32_t high[8], low[8];
    high_.store(high);
    low_.store(low);
    uint64_t sum = 0;
    for (int i = 0; i < 8; ++i) {
      sum += uint64_t{high[i] - num_high_ * to_bits(grid)} << 16;
      sum += low[i] - num_low_ * to_bits(grid);
    }
    return sum;
  }

 private:
  static constexpr float grid = 8388608.0f;  // an integer below it shows in the bits of the sum
  BitSum high_, low_;
  uint32_t num_high_ = 0, num_low_ = 0;
};
constexpr float light = -6.3f;  // e^light < 2^-9

template <class T>
class FilterCuts {
 public:
  FilterCuts(const FilterBlocks<T>& row, float best) : b(row), p(row.p), top(best) {}

  FilterCut top_k() const {
    const int64_t k = p.top_k.present() ? p.top_k[b.ask.n] : 0;
    if (k < 1 || k >= p.vocab) return filter_all;
    // The k-th largest of the blocks' maxima is no larger than the k-th largest of all.
    float least = -filter_largest;
    int64_t n = 0;
    if (k <= b.blocks) {
      for (int64_t i = 0; i < b.blocks; ++i) {
        if (b.s.height[i] != none) b.s.keys[n++] = key_of(b.s.height[i], i);
      }
      if (k <= n) least = filter_value(resolve(n, 0, static_cast<uint64_t>(k - 1), count_one).word);
    }
    n = collect(least, [&](F32x8 z) { return ~greater(F32x8::splat(least), z); });
    if (n < k) return filter_all;
    return {resolve(n, 0, static_cast<uint64_t>(k - 1), count_one).word, 0xffffffffu};
  }

  FilterCut top_p() const {
    const float share = p.top_p ? p.top_p[b.ask.n] : 1.0f;
    if (!(share < 1.0f)) return filter_all;
    b.ranges([&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) b.s.mass[i] = mass_of(i);
    });
    uint64_t total = 0;
    for (int64_t i = 0; i < b.blocks; ++i) total += b.s.mass[i];
    const auto limit = static_cast<uint64_t>(static_cast<double>(share) * total);
    // The ids from the cut on hold what is beyond the limit, and the one at the cut is the
    // heaviest of them, so it weighs no less than their mean.
    const double mean = static_cast<double>(total - limit) / static_cast<double>(p.vocab);
    const double bound = std::log(mean / filter_units) - 1e-3;
    const float least = bound > nothing ? static_cast<float>(bound) : nothing;
    const float scale = (cut_bins - 1) / least;
    unsigned long long bins[cut_bins] = {};
    b.ranges([&](int64_t begin, int64_t end) { fill(begin, end, least, scale, bins); });
    uint64_t above = 0;
    int bin = 0;
    while (bin < cut_bins && above + bins[bin] <= limit) above += bins[bin++];
    if (bin == cut_bins) return filter_all;
    const F32x8 from = F32x8::splat(static_cast<float>(bin)),
                to = F32x8::splat(static_cast<float>(bin + 1));
    const int64_t n = collect(top + (static_cast<float>(bin) + 1.01f) / scale, [&](F32x8 z) {
      const F32x8 at = place(z - F32x8::splat(top), scale);
      return ~greater(from, at) & greater(to, at);
    });
    return resolve(n, above, limit, [&](float z) { return filter_mass(z, top); });
  }

 private:
  const FilterBlocks<T>& b;
  const VocabFilterParams& p;
  float top;  // the largest scaled logit

  static uint64_t count_one(float) { return 1; }
  static uint64_t key_of(float z, int64_t id) {
    return static_cast<uint64_t>(filter_word(z)) << 32 | static_cast<uint64_t>(id);
  }
  static F32x8 place(F32x8 below, float scale) { return below * F32x8::splat(scale); }

  uint64_t mass_of(int64_t i) const {
    const float highest = b.s.height[i] - top;
    if (!(highest > nothing)) return 0;
    const F32x8 inverse = F32x8::splat(b.ask.inverse), base = F32x8::splat(top);
    return b.view(i, [&](auto v) {
      MassSum sum;
      for (int64_t x = 0; x < block; x += 32) {
        ExpParts parts[4];
        F32x8 e[4];
        for (int j = 0; j < 4; ++j) parts[j] = exp_parts(v.scaled(x + 8 * j, inverse) - base);
        exp_of_parts(parts, e);
        for (int j = 0; j < 4; ++j) highest < light ? sum.add_light(e[j]) : sum.add(e[j]);
      }
      return sum.take();
    });
  }
  // Adds masses of ids no further than `least` below the best to the bins of their distances.
  void fill(int64_t begin, int64_t end, float least, float scale, unsigned long long* bins) const {
    const F32x8 inverse = F32x8::splat(b.ask.inverse), base = F32x8::splat(top);
    unsigned long long mine[cut_bins] = {};
    for (int64_t i = begin; i < end; ++i) {
      if (b.s.mass[i] == 0 || b.s.height[i] - top < least) continue;
      alignas(32) float below[block + 8];
      const int64_t n = b.view(i, [&](auto v) {
        int64_t found = 0;
        for (int64_t x = 0; x < block; x += 8) {
          const F32x8 apart = v.scaled(x, inverse) - base;
          found += append(below + found, apart, ~greater(F32x8::splat(least), apart) & 0xffu);
        }
        return found;
      });
      alignas(32) float at[8], e[8];
      for (int64_t x = 0; x < n; x += 8) {
        const F32x8 apart = F32x8::load(below + x);
        place(apart, scale).store(at);
        exp_weighed(apart).store(e);
        for (int64_t j = 0; j < 8 && x + j < n; ++j) {
          mine[static_cast<int>(at[j])] +=
              static_cast<uint64_t>(static_cast<double>(e[j]) * filter_units);
        }
      }
    }
    for (int d = 0; d < cut_bins; ++d) {
      if (mine[d] > 0) __atomic_fetch_add(&bins[d], mine[d], __ATOMIC_RELAXED);
    }
  }
  // Keys of the ids whose scaled logits f takes, all of which are >= least; ids ascending.
  template <class F>
  int64_t collect(float least, F f) const {
    const F32x8 inverse = F32x8::splat(b.ask.inverse);
    int64_t n = 0;
    for (int64_t i = 0; i < b.blocks; ++i) {
      if (b.s.height[i] < least) continue;
      b.view(i, [&](auto v) {
        alignas(32) float value[8];
        for (int64_t x = 0; x < block; x += 8) {
          const F32x8 z = v.scaled(x, inverse);
          unsigned in = f(z) & 0xffu;
          if (in == 0) continue;
          z.store(value);
          for (; in; in &= in - 1) {
            const int lane = __builtin_ctz(in);
            b.s.keys[n++] = key_of(value[lane], i * block + x + lane);
          }
        }
      });
    }
    return n;
  }
  // The first id, by value descending and id ascending, that brings the sum of measures beyond the
  // limit, among n keys in the order of ids, beside `above`. Equal values have equal measures.
  template <class F>
  FilterCut resolve(int64_t n, uint64_t above, uint64_t limit, F measure) const {
    uint64_t* keys = b.s.keys;
    const auto word = [&](int64_t i) { return static_cast<uint32_t>(keys[i] >> 32); };
    while (true) {
      uint32_t low = 0xffffffffu, high = 0;
      for (int64_t i = 0; i < n; ++i) {
        low = word(i) < low ? word(i) : low;
        high = word(i) > high ? word(i) : high;
      }
      if (low >= high) break;
      const int bits = 32 - __builtin_clz(high - low), shift = bits > 10 ? bits - 10 : 0;
      uint64_t bins[cut_bins] = {};
      for (int64_t i = 0; i < n; ++i) {
        bins[(word(i) - low) >> shift] += measure(filter_value(word(i)));
      }
      uint32_t digit = cut_bins - 1;
      for (; digit > 0 && above + bins[digit] <= limit; --digit) above += bins[digit];
      int64_t left = 0;
      for (int64_t i = 0; i < n; ++i) {
        if ((word(i) - low) >> shift == digit) keys[left++] = keys[i];
      }
      n = left;
    }
    if (n == 0) return filter_all;
    const uint64_t each = measure(filter_value(word(0)));
    const auto ahead = each > 0 ? static_cast<int64_t>((limit - above) / each) : n;
    return {word(0), static_cast<uint32_t>(keys[ahead < n ? ahead : n - 1])};
  }
};

}  // namespace
}  // namespace tokenburst::TB_ISA
