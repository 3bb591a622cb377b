// A row is swept in blocks that fit the first cache level. One pass over a block sums e^x and
// e^x x against a base that is only moved when a block rises far above it, and keeps the block's
// maximum; candidates for the top-k and for the draw are looked for only in blocks whose maximum
// says there can be any. NaN and +inf cost nothing until they occur: they leave their mark in the
// sums, and the block is done again on a cleaned copy.
#include <cmath>

#include "common/parallel.h"
#include "common/simd.h"
#include "vocab/top_cpu.h"
#include "vocab/vocab_stats.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t block = 512;
constexpr int64_t chunk = vocab_stats_cpu_chunk();
constexpr float headroom = 16.0f;  // e^headroom * block is far from overflow
static_assert(chunk % block == 0 && block % 64 == 0);

struct Sums {
  F32x8 sum, weighted;
};

struct BlockSums {
  Sums sums;
  float most;  // NaN left out, or NaN
  bool deep;   // the sums are wrong: some logit lies below what an unclamped sweep can do
};

constexpr float lowest = -86.5f;  // e^x is about 2^-125 for whatever lies lower

// Extremes of a block. fp32 and fp16 are clamped as they come, so that no depth has to be known.
template <class T>
class Extremes {
 public:
  static constexpr bool knows_least = false;
  void add(const T*, const F32x8 (&logit)[2]) {
    for (const F32x8 l : logit) most_ = max(l, most_);
  }
  float most(const T*, int64_t) const { return reduce_max(most_); }
  bool reaches_below(float) const { return true; }

 private:
  F32x8 most_ = F32x8::splat(-infinity);
};

template <>
class Extremes<BFloat> {
 public:
  static constexpr bool knows_least = true;
  void add(const BFloat* l, const F32x8 (&)[2]) { range_.add(l); }
  float most(const BFloat* l, int64_t n) const {
    const BFloat most = range_.most_signed();
    return widen(most.bits >> 15 ? BFloatRange::least_unsigned(l, n) : most);
  }
  bool reaches_below(float limit) const {
    const BFloat least = range_.most_unsigned();
    return !((least.bits >> 15 ? widen(least) : 0.0f) >= limit);
  }

 private:
  BFloatRange range_;
};

// e^(l - base) by 2^(k / 8) 2^f, f in [-1/16, 1/16]; relative error below 2e-7 beside that of
// l - base. A NaN stays one in `weighted`.
template <bool clamped, class T>
BlockSums sweep(const T* l, int64_t n, float base) {
  const F32x8 zero = F32x8::splat(0.0f), base8 = F32x8::splat(base);
  const F32x8 round = F32x8::splat(1572864.0f), log2e = F32x8::splat(1.442695041f);
  Sums sums[2] = {{zero, zero}, {zero, zero}};
  Extremes<T> extremes;
  for (int64_t i = 0; i < n; i += 16) {
    F32x8 logit[2], x[2], t[2], f[2], p[2];
    load_pair(l + i, logit[0], logit[1]);
    extremes.add(l + i, logit);
    for (int j = 0; j < 2; ++j) {
      x[j] = clamped ? max(F32x8::splat(lowest), logit[j] - base8) : logit[j] - base8;
    }
    for (int j = 0; j < 2; ++j) t[j] = fused(x[j], log2e, round);
    for (int j = 0; j < 2; ++j) f[j] = fused(x[j], log2e, round - t[j]);
    for (int j = 0; j < 2; ++j) t[j] = exp2_eighths(t[j]);
    for (int j = 0; j < 2; ++j) {
      p[j] = fused(f[j], F32x8::splat(5.551147461e-2f), F32x8::splat(2.402576357e-1f));
    }
    for (int j = 0; j < 2; ++j) p[j] = fused(p[j], f[j], F32x8::splat(6.931471825e-1f));
    for (int j = 0; j < 2; ++j) {
      const F32x8 e = fused(p[j], t[j] * f[j], t[j]);
      sums[j].sum = sums[j].sum + e;
      sums[j].weighted = fused(e, x[j], sums[j].weighted);
    }
  }
  return {{sums[0].sum + sums[1].sum, sums[0].weighted + sums[1].weighted},
          extremes.most(l, n),
          !clamped && extremes.reaches_below(base + lowest)};
}

template <class T>
float maximum(const T* l, int64_t n) {
  Extremes<T> extremes;
  for (int64_t i = 0; i < n; i += 16) {
    F32x8 logit[2];
    load_pair(l + i, logit[0], logit[1]);
    extremes.add(l + i, logit);
  }
  return extremes.most(l, n);
}

// Gumbel-max over l / T. A logit l can only win with a random word below a limit that follows from
// the best score, so logarithms are taken for the few words that reach it.
struct Draw {
  bool active;
  float inv_t;
  uint64_t seed;
  uint32_t sequence, step, position;
  float score, logit;
  int64_t token;

  void clear() {
    score = logit = -infinity;
    token = -1;
  }
  // How far the noise must lift a logit of at most `most`, less far more than any rounding.
  double gap(float most) const {
    const double scaled = static_cast<double>(most) * inv_t;
    return score - scaled - 1e-3 - 1e-6 * (std::fabs(score) + std::fabs(scaled));
  }
  bool hopeless(float most) const { return gap(most) > max_gumbel; }
  // No larger word lifts it so far.
  uint32_t limit(float most) const {
    if (token < 0) return 0xffffffffu;
    const double words = -std::expm1(-std::exp(-gap(most))) * 4294967296.0 + 1.0;
    return words < 4294967295.0 ? static_cast<uint32_t>(words) : 0xffffffffu;
  }
  template <class T>
  void scan(const T* l, int64_t n, int64_t first_id, float most) {
    if (most == -infinity || hopeless(most)) return;
    uint32_t within = limit(most);
    for (int64_t i = 0; i < n; i += 32) {
      const auto counter = static_cast<uint32_t>((first_id + i) / 4);
      unsigned hits = philox_within(seed, counter, position, step, sequence, within);
      for (; hits; hits &= hits - 1) {
        const int lane = __builtin_ctz(hits);
        const Philox4 draw = philox(seed, counter + lane, position, step, sequence);
        for (int64_t j = 0; j < 4 && i + lane * 4 + j < n; ++j) {
          if (draw.word[j] > within) continue;
          const float value = widen(l[i + lane * 4 + j]);
          if (value == -infinity) continue;
          const float noisy = tokenburst::fused(value, inv_t, gumbel(draw.word[j]));
          const float bounded = noisy > largest ? largest : noisy < -largest ? -largest : noisy;
          if (!(bounded > score)) continue;
          score = bounded;
          logit = value;
          token = first_id + i + lane * 4 + j;
          within = limit(most);
        }
      }
    }
  }
};

struct Row {
  Top top;
  Draw draw;
  float base;
  Sums sums;
  int32_t n_nan;
  bool clamp;  // from the first block of a chunk on that needs it

  void start_chunk() {
    clamp = false;
    base = -infinity;
    sums = {F32x8::splat(0.0f), F32x8::splat(0.0f)};
    n_nan = 0;
  }
  void rise_to(float higher) {
    const float scale = tokenburst::exp_fast(base - higher);  // 0 from -inf
    if (scale == 0.0f) {
      sums = {F32x8::splat(0.0f), F32x8::splat(0.0f)};
    } else {
      sums.weighted =
          F32x8::splat(scale) * fused(F32x8::splat(base - higher), sums.sum, sums.weighted);
      sums.sum = F32x8::splat(scale) * sums.sum;
    }
    base = higher;
  }
  // n is a multiple of 16 and nothing is NaN or +inf, or false comes back and nothing has happened.
  template <class T>
  bool add_block(const T* l, int64_t n, int64_t first_id) {
    constexpr bool never = !Extremes<T>::knows_least;
    BlockSums b = clamp ? sweep<true>(l, n, base) : sweep<never>(l, n, base);
    if (b.most > base + headroom) return false;
    if (b.deep) {
      clamp = true;
      b = sweep<true>(l, n, base);
    }
    if (unordered(b.sums.weighted - b.sums.weighted)) return false;
    sums.sum = sums.sum + b.sums.sum;
    sums.weighted = sums.weighted + b.sums.weighted;
    if (b.most > top.floor) top.scan(l, n, first_id);
    if (draw.active) draw.scan(l, n, first_id, b.most);
    return true;
  }
};

// The mask has one bit per id, set where it is suppressed.
bool any_suppressed(const uint64_t* mask, int64_t first_id, int64_t n) {
  uint64_t any = 0;
  for (int64_t w = first_id / 64; w < (first_id + n + 63) / 64; ++w) any |= mask[w];
  return any != 0;
}

template <class T>
void add_cleaned(const T* l, int64_t n, int64_t first_id, const uint64_t* mask, Row& row) {
  alignas(64) float clean[block];
  for (int64_t i = 0; i < n; ++i) {
    const int64_t id = first_id + i;
    float value = widen(l[i]);
    if (value != value) {
      ++row.n_nan;
      value = -infinity;
    }
    if (mask && (mask[id / 64] >> (id % 64) & 1)) value = -infinity;
    clean[i] = value > largest ? largest : value;
  }
  const int64_t padded = (n + 15) / 16 * 16;
  for (int64_t i = n; i < padded; ++i) clean[i] = -infinity;
  const float most = maximum(clean, padded);
  if (most == -infinity) return;
  if (most > row.base + headroom || row.base == -infinity) row.rise_to(most);
  row.add_block(clean, padded, first_id);
}

template <class T>
void add_chunk(const T* l, int64_t begin, int64_t end, const uint64_t* mask, Row& row) {
  row.start_chunk();
  for (int64_t first = begin; first < end; first += block) {
    const int64_t n = end - first < block ? end - first : block;
    bool plain = n % 16 == 0 && !(mask && any_suppressed(mask, first, n));
    if (plain && row.base == -infinity) {
      const float most = maximum(l + first, n);
      plain = -infinity < most && most <= largest;
      if (plain) row.base = most;
    }
    if (plain && row.add_block(l + first, n, first)) continue;
    add_cleaned(l + first, n, first, mask, row);
  }
}

VocabPart* part_of(const VocabStatsParams& p, int64_t index) {
  auto* base = static_cast<uint8_t*>(p.workspace) + vocab_stats_cpu_mask(p.vocab);
  return reinterpret_cast<VocabPart*>(base + index * vocab_stats_cpu_part(p.k));
}
float* values_of(VocabPart* part) { return reinterpret_cast<float*>(part + 1); }

int64_t source_row(const VocabStatsParams& p, int64_t n) {
  return p.rows.present() ? p.rows[n] : n;
}

// Parts [begin, end), numbered (result, chunk). The best so far carries over from chunk to chunk of
// one row, which changes how much is skipped and nothing else; the last chunk here writes it down.
template <class T>
void sweep_parts(const VocabStatsParams& p, int64_t begin, int64_t end) {
  const auto* mask = p.num_suppress ? static_cast<const uint64_t*>(p.workspace) : nullptr;
  const int64_t splits = vocab_chunks(p.vocab, chunk), kept = vocab_stats_kept(p.k);
  float best[vocab_stats_max_k];
  int32_t best_ids[vocab_stats_max_k];
  Row row;
  row.top = {best, best_ids, 0, static_cast<int32_t>(kept), -infinity};
  row.draw.clear();
  for (int64_t index = begin; index < end; ++index) {
    const int64_t n = index / splits, split = index % splits, r = source_row(p, n);
    VocabPart* part = part_of(p, index);
    *part = {0.0, 0.0, -1, -infinity, -infinity, -infinity, 0, 0, 0};
    if (r < 0) continue;
    if (split == 0 || index == begin) {
      row.top.clear();
      row.draw.clear();
      row.draw.active = p.temperature && p.temperature[n] > 0.0f;
      if (row.draw.active) {
        const float inv_t = 1.0f / p.temperature[n];
        row.draw.inv_t = inv_t > largest ? largest : inv_t;
        row.draw.seed = static_cast<uint64_t>(p.rng[n * 4]);
        row.draw.sequence = static_cast<uint32_t>(p.rng[n * 4 + 1]);
        row.draw.step = static_cast<uint32_t>(p.rng[n * 4 + 2]);
        row.draw.position = static_cast<uint32_t>(p.rng[n * 4 + 3]);
      }
    }
    const T* l = static_cast<const T*>(p.logits) + r / p.row_length * p.outer_stride +
                 r % p.row_length * p.row_stride;
    const int64_t stop = (split + 1) * chunk < p.vocab ? (split + 1) * chunk : p.vocab;
    add_chunk(l, split * chunk, stop, mask, row);
    part->sum = reduce_add(row.sums.sum);
    part->weighted = reduce_add(row.sums.weighted);
    part->base = row.base;
    part->n_nan = row.n_nan;
    if (split + 1 < splits && index + 1 < end) continue;
    part->token = row.draw.token;
    part->score = row.draw.score;
    part->token_logit = row.draw.logit;
    part->num_top = row.top.size;
    auto* ids = reinterpret_cast<int32_t*>(values_of(part) + kept);
    for (int32_t i = 0; i < row.top.size; ++i) {
      values_of(part)[i] = best[i];
      ids[i] = best_ids[i];
    }
  }
}

// Chunks in ascending order, so sums have one order and ties go to the lower id.
void finish_row(const VocabStatsParams& p, int64_t n) {
  const int64_t splits = vocab_chunks(p.vocab, chunk), kept = vocab_stats_kept(p.k);
  float values[vocab_stats_max_k];
  int32_t ids[vocab_stats_max_k];
  Top top{values, ids, 0, static_cast<int32_t>(kept), -infinity};
  double base = -HUGE_VAL, sum = 0.0, weighted = 0.0;
  float score = -infinity, logit = -infinity;
  int64_t token = -1;
  int32_t n_nan = 0;
  for (int64_t c = 0; c < splits; ++c) {
    VocabPart* part = part_of(p, n * splits + c);
    n_nan += part->n_nan;
    if (part->base > base) base = part->base;
    const auto* part_ids = reinterpret_cast<const int32_t*>(values_of(part) + kept);
    for (int32_t i = 0; i < part->num_top && values_of(part)[i] > top.floor; ++i) {
      top.insert(values_of(part)[i], part_ids[i]);
    }
    if (part->score > score) {
      score = part->score;
      logit = part->token_logit;
      token = part->token;
    }
  }
  for (int64_t c = 0; c < splits; ++c) {
    const VocabPart* part = part_of(p, n * splits + c);
    if (part->base == -infinity) continue;
    const double shift = part->base - base, scale = std::exp(shift);
    sum += scale * part->sum;
    if (scale > 0.0) weighted += scale * (part->weighted + shift * part->sum);
  }
  for (int64_t i = 0; i < p.k; ++i) {
    p.ids[n * p.k + i] = i < top.size ? ids[i] : -1;
    p.values[n * p.k + i] = i < top.size ? values[i] : -infinity;
  }
  p.n_nan[n] = n_nan;
  if (top.size == 0) {
    p.token[n] = -1;
    p.lse[n] = -infinity;
    p.confidence[n] = p.margin[n] = p.entropy[n] = 0.0f;
    return;
  }
  if (token < 0) {
    token = ids[0];
    logit = values[0];
  }
  const double log_sum = std::log(sum), entropy = log_sum - weighted / sum;
  const double first = std::exp(values[0] - base) / sum;
  const double second = top.size > 1 ? std::exp(values[1] - base) / sum : 0.0;
  p.token[n] = token;
  p.lse[n] = static_cast<float>(base + log_sum);
  p.confidence[n] = static_cast<float>(std::exp(logit - base) / sum);
  p.margin[n] = static_cast<float>(first - second);
  p.entropy[n] = entropy > 0.0 ? static_cast<float>(entropy) : 0.0f;
}

}  // namespace

void vocab_stats(const VocabStatsParams& p) {
  if (p.num_suppress) {
    auto* mask = static_cast<uint64_t*>(p.workspace);
    for (int64_t w = 0; w < vocab_stats_cpu_mask(p.vocab) / 8; ++w) mask[w] = 0;
    for (int64_t i = 0; i < p.num_suppress; ++i) {
      mask[p.suppress[i] / 64] |= uint64_t{1} << (p.suppress[i] % 64);
    }
  }
  const int64_t splits = vocab_chunks(p.vocab, chunk);
  const int64_t grain = p.vocab < 32768 ? 32768 / p.vocab + 1 : 4;
  parallel_for(p.count * splits, grain, [&](int64_t begin, int64_t end) {
    switch (p.dtype) {
      case DType::f32:
        return sweep_parts<float>(p, begin, end);
      case DType::f16:
        return sweep_parts<Half>(p, begin, end);
      case DType::bf16:
        return sweep_parts<BFloat>(p, begin, end);
    }
  });
  parallel_for(p.count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) finish_row(p, n);
  });
}

}  // namespace tokenburst::TB_ISA
