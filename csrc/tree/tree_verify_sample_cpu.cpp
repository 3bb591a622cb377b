// The rows behind the rules of verify.h, on the CPU. A visited row becomes one row of scratch:
// e^(scaled logit - best), 0 where top-k, top-p or min-p cut it off.
#include "common/parallel.h"
#include "common/simd.h"
#include "tree/verify.h"

namespace tokenburst::TB_ISA {
namespace {

class Rows {
 public:
  Rows(const TreeVerifySampleParams& params, int64_t sequence, float* row, uint64_t* space)
      : p(params), b(sequence), e(row), keys(space) {
    words = (p.vocab + 31) / 32;
    marked = p.penalty ? p.marked + b * words : nullptr;
  }

  static float load(DType dtype, const void* data, int64_t i) {
    switch (dtype) {
      case DType::f16:
        return half_to_float(static_cast<const uint16_t*>(data)[i]);
      case DType::bf16:
        return bfloat_to_float(static_cast<const uint16_t*>(data)[i]);
      default:
        return static_cast<const float*>(data)[i];
    }
  }

  Law& law() { return law_; }
  int64_t* tried() { return p.tried + b * tried_length(p); }
  bool leader() const { return true; }
  template <class F>
  void update(F f) {
    f();
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
    const int64_t first = b * p.batch_stride + node * p.node_stride;
    const float penalty = marked ? p.penalty[b] : 1.0f;
    float most = -infinity;
    best_ = -1;
    for (int64_t x = 0; x < p.vocab; ++x) {
      const float raw = load(p.dtype, p.logits, first + x);
      n_nan_ += raw != raw;
      float l = clean_logit(raw);
      if (marked && (marked[x / 32] >> (x % 32) & 1u)) l = penalised(l, penalty);
      e[x] = l;
      if (l > most) {
        most = l;
        best_ = x;
      }
    }
    if (best_ < 0) return false;
    const float t = p.temperature ? p.temperature[b] : 1.0f;
    greedy = !(t > 0.0f);
    if (greedy) {
      total_ = static_cast<uint64_t>(weight_unit);
      return true;
    }
    inv_t = inverse_temperature(t);
    most_ = most;
    const uint64_t least = cut();
    total_ = 0;
    for (int64_t x = 0; x < p.vocab; ++x) {
      const bool kept = rank_key(e[x], static_cast<uint32_t>(x)) >= least;
      e[x] = kept ? tokenburst::exp_fast((e[x] - most) * inv_t) : 0.0f;
      total_ += static_cast<uint64_t>(tokenburst::weight(e[x]));
    }
    return true;
  }
  double weight(int64_t x) const {
    return greedy ? (x == best_ ? weight_unit : 0.0) : tokenburst::weight(e[x]);
  }
  int64_t entropy() const {
    int64_t sum = 0;
    for (int64_t x = 0; x < p.vocab; ++x) {
      sum += entropy_term(weight(x), static_cast<double>(total_));
    }
    return sum;
  }
  uint64_t sum() {
    uint64_t sum = 0;
    for (int64_t x = 0; x < p.vocab; ++x) sum += static_cast<uint64_t>(left(x));
    return sum;
  }
  // The token in whose share of the law `target` falls, tokens in the order of their ids.
  int64_t find(uint64_t target) {
    uint64_t before = 0;
    for (int64_t x = 0; x < p.vocab; ++x) {
      before += static_cast<uint64_t>(left(x));
      if (before > target) return x;
    }
    return best_;
  }
  void open_draft(Draft& draft) const {
    const int64_t first = b * p.draft_batch_stride + draft.row * p.draft_stride;
    draft.most = -infinity;
    for (int64_t x = 0; x < p.vocab; ++x) {
      const float l = clean_logit(load(p.draft_dtype, p.draft_logits, first + x));
      if (l > draft.most) {
        draft.most = l;
        draft.best = x;
      }
    }
    if (draft.best < 0) return;
    uint64_t sum = 0;
    for (int64_t x = 0; x < p.vocab; ++x) {
      sum += static_cast<uint64_t>(draft_weight<Rows>(p, b, draft, x));
    }
    draft.total = static_cast<double>(sum);
  }
  // Adds to a token's masses those of its neighbours in the order of the target's probabilities.
  void add_group(const Draft& draft, int64_t token, double& of_target, double& of_draft) const {
    const double total = static_cast<double>(total_), mine = weight(token) / total;
    const double around = p.group_delta;
    for (int above = 1; above >= 0; --above) {
      uint64_t at = group_key(weight(token), token);
      for (int64_t i = 0; i < (p.group_size - 1) / 2; ++i) {
        uint64_t next = 0;
        int64_t next_id = -1;
        for (int64_t x = 0; x < p.vocab; ++x) {
          const double w = weight(x);
          if (w == 0.0) continue;
          const uint64_t key = group_key(w, x);
          if (above ? key > at && (next_id < 0 || key < next) : key < at && key > next) {
            next = key;
            next_id = x;
          }
        }
        if (next_id < 0) break;
        const double difference = weight(next_id) / total - mine;
        if (!(difference < around && -difference < around)) break;
        of_target += weight(next_id);
        of_draft += draft_weight<Rows>(p, b, draft, next_id);
        at = next;
      }
    }
  }

 private:
  double left(int64_t x) { return law_weight<Rows>(p, b, law_, tried(), x, weight(x)); }
  static float key_logit(uint64_t key) {
    const auto ordered = static_cast<uint32_t>(key >> 32);
    return from_bits(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
  }
  uint64_t mass_of(uint64_t key) const {
    return static_cast<uint64_t>(
        tokenburst::weight(tokenburst::exp_fast((key_logit(key) - most_) * inv_t)));
  }
  // Least key that top-k, top-p and min-p keep, each applied to what the one before left.
  uint64_t cut() {
    const int64_t k = p.top_k.present() ? p.top_k[b] : 0;
    const float top_p = p.top_p ? p.top_p[b] : 1.0f, min_p = p.min_p ? p.min_p[b] : 0.0f;
    const bool by_count = 0 < k && k < p.vocab, by_mass = top_p < 1.0f;
    if (!by_count && !by_mass && !(min_p > 0.0f)) return 0;
    int64_t n = 0;
    for (int64_t x = 0; x < p.vocab; ++x) {
      const uint64_t key = rank_key(e[x], static_cast<uint32_t>(x));
      if (mass_of(key) > 0) keys[n++] = key;
    }
    uint64_t least = 0;
    if (by_count && k < n) n = front(n, static_cast<double>(k), [](uint64_t) { return 1; }, least);
    if (by_mass) {
      uint64_t mass = 0;
      for (int64_t i = 0; i < n; ++i) mass += mass_of(keys[i]);
      const double limit = static_cast<double>(top_p) * static_cast<double>(mass);
      n = front(n, limit, [this](uint64_t key) { return mass_of(key); }, least);
    }
    for (int64_t i = 0; min_p > 0.0f && i < n; ++i) {
      const bool enough = static_cast<double>(mass_of(keys[i])) >= min_p * weight_unit;
      if (!enough && keys[i] >= least) least = keys[i] + 1;
    }
    return least;
  }
  // Moves to the front the best of n keys, as long as those ahead measure less than `limit`, at
  // least one; returns how many and the least of them.
  template <class Measure>
  int64_t front(int64_t n, double limit, Measure measure, uint64_t& least) {
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
      least = pivot;
    }
    return kept;
  }

  const TreeVerifySampleParams& p;
  int64_t b, words;
  float* e;        // [vocab]
  uint64_t* keys;  // [vocab]
  uint32_t* marked;
  Law law_;
  uint64_t total_ = 0;
  int64_t best_ = -1;
  float most_ = 0.0f, inv_t = 0.0f;
  bool greedy = false;
  int32_t n_nan_ = 0;
};

}  // namespace

void tree_verify_sample(const TreeVerifySampleParams& p) {
  parallel_for(p.batch, 1, [&](int64_t begin, int64_t end) {
    auto* keys = static_cast<uint64_t*>(scratch(p.vocab * (sizeof(uint64_t) + sizeof(float))));
    auto* row = reinterpret_cast<float*>(keys + p.vocab);
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t i = 0; i < p.nodes; ++i) p.path[b * p.nodes + i] = -1;
      Rows rows(p, b, row, keys);
      Verifier<Rows>(p, b, rows).run();
    }
  });
}

}  // namespace tokenburst::TB_ISA
