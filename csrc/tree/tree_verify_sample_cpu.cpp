// The rows behind the rules of verify.h, on the CPU: what the laws leave of a target's row, by
// blocks. Blocks that weigh nothing are not read again. The exponentials of the first draft rows of
// a node are kept, since each rejection asks for them. Fewer sequences than threads share the
// threads by blocks of a row.
#include "tree/verify_row_cpu.h"

namespace tokenburst::TB_ISA {
namespace {

class Rows : public TargetRow {
 public:
  using TargetRow::TargetRow;

  Law& law() { return law_; }
  int64_t* tried() { return p.tried + b * tried_length(p); }
  template <class F>
  void update(F f) {
    f();
    stale = true;
  }
  bool open(int64_t node) {
    stale = true;
    listed = false;
    return TargetRow::open(node);
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
    float* most = keep ? s.u_most + index * blocks : reinterpret_cast<float*>(s.rest);
    draft.best = survey(p.draft_dtype, p.draft_logits, first, nullptr, most, false);
    stale = true;
    if (draft.best < 0) return;
    draft.most = most[draft.best / block];
    draft.total = weight_unit;
    if (draft.inv_t == 0.0f) return;
    uint64_t sum = 0;
    ranges([&](int64_t begin, int64_t end) {
      uint64_t part = 0;
      alignas(64) float e[block];
      for (int64_t i = begin; i < end; ++i) {
        const float below = (most[i] - draft.most) * draft.inv_t;
        most[i] = tokenburst::exp_fast(below);
        float* u = keep ? kept_row(index) + i * block : e;
        if (below < nothing) {
          for (int64_t x = 0; x < padded(i); ++x) u[x] = 0.0f;
          continue;
        }
        part += block_exponentials(p.draft_dtype, p.draft_logits, first + i * block, length_of(i),
                                   draft.most, draft.inv_t, u);
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
  double left(int64_t x) { return law_weight<Rows>(p, b, law_, tried(), x, weight(x)); }
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
  // The same beside one kept draft row. Weights are formed from exponentials where they meet a
  // factor: a power of two in it changes no rounding.
  uint64_t rest_beside(int64_t i, const Draft& draft, const float* u, float u_most) const {
    const F64x8 unit = F64x8::splat(weight_unit), most = F64x8::splat(0x1p41);
    const F64x8 coefficient = F64x8::splat(draft.coefficient * weight_unit);
    const F64x8 scale = F64x8::splat(law_.scale * weight_unit),
                rho = F64x8::splat(law_.rho / weight_unit), share = F64x8::splat(law_.share);
    // The best logit of a block need not have the largest exponential to the last bit.
    const double heaviest = draft.coefficient * tokenburst::weight(u_most);
    const auto taken = [&](F64x8 v) { return round(min(coefficient * v, most)); };
    if (law_.kind == LawKind::capped) {
      return over_block(i, u, [&](F64x8 w, F64x8 v) { return min(taken(v), round(w / rho)); });
    }
    if (law_.kind == LawKind::kseq) {
      return over_block(i, u, [&](F64x8 w, F64x8 v) {
        return w * unit - round(min(taken(v), round(w / rho)) * share);
      });
    }
    const bool light = heaviest < 0.25, heavy = heaviest > 0x1p40;
    if (law_.scale != 1.0) {
      if (heavy) {
        return over_block(i, u, [&](F64x8 w, F64x8 v) { return round(scale * w) - taken(v); });
      }
      return over_block(
          i, u, [&](F64x8 w, F64x8 v) { return round(scale * w) - round(coefficient * v); });
    }
    if (light) return s.mass[i];
    if (heavy) return over_block(i, u, [&](F64x8 w, F64x8 v) { return w * unit - taken(v); });
    return over_block(i, u, [&](F64x8 w, F64x8 v) { return w * unit - round(coefficient * v); });
  }
  template <class F>
  uint64_t over_block(int64_t i, const float* u, F f) const {
    const float* e = s.e + i * block;
    const F64x8 zero = F64x8::splat(0.0);
    F64x8 sum = zero;
    for (int64_t x = 0; x < padded(i); x += 8) {
      sum = sum + max(f(widen8(e + x), widen8(u + x)), zero);
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
    block_exponentials(p.draft_dtype, p.draft_logits, first, length_of(i), draft.most, draft.inv_t,
                       u);
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

  bool stale = true;    // the law has changed since sum()
  bool listed = false;  // for bound_capped, as the next
  uint64_t by_draft = 0, by_target = 0;
  float likely = 0.0f;  // typical: exponentials from here on pass
  Law law_;
  uint64_t left_ = 0;
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
