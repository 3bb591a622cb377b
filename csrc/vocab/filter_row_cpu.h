#pragma once
// A row of vocab_filter in blocks of 512 ids. Blocks of plain numbers are read where they lie. A
// block with NaN, infinities, listed ids, guidance or an end of the row has a patch: its logits as
// floats after all that, -inf for what may not be chosen and for what lies beyond the row.
#include "common/parallel.h"
#include "common/simd.h"
#include "vocab/vocab_filter.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr float none = -infinity;
constexpr int64_t block = 512;
constexpr int64_t grain = 32;  // blocks that are worth a thread
static_assert(block % 32 == 0, "listed ids have a bit each");

inline F32x8 bounded(F32x8 x) {
  return min(max(x, F32x8::splat(-filter_largest)), F32x8::splat(filter_largest));
}

// What a block looks like: logits, and filter_scaled of them, -inf where the logit is -inf.
template <class T>
struct Plain {
  const T* l;
  float logit(int64_t x) const { return widen(l[x]); }
  F32x8 scaled(int64_t x, F32x8 inverse) const { return bounded(F32x8::load(l + x) * inverse); }
};
struct Patch {
  const float* l;
  float logit(int64_t x) const { return l[x]; }
  F32x8 scaled(int64_t x, F32x8 inverse) const {
    const F32x8 logits = F32x8::load(l + x);  // the sum is -inf or too large to matter
    return min(bounded(logits * inverse), logits + F32x8::splat(filter_largest));
  }
};

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

inline float maximum(const float* l) {
  F32x8 most = F32x8::splat(none);
  for (int64_t x = 0; x < block; x += 8) most = max(F32x8::load(l + x), most);
  return reduce_max(most);
}

// Memory of one row; nothing of it is touched that the row does not need.
struct FilterSpace {
  float* patch;       // [blocks * 512]
  uint64_t* keys;     // [blocks * 512]
  uint64_t* mass;     // [blocks]
  double* sums;       // [blocks, 2]
  float* most;        // [blocks], the largest logits
  float* height;      // [blocks], the same scaled
  uint8_t* patched;   // [blocks]
  uint8_t* unranked;  // [blocks], holds ids that do not count
  static FilterSpace of(int64_t blocks) {
    auto* keys = static_cast<uint64_t*>(scratch(static_cast<size_t>(blocks * (block * 12 + 34))));
    auto* patch = reinterpret_cast<float*>(keys + blocks * block);
    auto* mass = reinterpret_cast<uint64_t*>(patch + blocks * block);
    auto* sums = reinterpret_cast<double*>(mass + blocks);
    auto* most = reinterpret_cast<float*>(sums + 2 * blocks);
    auto* patched = reinterpret_cast<uint8_t*>(most + 2 * blocks);
    return {patch, keys, mass, sums, most, most + blocks, patched, patched + blocks};
  }
};

template <class T>
class FilterBlocks {
 public:
  const VocabFilterParams& p;
  const FilterRow ask;
  const int64_t blocks;
  const FilterSpace s;

  FilterBlocks(const VocabFilterParams& params, int64_t n, const T* logits, const T* uncond,
               const FilterSpace& space, bool all_threads)
      : p(params),
        ask(filter_row(params, n)),
        blocks((params.vocab + block - 1) / block),
        s(space),
        l(logits),
        u(uncond),
        shared(all_threads) {}

  // Reads the row; returns the number of NaN.
  int32_t survey() {
    int32_t n_nan = 0;
    ranges([&](int64_t begin, int64_t end) {
      int32_t part = 0;
      for (int64_t i = begin; i < end; ++i) part += survey(i);
      __atomic_fetch_add(&n_nan, part, __ATOMIC_RELAXED);
    });
    if (p.special) apply_lists();
    for (int64_t i = 0; i < blocks; ++i) {
      s.height[i] = s.most[i] == none ? none : filter_scaled(ask, s.most[i]);
    }
    return n_nan;
  }
  // f(begin, end) over the blocks, shared by threads where a row has them to itself.
  template <class F>
  void ranges(F f) const {
    shared ? parallel_for(blocks, grain, f) : f(int64_t{0}, blocks);
  }
  template <class F>
  auto view(int64_t i, F f) const {
    if (s.patched[i]) return f(Patch{s.patch + i * block});
    return f(Plain<T>{l + i * block});
  }
  float logit(int64_t id) const {
    return view(id / block, [&](auto v) { return v.logit(id % block); });
  }
  float scaled(int64_t id) const {
    const float value = logit(id);
    return value == none ? none : filter_scaled(ask, value);
  }
  void copy(int64_t i, float* out) const {
    view(i, [&](auto v) {
      for (int64_t x = 0; x < block; ++x) out[x] = v.logit(x);
    });
  }
  // The best two of scaled logits among the ids that count(value, id); tops are those of the
  // blocks.
  template <class F>
  Best best_two(const float* tops, float inverse, F counts) const {
    Best best{none, none, -1};
    for (int64_t i = 0; i < blocks; ++i) {
      if (!(tops[i] > best.second)) continue;
      view(i, [&](auto v) {
        for (int64_t x = 0; x < block; x += 8) {
          const F32x8 values = v.scaled(x, F32x8::splat(inverse));
          unsigned above = greater(values, F32x8::splat(best.second));
          if (above == 0) continue;
          alignas(32) float value[8];
          values.store(value);
          for (; above; above &= above - 1) {
            const int lane = __builtin_ctz(above);
            const int64_t id = i * block + x + lane;
            if (value[lane] > best.second && counts(value[lane], id)) best.add(value[lane], id);
          }
        }
      });
    }
    return best;
  }
  int32_t num_finite() const {
    int32_t n = 0;
    for (int64_t i = 0; i < blocks; ++i) {
      const float* patch = s.patch + i * block;
      for (int64_t x = 0; s.patched[i] && x < block; x += 8) {
        n += __builtin_popcount(greater(F32x8::load(patch + x), F32x8::splat(none)));
      }
      n += s.patched[i] ? 0 : static_cast<int32_t>(block);
    }
    return n;
  }

 private:
  const T *l, *u;
  bool shared;

  bool listed(int64_t i) const {
    const int64_t words = (p.vocab + 31) / 32, end = (i + 1) * (block / 32);
    uint32_t any = 0;
    for (int64_t w = i * (block / 32); p.special && w < words && w < end; ++w) any |= p.special[w];
    return any != 0;
  }
  int32_t survey(int64_t i) {
    const int64_t first = i * block, rest = p.vocab - first;
    s.patched[i] = 0;
    if (rest >= block && !u && !listed(i)) {  // mostly numbers: 0 times anything else is NaN
      F32x8 most[4], zero[4];
      for (int j = 0; j < 4; ++j) {
        most[j] = F32x8::splat(none);
        zero[j] = F32x8::splat(0.0f);
      }
      for (int64_t x = 0; x < block; x += 32) {
        F32x8 raw[4];
        load_pair(l + first + x, raw[0], raw[1]);
        load_pair(l + first + x + 16, raw[2], raw[3]);
        for (int j = 0; j < 4; ++j) {
          most[j] = max(raw[j], most[j]);
          zero[j] = fused(raw[j], F32x8::splat(0.0f), zero[j]);
        }
      }
      s.most[i] = reduce_max(max(max(most[0], most[1]), max(most[2], most[3])));
      if (!unordered((zero[0] + zero[1]) + (zero[2] + zero[3]))) return 0;
    }
    s.patched[i] = 1;
    float* patch = s.patch + first;
    const int64_t n = rest < block ? rest : block;
    const int32_t n_nan = clean(l + first, n, patch);
    for (int64_t x = 0; u && x < n; x += 8) {
      if (x + 8 <= n && guide(first + x, patch + x)) continue;
      for (int64_t y = x; y < x + 8 && y < n; ++y) {
        patch[y] = filter_guided(p, ask, widen(l[first + y]), widen(u[first + y]));
      }
    }
    for (int64_t x = n; x < block; ++x) patch[x] = none;
    s.most[i] = maximum(patch);
    return n_nan;
  }
  // Writes logits with NaN as -inf and +inf as the largest float; returns the number of NaN.
  static int32_t clean(const T* l, int64_t n, float* out) {
    const F32x8 least = F32x8::splat(none), most = F32x8::splat(filter_largest);
    int32_t n_nan = 0;
    int64_t x = 0;
    for (; x + 8 <= n; x += 8) {
      const F32x8 raw = F32x8::load(l + x);
      n_nan += __builtin_popcount(unordered(raw));
      min(max(raw, least), most).store(out + x);
    }
    for (; x < n; ++x) {
      const float raw = widen(l[x]);
      n_nan += raw != raw;
      out[x] = raw != raw ? none : raw > filter_largest ? filter_largest : raw;
    }
    return n_nan;
  }
  // The guided logits of eight ids, where that takes no more than arithmetic.
  bool guide(int64_t id, float* out) const {
    const F32x8 lowest = F32x8::splat(-filter_largest), most = F32x8::splat(filter_largest);
    const F32x8 a = F32x8::load(l + id), b = F32x8::load(u + id);
    const unsigned numbers = greater(a, F32x8::splat(none)) & greater(b, F32x8::splat(none));
    const F32x8 free = min(b, most), apart = min(max(min(a, most) - free, lowest), most);
    const F32x8 guided = fused(F32x8::splat(ask.guidance), apart, free);
    bounded(guided).store(out);
    return numbers == 0xff && !unordered(guided);
  }
  void apply_lists() {
    for (int64_t i = 0; i < p.num_bias; ++i) s.patch[p.bias_ids[i]] += p.bias[i];
    for (int64_t i = 0; i < p.num_bias; ++i) {
      float& value = s.patch[p.bias_ids[i]];
      value = value != value || value == none ? none : filter_bounded(value);
    }
    for (int64_t i = 0; i < p.num_suppress; ++i) s.patch[p.suppress[i]] = none;
    for (int64_t i = 0; i < blocks; ++i) {
      if (listed(i)) s.most[i] = maximum(s.patch + i * block);
    }
  }
};

}  // namespace
}  // namespace tokenburst::TB_ISA
