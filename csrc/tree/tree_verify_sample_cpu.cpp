// The rows behind the rules of verify.h, on the CPU. A visited row is read twice: for the maxima of
// its blocks, then for e^(scaled logit - best) of each token and the weights of the blocks. Where
// top-k, top-p or min-p cut, only tokens that may stay are looked at one by one. Blocks that weigh
// nothing are not read again. The exponentials of the first draft rows of a node are kept, since
// each rejection asks for them. Fewer sequences than threads share the threads by blocks of a row.
#include <cmath>

#include "common/parallel.h"
#include "common/simd.h"
#include "tree/verify.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t block = 512;
constexpr int64_t grain = 32;      // blocks that are worth a thread
constexpr int max_kept = 2;        // draft rows whose exponentials stay in memory
constexpr float nothing = -29.0f;  // e^nothing weighs less than half a unit

float load_logit(DType dtype, const void* data, int64_t i) {
  switch (dtype) {
    case DType::f16:
      return half_to_float(static_cast<const uint16_t*>(data)[i]);
    case DType::bf16:
      return bfloat_to_float(static_cast<const uint16_t*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}

inline F32x8 cleaned(F32x8 l) {  // NaN is -inf, +inf the largest float
  return min(max(l, F32x8::splat(-infinity)), F32x8::splat(3.402823466e38f));
}

float block_maximum(const float* l, int64_t n) {  // n padded to a multiple of 8
  F32x8 most = F32x8::splat(-infinity);
  for (int64_t x = 0; x < n; x += 8) most = max(F32x8::load(l + x), most);
  return reduce_max(most);
}

struct Loaded {
  float most;
  int32_t n_nan;
};

template <class T>
Loaded copy_cleaned(const T* l, int64_t n, float* out) {
  if (n == block) {  // most blocks hold only numbers: 0 times anything else is NaN
    F32x8 most[2], zero[2];
    for (int j = 0; j < 2; ++j) {
      most[j] = F32x8::splat(-infinity);
      zero[j] = F32x8::splat(0.0f);
    }
    for (int64_t x = 0; x < block; x += 16) {
      for (int j = 0; j < 2; ++j) {
        const F32x8 raw = F32x8::load(l + x + 8 * j);
        most[j] = max(raw, most[j]);
        zero[j] = fused(raw, F32x8::splat(0.0f), zero[j]);
        raw.store(out + x + 8 * j);
      }
    }
    if (!unordered(zero[0] + zero[1])) return {reduce_max(max(most[0], most[1])), 0};
  }
  const int64_t whole = n / 8 * 8;
  int32_t n_nan = 0;
  for (int64_t x = 0; x < whole; x += 8) {
    const F32x8 raw = F32x8::load(l + x);
    n_nan += __builtin_popcount(unordered(raw));
    cleaned(raw).store(out + x);
  }
  for (int64_t x = whole; x < n; ++x) {
    const float raw = widen(l[x]);
    n_nan += raw != raw;
    out[x] = clean_logit(raw);
  }
  return {block_maximum(out, (n + 7) / 8 * 8), n_nan};
}

// Cleaned logits of one block, -inf up to a multiple of 8; the largest, and the number of NaN.
Loaded load_block(DType dtype, const void* data, int64_t first, int64_t n, float* out) {
  for (int64_t x = n; x < (n + 7) / 8 * 8; ++x) out[x] = -infinity;
  switch (dtype) {
    case DType::f16:
      return copy_cleaned(static_cast<const Half*>(data) + first, n, out);
    case DType::bf16:
      return copy_cleaned(static_cast<const BFloat*>(data) + first, n, out);
    default:
      return copy_cleaned(static_cast<const float*>(data) + first, n, out);
  }
}

// l becomes e^((l - most) / T), rounded to whole weights; returns their sum.
uint64_t exponentials(float* l, int64_t n, float most, float inv_t) {
  const F32x8 base = F32x8::splat(most), scale = F32x8::splat(inv_t);
  alignas(64) float r[block], t[block];
  for (int64_t x = 0; x < n; x += 8) {
    const ExpParts parts = exp_parts((F32x8::load(l + x) - base) * scale);
    parts.r.store(r + x);
    parts.t.store(t + x);
  }
  WeightSum sum;
  const int64_t whole = n / 32 * 32;
  for (int64_t x = 0; x < whole; x += 32) {
    ExpParts parts[4];
    F32x8 e[4];
    for (int j = 0; j < 4; ++j) {
      parts[j] = {F32x8::load(r + x + 8 * j), F32x8::load(t + x + 8 * j)};
    }
    exp_of_parts(parts, e);
    for (int j = 0; j < 4; ++j) sum.add(e[j]).store(l + x + 8 * j);
  }
  for (int64_t x = whole; x < n; x += 8) {
    const ExpParts parts[1] = {{F32x8::load(r + x), F32x8::load(t + x)}};
    F32x8 e[1];
    exp_of_parts(parts, e);
    sum.add(e[0]).store(l + x);
  }
  return sum.take();
}

struct Space {     // for rows of `vocab` logits
  uint64_t* mass;  // [blocks], weights of the target
  uint64_t* rest;  // [blocks], weights that the law leaves
  uint64_t* keys;  // [blocks * (block + 1)]; or a draft row that is not kept
  float* e;        // [vocab, padded]
  float* most;     // [blocks], largest logits
  float* u;        // [kept, vocab, padded], exponentials of draft rows
  float* u_most;   // [kept, blocks], the largest of them
  int kept;
  static int64_t blocks(int64_t vocab) { return (vocab + block - 1) / block; }
  static int kept_of(const TreeVerifySampleParams& p) {
    if (!p.draft_logits) return 0;
    return p.draft_rows < max_kept ? static_cast<int>(p.draft_rows) : max_kept;
  }
  static size_t bytes(int64_t vocab, int kept) {
    const int64_t b = blocks(vocab);
    return static_cast<size_t>(b * (block + 3) * 8 + (1 + kept) * (block + 1) * b * 4);
  }
  static Space of(const TreeVerifySampleParams& p) {
    const int kept = kept_of(p);
    const int64_t b = blocks(p.vocab);
    auto* mass = static_cast<uint64_t*>(scratch(bytes(p.vocab, kept)));
    auto* e = reinterpret_cast<float*>(mass + (block + 3) * b);
    float* most = e + b * block;
    float* u = most + b;
    return {mass, mass + b, mass + 2 * b, e, most, u, u + kept * b * block, kept};
  }
};

class Rows {
 public:
  Rows(const TreeVerifySampleParams& params, int64_t sequence, const Space& space, bool all_threads)
      : p(params), b(sequence), s(space), blocks(Space::blocks(params.vocab)), shared(all_threads) {
    words = (p.vocab + 31) / 32;
    marked = p.penalty ? p.marked + b * words : nullptr;
  }

  static float load(DType dtype, const void* data, int64_t i) { return load_logit(dtype, data, i); }

  Law& law() { return law_; }
  int64_t* tried() { return p.tried + b * tried_length(p); }
  bool leader() const { return true; }
  template <class F>
  void update(F f) {
    f();
    stale = true;
  }
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

  bool open(int64_t node) {
    stale = true;
    listed = false;
    const int64_t first = b * p.batch_stride + node * p.node_stride;
    best_ = survey(p.dtype, p.logits, first, s.e, s.most, true);
    if (best_ < 0) return false;
    most_ = s.e[best_];
    const float t = p.temperature ? p.temperature[b] : 1.0f;
    greedy = !(t > 0.0f);
    total_ = static_cast<uint64_t>(weight_unit);
    if (greedy) return true;
    inv_t = inverse_temperature(t);
    const int64_t k = p.top_k.present() ? p.top_k[b] : 0;
    const float top_p = p.top_p ? p.top_p[b] : 1.0f, min_p = p.min_p ? p.min_p[b] : 0.0f;
    if (0 < k && k < p.vocab) {
      keep_top(k, top_p, min_p);
    } else {
      keep_all(top_p, min_p);
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
  // Weights that the law leaves, by blocks; returns their sum.
  uint64_t sum() {
    if (!stale) return left_;
    if (law_.kind == LawKind::typical) likely = likely_from();
    ranges([this](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) s.rest[i] = s.mass[i] == 0 ? 0 : rest_of(i);
    });
    correct();
    left_ = 0;
    for (int64_t i = 0; i < blocks; ++i) left_ += s.rest[i];
    stale = false;
    return left_;
  }
  // The token in whose share of the row `target` falls, tokens in the order of their ids.
  int64_t find_plain(uint64_t target) {
    return search(s.mass, target, [&](int64_t x) { return weight(x); });
  }
  // The same of the law, after sum().
  int64_t find(uint64_t target) {
    if (!dense()) return search(s.rest, target, [&](int64_t x) { return left(x); });
    alignas(64) double rest[block];
    int64_t known = -1;
    return search(s.rest, target, [&](int64_t x) {
      if (x / block != known) {
        known = x / block;
        rests(known, rest);
        for (int64_t j = 0; j < law_.num_banned; ++j) {
          if (tried()[j] / block == known) rest[tried()[j] % block] = left(tried()[j]);
        }
      }
      return rest[x % block] > 0.0 ? rest[x % block] : 0.0;
    });
  }
  // Bounds of K-SEQ's beta at rho in [1, k], without its roundings: tokens whose ratio lies between
  // 1 and k are listed once, the others always count with their draft or with their target weight.
  bool bound_capped(double rho, int k, double& least, double& most) {
    if (!dense() || !is_kept(0)) return false;
    if (!listed) list_capped(static_cast<float>(k));
    listed = true;
    double sum = (static_cast<double>(by_draft) + static_cast<double>(by_target) / rho);
    const F32x8 inverse = F32x8::splat(static_cast<float>(1.0 / rho));
    for (int64_t i = 0; i < blocks; ++i) {
      const float *w = list_of(i), *u = w + blocks * block;
      const auto n = static_cast<int64_t>(s.keys[block * blocks + i]);
      for (int64_t x = 0; x < n; x += 64) {
        F32x8 part = F32x8::splat(0.0f);
        for (int64_t y = x; y < x + 64 && y < n; y += 8) {
          part = part + min(F32x8::load(u + y), F32x8::load(w + y) * inverse);
        }
        sum += static_cast<double>(reduce_add(part)) * weight_unit;
      }
    }
    // Each term is rounded four times, each partial sum eleven times, which makes 15 * 2^-24; then
    // there are the roundings to whole weights that are left out here.
    const double error = (sum * 2e-6 + static_cast<double>(2 * p.vocab)) / law_.row_total;
    const double beta = sum / law_.row_total;
    most = beta + error < 1.0 ? beta + error : 1.0;
    least = beta - error < most ? beta - error : most;
    return true;
  }
  void open_draft(Draft& draft) {
    const int index = law_.num_drafts;
    const int64_t first = b * p.draft_batch_stride + draft.row * p.draft_stride;
    const bool keep = index < s.kept;
    float* u = keep ? kept_row(index) : reinterpret_cast<float*>(s.keys);
    float* most = keep ? s.u_most + index * blocks : reinterpret_cast<float*>(s.rest);
    draft.best = survey(p.draft_dtype, p.draft_logits, first, u, most, false);
    stale = true;
    if (draft.best < 0) return;
    draft.most = u[draft.best];
    draft.total = weight_unit;
    if (draft.inv_t == 0.0f) return;
    uint64_t sum = 0;
    ranges([&](int64_t begin, int64_t end) {
      uint64_t part = 0;
      for (int64_t i = begin; i < end; ++i) {
        part += exponentials(u + i * block, padded(i), draft.most, draft.inv_t);
        most[i] = tokenburst::exp_fast((most[i] - draft.most) * draft.inv_t);
      }
      __atomic_fetch_add(&sum, part, __ATOMIC_RELAXED);
    });
    draft.total = static_cast<double>(sum);
  }
  // Adds to a token's masses those of its neighbours in the order of the target's probabilities.
  void add_group(const Draft& draft, int64_t token, double& of_target, double& of_draft) const {
    const auto half = static_cast<int>((p.group_size - 1) / 2);
    uint64_t near[2][max_group / 2];  // nearest above and below, nearest first
    int size[2] = {0, 0};
    const uint64_t at = group_key(weight(token), token);
    const auto bound = [&](int below) {  // of what may still come nearer than those in the list
      const uint64_t last = size[below] == half ? near[below][half - 1] : 0;
      return size[below] < half ? (below ? 0.0f : infinity)
                                : static_cast<float>(static_cast<double>(last >> 22) / weight_unit);
    };
    for (int64_t v = 0; half > 0 && v < blocks * block; v += 8) {
      if (s.mass[v / block] == 0 || v - v / block * block >= padded(v / block)) continue;
      const F32x8 e = F32x8::load(s.e + v);
      const unsigned out = greater(F32x8::splat(bound(1)), e) | greater(e, F32x8::splat(bound(0)));
      for (unsigned in = ~out & 0xffu; in; in &= in - 1) {
        const int64_t x = v + __builtin_ctz(in);
        const double w = tokenburst::weight(s.e[x]);
        const uint64_t key = group_key(w, x);
        if (w == 0.0 || key == at) continue;
        const bool below = key < at;
        uint64_t* list = near[below];
        int& n = size[below];
        const auto farther = [below](uint64_t a, uint64_t c) { return below ? a < c : a > c; };
        if (n == half && farther(key, list[n - 1])) continue;
        int i = n < half ? n++ : n - 1;
        for (; i > 0 && farther(list[i - 1], key); --i) list[i] = list[i - 1];
        list[i] = key;
      }
    }
    const auto total = static_cast<double>(total_);
    const double mine = weight(token) / total, around = p.group_delta;
    for (int below = 0; below < 2; ++below) {
      for (int i = 0; i < size[below]; ++i) {
        const int64_t id = group_id(near[below][i]);
        const double difference = weight(id) / total - mine;
        if (!(difference < around && -difference < around)) break;
        of_target += weight(id);
        of_draft += draft_weight<Rows>(p, b, draft, id);
      }
    }
  }

 private:
  int64_t length_of(int64_t i) const {
    return p.vocab - i * block < block ? p.vocab - i * block : block;
  }
  int64_t padded(int64_t i) const { return (length_of(i) + 7) / 8 * 8; }
  template <class F>
  void ranges(F f) const {
    shared ? parallel_for(blocks, grain, f) : f(int64_t{0}, blocks);
  }
  float* list_of(int64_t i) const { return reinterpret_cast<float*>(s.keys) + i * block; }
  void list_capped(float k) {
    const F32x8 coefficient = F32x8::splat(static_cast<float>(law_.draft[0].coefficient));
    by_draft = by_target = 0;
    ranges([&](int64_t begin, int64_t end) {
      double drafts = 0.0, targets = 0.0;
      alignas(32) float u8[8];
      for (int64_t i = begin; i < end; ++i) {
        float *w = list_of(i), *u = w + blocks * block;
        int64_t n = 0;
        const int64_t size = s.mass[i] == 0 ? 0 : padded(i);
        for (int64_t x = 0; x < size; x += 64) {
          F32x8 part = F32x8::splat(0.0f), other = part;
          for (int64_t y = x; y < x + 64 && y < size; y += 8) {
            const float* e = s.e + i * block + y;
            const F32x8 target = F32x8::load(e);
            const F32x8 draft =
                min(coefficient * F32x8::load(kept_row(0) + i * block + y), F32x8::splat(2.0f));
            const F32x8 most = F32x8::splat(k) * draft;
            part = part + keep_where(draft, target, target);
            other = other + keep_where(target, most, draft);
            unsigned between = greater(target, draft) & greater(most, target);
            if (between) draft.store(u8);
            for (; between; between &= between - 1) {
              const int lane = __builtin_ctz(between);
              w[n] = e[lane];
              u[n++] = u8[lane];
            }
          }
          targets += static_cast<double>(reduce_add(part));
          drafts += static_cast<double>(reduce_add(other));
        }
        for (; n % 8 != 0; ++n) w[n] = u[n] = 0.0f;
        s.keys[block * blocks + i] = static_cast<uint64_t>(n);
      }
      const auto units = [](double x) { return static_cast<uint64_t>(x * weight_unit); };
      __atomic_fetch_add(&by_draft, units(drafts), __ATOMIC_RELAXED);
      __atomic_fetch_add(&by_target, units(targets), __ATOMIC_RELAXED);
    });
  }
  float* kept_row(int index) const { return s.u + index * blocks * block; }
  bool dense() const {
    return !p.draft_probs && law_.num_drafts > 0 && law_.kind != LawKind::typical;
  }
  // Cleaned logits of a row, and the largest of each block; returns the first of the best tokens,
  // -1 where there is no number.
  int64_t survey(DType dtype, const void* data, int64_t first, float* out, float* most,
                 bool target) {
    ranges([&](int64_t begin, int64_t end) {
      int32_t n_nan = 0;
      for (int64_t i = begin; i < end; ++i) {
        float* l = out + i * block;
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
    while (out[x] != most[best]) ++x;
    return x;
  }
  double left(int64_t x) { return law_weight<Rows>(p, b, law_, tried(), x, weight(x)); }
  uint64_t entropy_of(int64_t i, F64x8 total) const {
    const F32x8 small = F32x8::splat(1e-5f), zero = F32x8::splat(0.0f);
    WeightSum sum;
    for (int64_t x = i * block; x < i * block + padded(i); x += 8) {
      const F32x8 prob = narrow(whole_weight8(s.e + x) / total);
      sum.add(prob * (zero - log_fast(prob + small)));
    }
    return sum.take();
  }
  // Typical: the least exponential of a weight that passes law_weight's test, which grows with it.
  float likely_from() const {
    double low = 0.0, high = weight_unit + 1.0;  // fails, passes or is no weight
    while (high - low > 1.0) {
      const double middle = std::floor(0.5 * (low + high));
      (static_cast<float>(middle / law_.row_total) > law_.least ? high : low) = middle;
    }
    const double least = high / weight_unit;
    const auto e = static_cast<float>(least);
    return static_cast<double>(e) < least ? from_bits(to_bits(e) + 1) : e;
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

  void penalise(int64_t i, float* l) const {
    const float penalty = p.penalty[b];
    for (int64_t w = i * (block / 32); w < words && w < (i + 1) * (block / 32); ++w) {
      for (uint32_t bits = marked[w]; bits; bits &= bits - 1) {
        const int64_t x = (w * 32 + __builtin_ctz(bits)) % block;
        if (x < length_of(i)) l[x] = penalised(l[x], penalty);
      }
    }
  }

  // --- top-k, top-p, min-p -----------------------------------------------------------------------
  void keep_all(float top_p, float min_p) {
    const bool cut = top_p < 1.0f || min_p > 0.0f;
    if (!cut || top_p < 1.0f) {
      ranges([&](int64_t begin, int64_t end) {
        alignas(64) float copy[block];
        for (int64_t i = begin; i < end; ++i) {
          float* l = s.e + i * block;
          s.mass[i] = 0;
          if ((s.most[i] - most_) * inv_t < nothing) continue;
          for (int64_t x = 0; cut && x < padded(i); ++x) copy[x] = l[x];
          s.mass[i] = exponentials(cut ? copy : l, padded(i), most_, inv_t);
        }
      });
    }
    if (!cut) return;
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

  // --- the law -----------------------------------------------------------------------------------
  // Weights of block i under the law without sparse drafts and without what is banned.
  uint64_t rest_of(int64_t i) const {
    const float* e = s.e + i * block;
    if (law_.kind == LawKind::typical) {
      WeightSum sum;
      for (int64_t x = 0; x < padded(i); x += 8) {
        const F32x8 w = F32x8::load(e + x);
        sum.add(keep_where(w, F32x8::splat(likely), w));
      }
      return sum.take();
    }
    if (!dense()) {
      if (law_.kind == LawKind::capped) return 0;
      if (law_.kind == LawKind::kseq || law_.scale == 1.0) return s.mass[i];
    } else if (law_.num_drafts == 1 && is_kept(0)) {
      return rest_beside(i, law_.draft[0], kept_row(0) + i * block, s.u_most[i]);
    }
    alignas(64) double rest[block];
    rests(i, rest);
    const F64x8 zero = F64x8::splat(0.0);
    F64x8 sum = zero;
    for (int64_t x = 0; x < padded(i); x += 8) sum = sum + max(F64x8::load(rest + x), zero);
    return static_cast<uint64_t>(reduce_add(sum));
  }
  // The same beside one kept draft row.
  uint64_t rest_beside(int64_t i, const Draft& draft, const float* u, float u_most) const {
    const F64x8 coefficient = F64x8::splat(draft.coefficient), most = F64x8::splat(0x1p41);
    const F64x8 scale = F64x8::splat(law_.scale), rho = F64x8::splat(law_.rho),
                share = F64x8::splat(law_.share);
    // The best logit of a block need not have the largest exponential to the last bit.
    const double heaviest = draft.coefficient * tokenburst::weight(u_most);
    const auto taken = [&](F64x8 v) { return round(min(coefficient * v, most)); };
    if (law_.kind == LawKind::capped) {
      return over_block(i, u, [&](F64x8 w, F64x8 v) { return min(taken(v), round(w / rho)); });
    }
    if (law_.kind == LawKind::kseq) {
      return over_block(
          i, u, [&](F64x8 w, F64x8 v) { return w - round(min(taken(v), round(w / rho)) * share); });
    }
    if (law_.scale != 1.0) {
      return over_block(i, u, [&](F64x8 w, F64x8 v) { return round(scale * w) - taken(v); });
    }
    if (heaviest < 0.25) return s.mass[i];
    if (heaviest > 0x1p40) return over_block(i, u, [&](F64x8 w, F64x8 v) { return w - taken(v); });
    return over_block(i, u, [&](F64x8 w, F64x8 v) { return w - round(coefficient * v); });
  }
  template <class F>
  uint64_t over_block(int64_t i, const float* u, F f) const {
    const float* e = s.e + i * block;
    const F64x8 zero = F64x8::splat(0.0);
    F64x8 sum = zero;
    for (int64_t x = 0; x < padded(i); x += 8) {
      sum = sum + max(f(whole_weight8(e + x), whole_weight8(u + x)), zero);
    }
    return static_cast<uint64_t>(reduce_add(sum));
  }
  void rests(int64_t i, double* rest) const {  // may be negative
    const float* e = s.e + i * block;
    const F64x8 scale = F64x8::splat(law_.scale);
    for (int64_t x = 0; x < padded(i); x += 8) {
      const F64x8 w = whole_weight8(e + x);
      (law_.kind == LawKind::remainder ? round(scale * w) : w).store(rest + x);
    }
    alignas(64) float u[block];
    const bool capped = law_.kind != LawKind::remainder;
    for (int d = 0; dense() && d < (capped ? 1 : law_.num_drafts); ++d) {
      const Draft& draft = law_.draft[d];
      if (draft.coefficient == 0.0) continue;
      if (!is_kept(d)) weights_of(draft, i, u);
      const float* mine = is_kept(d) ? kept_row(d) + i * block : u;
      const F64x8 coefficient = F64x8::splat(draft.coefficient), most = F64x8::splat(0x1p41);
      const F64x8 rho = F64x8::splat(law_.rho), share = F64x8::splat(law_.share);
      for (int64_t x = 0; x < padded(i); x += 8) {
        const F64x8 taken = round(min(coefficient * whole_weight8(mine + x), most));
        F64x8 r = F64x8::load(rest + x);
        if (capped) {
          const F64x8 accepted = min(taken, round(r / rho));
          r = law_.kind == LawKind::capped ? accepted : r - round(accepted * share);
        } else {
          r = r - taken;
        }
        r.store(rest + x);
      }
    }
  }
  bool is_kept(int d) const { return d < s.kept && law_.draft[d].inv_t > 0.0f; }
  // e^((l - most) / T) of a block of a dense draft row that is not kept, 0 behind its end.
  void weights_of(const Draft& draft, int64_t i, float* u) const {
    if (draft.inv_t == 0.0f) {
      for (int64_t x = 0; x < padded(i); ++x) u[x] = i * block + x == draft.best ? 1.0f : 0.0f;
      return;
    }
    const int64_t first = b * p.draft_batch_stride + draft.row * p.draft_stride + i * block;
    load_block(p.draft_dtype, p.draft_logits, first, length_of(i), u);
    exponentials(u, padded(i), draft.most, draft.inv_t);
  }
  // What sparse drafts and bans change, token by token.
  void correct() {
    if (law_.kind == LawKind::typical) return;
    const int64_t per_draft = p.draft_probs ? p.draft_width : 0;
    const int64_t num_sparse = law_.num_drafts * per_draft;
    const auto special = [&](int64_t j) -> int64_t {
      if (j >= num_sparse) return tried()[j - num_sparse];
      const int64_t row = b * p.draft_rows + law_.draft[j / per_draft].row;
      return p.draft_ids[row * per_draft + j % per_draft];
    };
    for (int64_t j = 0; j < num_sparse + law_.num_banned; ++j) {
      const int64_t x = special(j);
      if (x < 0 || x >= p.vocab || s.mass[x / block] == 0) continue;
      int64_t earlier = 0;
      while (earlier < j && special(earlier) != x) ++earlier;
      if (earlier == j) s.rest[x / block] += static_cast<uint64_t>(left(x)) - uncorrected(x);
    }
  }
  uint64_t uncorrected(int64_t x) {
    const double w = weight(x);
    if (!p.draft_probs) {
      const int64_t banned = law_.num_banned;
      law_.num_banned = 0;
      const double rest = left(x);
      law_.num_banned = banned;
      return static_cast<uint64_t>(rest);
    }
    if (law_.kind == LawKind::capped) return 0;
    return static_cast<uint64_t>(law_.kind == LawKind::kseq ? w : rint(law_.scale * w));
  }

  const TreeVerifySampleParams& p;
  int64_t b;
  Space s;
  int64_t blocks, words;
  bool shared, stale = true;  // stale: the law has changed since sum()
  bool listed = false;        // for bound_capped, as the next
  uint64_t by_draft = 0, by_target = 0;
  float likely = 0.0f;  // typical: exponentials from here on pass
  uint32_t* marked;
  Law law_;
  uint64_t total_ = 0, last_ = 0, left_ = 0;
  int64_t best_ = -1;
  float most_ = 0.0f, inv_t = 0.0f;
  bool greedy = false;
  int32_t n_nan_ = 0;
};

}  // namespace

void tree_verify_sample(const TreeVerifySampleParams& p) {
  const auto verify = [&p](int64_t begin, int64_t end, bool shared) {
    const Space space = Space::of(p);
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t i = 0; i < p.nodes; ++i) p.path[b * p.nodes + i] = -1;
      Rows rows(p, b, space, shared);
      Verifier<Rows>(p, b, rows).run();
    }
  };
  if (p.batch < thread_count() && p.vocab >= 2 * grain * block) return verify(0, p.batch, true);
  parallel_for(p.batch, p.vocab < 1024 ? 1024 / (p.vocab + 1) + 1 : 1,
               [&](int64_t begin, int64_t end) { verify(begin, end, false); });
}

}  // namespace tokenburst::TB_ISA
