#pragma once
// The target's row at a node on the CPU: weights, in all and by blocks, of the tokens that top-k,
// top-p and min-p leave. A row is read twice: for the maxima of its blocks, then for the
// exponentials. Where something cuts, only tokens that may stay are looked at one by one.
#include <cmath>

#include "tree/verify_blocks_cpu.h"

namespace tokenburst::TB_ISA {
namespace {

class TargetRow {
 public:
  TargetRow(const TreeVerifySampleParams& params, int64_t sequence, const Space& space,
            bool all_threads)
      : p(params), b(sequence), s(space), blocks(Space::blocks(params.vocab)), shared(all_threads) {
    words = (p.vocab + 31) / 32;
    marked = p.penalty ? p.marked + b * words : nullptr;
  }

  static float load(DType dtype, const void* data, int64_t i) { return load_logit(dtype, data, i); }

  bool leader() const { return true; }
  uint64_t total() const { return total_; }
  int64_t best() const { return best_; }
  int32_t& n_nan() { return n_nan_; }

  void start_path() {
    for (int64_t i = 0; marked && i < words; ++i) {
      marked[i] = p.seen ? static_cast<uint32_t>(p.seen[b * words + i]) : 0;
    }
  }
  void mark(int64_t token) {
    if (marked) marked[token / 32] |= 1u << (token % 32);
  }

  bool open(int64_t node) {  // false if its row holds no number
    const int64_t first = b * p.batch_stride + node * p.node_stride;
    const float t = p.temperature ? p.temperature[b] : 1.0f;
    const float top_p = p.top_p ? p.top_p[b] : 1.0f, min_p = p.min_p ? p.min_p[b] : 0.0f;
    const int64_t k = p.top_k.present() ? p.top_k[b] : 0;
    greedy = !(t > 0.0f);
    const bool cut = !greedy && ((0 < k && k < p.vocab) || top_p < 1.0f || min_p > 0.0f);
    const bool copied = cut || marked;
    best_ = survey(p.dtype, p.logits, first, copied ? s.e : nullptr, s.most, true);
    if (best_ < 0) return false;
    most_ = s.most[best_ / block];
    total_ = static_cast<uint64_t>(weight_unit);
    if (greedy) return true;
    inv_t = inverse_temperature(t);
    if (0 < k && k < p.vocab) {
      keep_top(k, top_p, min_p);
    } else if (cut) {
      keep_some(top_p, min_p);
    } else {
      ranges([&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) s.mass[i] = mass_of_block(i, first, copied);
      });
    }
    total_ = 0;
    for (int64_t i = 0; i < blocks; ++i) total_ += s.mass[i];
    return true;
  }
  double weight(int64_t x) const {
    if (greedy) return x == best_ ? weight_unit : 0.0;
    return s.mass[x / block] == 0 ? 0.0 : tokenburst::weight(s.e[x]);
  }
  int64_t entropy() const {
    const F64x8 total = F64x8::splat(static_cast<double>(total_));
    uint64_t sum = 0;
    ranges([&](int64_t begin, int64_t end) {
      uint64_t part = 0;
      for (int64_t i = begin; i < end; ++i) part += s.mass[i] == 0 ? 0 : entropy_of(i, total);
      __atomic_fetch_add(&sum, part, __ATOMIC_RELAXED);
    });
    return static_cast<int64_t>(sum);
  }
  // The token in whose share of the row `target` falls, tokens in the order of their ids.
  int64_t find_plain(uint64_t target) {
    return search(s.mass, target, [&](int64_t x) { return weight(x); });
  }

 protected:
  int64_t length_of(int64_t i) const {
    return p.vocab - i * block < block ? p.vocab - i * block : block;
  }
  int64_t padded(int64_t i) const { return (length_of(i) + 7) / 8 * 8; }
  template <class F>
  void ranges(F f) const {
    shared ? parallel_for(blocks, grain, f) : f(int64_t{0}, blocks);
  }
  // The largest logit of each block of a row, cleaned, and all of them in `out` if that is given;
  // returns the first of the best tokens, -1 where there is no number.
  int64_t survey(DType dtype, const void* data, int64_t first, float* out, float* most,
                 bool target) {
    ranges([&](int64_t begin, int64_t end) {
      int32_t n_nan = 0;
      for (int64_t i = begin; i < end; ++i) {
        float* l = out ? out + i * block : nullptr;
        const Loaded loaded = load_block(dtype, data, first + i * block, length_of(i), l);
        n_nan += loaded.n_nan;
        most[i] = loaded.most;
        if (!target || !marked) continue;
        penalise(i, l);
        most[i] = block_maximum(l, padded(i));
      }
      if (target && n_nan > 0) __atomic_fetch_add(&n_nan_, n_nan, __ATOMIC_RELAXED);
    });
    int64_t best = 0;
    for (int64_t i = 1; i < blocks; ++i) best = most[i] > most[best] ? i : best;
    if (blocks == 0 || most[best] == -infinity) return -1;
    int64_t x = best * block;
    const auto logit = [&](int64_t id) {
      return out ? out[id] : clean_logit(load_logit(dtype, data, first + id));
    };
    while (logit(x) != most[best]) ++x;
    return x;
  }
  template <class F>
  int64_t search(const uint64_t* masses, uint64_t target, F weigh) {
    int64_t i = 0;
    while (i < blocks && masses[i] <= target) target -= masses[i++];
    if (i == blocks) return best_;
    for (int64_t x = i * block; x < i * block + length_of(i); ++x) {
      const auto mine = static_cast<uint64_t>(weigh(x));
      if (mine > target) return x;
      target -= mine;
    }
    return best_;
  }

  const TreeVerifySampleParams& p;
  int64_t b;
  Space s;
  int64_t blocks, words;
  bool shared;
  uint32_t* marked;
  uint64_t total_ = 0;
  int64_t best_ = -1;
  float most_ = 0.0f, inv_t = 0.0f;
  bool greedy = false;

 private:
  uint64_t entropy_of(int64_t i, F64x8 total) const {
    const F32x8 small = F32x8::splat(1e-5f), zero = F32x8::splat(0.0f);
    WeightSum sum;
    for (int64_t x = i * block; x < i * block + padded(i); x += 8) {
      const F32x8 prob = narrow(whole_weight8(s.e + x) / total);
      sum.add(prob * (zero - log_fast(prob + small)));
    }
    return sum.take();
  }
  void penalise(int64_t i, float* l) const {
    const float penalty = p.penalty[b];
    for (int64_t w = i * (block / 32); w < words && w < (i + 1) * (block / 32); ++w) {
      for (uint32_t bits = marked[w]; bits; bits &= bits - 1) {
        const int64_t x = (w * 32 + __builtin_ctz(bits)) % block;
        if (x < length_of(i)) l[x] = penalised(l[x], penalty);
      }
    }
  }

  bool is_nothing(int64_t i) const { return (s.most[i] - most_) * inv_t < nothing; }
  // Forms the exponentials of a block where nothing is cut.
  uint64_t mass_of_block(int64_t i, int64_t first, bool copied) const {
    float* e = s.e + i * block;
    if (is_nothing(i)) return 0;
    if (copied) return exponentials(e, padded(i), most_, inv_t, e);
    return block_exponentials(p.dtype, p.logits, first + i * block, length_of(i), most_, inv_t, e);
  }

  // --- top-k, top-p, min-p -----------------------------------------------------------------------
  void keep_some(float top_p, float min_p) {
    if (top_p < 1.0f) {
      ranges([&](int64_t begin, int64_t end) {
        alignas(64) float e[block];
        for (int64_t i = begin; i < end; ++i) {
          s.mass[i] = is_nothing(i) ? 0 : exponentials(s.e + i * block, padded(i), most_, inv_t, e);
        }
      });
    }
    uint64_t total = 0;
    for (int64_t i = 0; top_p < 1.0f && i < blocks; ++i) total += s.mass[i];
    // All tokens lighter than the mean of the mass to be cut off are cut off.
    double least = min_p > 0.0f ? std::log(static_cast<double>(min_p)) - 1e-3 : nothing;
    const auto mass = static_cast<double>(total);
    if (top_p < 1.0f) {
      const double tail = (1.0 - static_cast<double>(top_p)) * mass / static_cast<double>(p.vocab);
      if (!(min_p > 0.0f)) least = std::log(tail / weight_unit) - 1e-3;
    }
    int64_t n = collect(static_cast<float>(least < nothing ? nothing : least));
    n = top_p < 1.0f ? front(s.keys, n, static_cast<double>(top_p) * mass, true) : n;
    place(n, min_p);
  }
  void keep_top(int64_t k, float top_p, float min_p) {
    // The k-th largest of the blocks' maxima is no larger than the k-th largest logit.
    float level = -infinity;
    uint64_t* maxima = s.keys + p.vocab;
    if (k <= blocks) {
      for (int64_t i = 0; i < blocks; ++i) {
        maxima[i] = rank_key(s.most[i], static_cast<uint32_t>(i));
      }
      front(maxima, blocks, static_cast<double>(k), false);
      level = key_logit(last_);
    }
    int64_t n = 0;
    for (int64_t i = 0; i < blocks; ++i) {
      if (s.most[i] < level || s.most[i] == -infinity) continue;
      const float* l = s.e + i * block;
      for (int64_t x = 0; x < padded(i); x += 8) {
        unsigned lower = greater(F32x8::splat(level), F32x8::load(l + x));
        for (unsigned in = ~lower & 0xffu; in; in &= in - 1) {
          const int64_t at = x + __builtin_ctz(in);
          if (l[at] == -infinity) continue;
          s.keys[n++] = rank_key(l[at], static_cast<uint32_t>(i * block + at));
        }
      }
    }
    n = front(s.keys, n, static_cast<double>(k), false);
    if (top_p < 1.0f) {
      uint64_t mass = 0;
      for (int64_t i = 0; i < n; ++i) mass += mass_of(s.keys[i]);
      n = front(s.keys, n, static_cast<double>(top_p) * static_cast<double>(mass), true);
    }
    place(n, min_p);
  }
  int64_t collect(float least) {  // keys of all tokens whose scaled distance is above
    int64_t n = 0;
    const F32x8 base = F32x8::splat(most_), scale = F32x8::splat(inv_t);
    for (int64_t i = 0; i < blocks; ++i) {
      if ((s.most[i] - most_) * inv_t < least) continue;
      const float* l = s.e + i * block;
      for (int64_t x = 0; x < padded(i); x += 8) {
        const F32x8 distance = (F32x8::load(l + x) - base) * scale;
        for (unsigned in = greater(distance, F32x8::splat(least)); in; in &= in - 1) {
          const int64_t at = x + __builtin_ctz(in);
          s.keys[n++] = rank_key(l[at], static_cast<uint32_t>(i * block + at));
        }
      }
    }
    return n;
  }
  // The row holds the first n keys and nothing else.
  void place(int64_t n, float min_p) {
    for (int64_t i = 0; i < blocks; ++i) s.mass[i] = 0;
    const double least = min_p * weight_unit;
    for (int64_t j = 0; j < n; ++j) {
      const int64_t x = rank_id(s.keys[j]), i = x / block;
      const float e = tokenburst::exp_fast((key_logit(s.keys[j]) - most_) * inv_t);
      const double w = tokenburst::weight(e);
      if (w == 0.0 || w < least) continue;
      float* row = s.e + i * block;
      for (int64_t y = 0; s.mass[i] == 0 && y < padded(i); ++y) row[y] = 0.0f;
      s.e[x] = static_cast<float>(w / weight_unit);
      s.mass[i] += static_cast<uint64_t>(w);
    }
  }
  static float key_logit(uint64_t key) {
    const auto ordered = static_cast<uint32_t>(key >> 32);
    return from_bits(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
  }
  uint64_t mass_of(uint64_t key) const {
    return static_cast<uint64_t>(
        tokenburst::weight(tokenburst::exp_fast((key_logit(key) - most_) * inv_t)));
  }
  // Moves to the front the best of n keys, as long as those ahead are fewer or lighter than
  // `limit`, at least one; returns how many, and the least of them in last_.
  int64_t front(uint64_t* keys, int64_t n, double limit, bool by_mass) {
    const auto measure = [&](uint64_t key) { return by_mass ? mass_of(key) : 1; };
    int64_t kept = 0, end = n;
    uint64_t before = 0;
    while (kept < end) {
      const uint64_t first = keys[kept], middle = keys[kept + (end - kept) / 2],
                     last = keys[end - 1];
      const uint64_t low = first < middle ? first : middle, high = first < middle ? middle : first;
      const uint64_t pivot = last < low ? low : last > high ? high : last;
      uint64_t ahead = before;
      int64_t at = kept;
      for (int64_t i = kept; i < end; ++i) {  // better ones first
        const uint64_t key = keys[i];
        if (key <= pivot) continue;
        keys[i] = keys[at];
        keys[at++] = key;
        ahead += measure(key);
      }
      int64_t here = at;
      while (keys[here] != pivot) ++here;
      keys[here] = keys[at];
      keys[at] = pivot;
      if (at > 0 && !(static_cast<double>(ahead) < limit)) {
        end = at;
        continue;
      }
      kept = at + 1;
      before = ahead + measure(pivot);
      last_ = pivot;
    }
    return kept;
  }

  uint64_t last_ = 0;
  int32_t n_nan_ = 0;
};

}  // namespace
}  // namespace tokenburst::TB_ISA
