// A row is read twice, the second time from the cache: for its maximum by blocks, then for the
// blocks' weights relative to it. A draw finds its block by their sums and its token inside; tokens
// that were drawn leave both. While the weights of one row keep the arithmetic busy, the next row
// is on its way into the cache. Fewer rows than threads are cut into ranges of blocks: weights are
// integers, so no cut shows.
#include "common/parallel.h"
#include "common/simd.h"
#include "vocab/drawn.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t block = 512;
constexpr int64_t grain = 32;      // blocks that are worth a thread
constexpr float nothing = -29.0f;  // e^nothing weighs less than half a unit
constexpr float largest = 3.402823466e38f;

template <class T>
class Row {
 public:
  Row(const T* logits, int64_t length, float* maxima, uint64_t* sums, bool all_threads)
      : data(logits),
        vocab(length),
        blocks((length + block - 1) / block),
        shared(all_threads),
        most_of(maxima),
        mass_of(sums) {
    ranges([this](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) most_of[i] = maximum(i);
    });
    for (int64_t i = 0; i < blocks; ++i) most = most_of[i] > most ? most_of[i] : most;
    most = clean_logit(most);
  }

  float most = -infinity;

  // Total weight at a temperature; `next` is what will be read after this row, if anything.
  uint64_t weigh(float inverse, const T* next) {
    inv_t = inverse;
    ranges([this, next](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
        for (int64_t x = 0; next && x < length_of(i); x += line) {
          __builtin_prefetch(next + i * block + x, 0, 2);
        }
        mass_of[i] = mass_of_block(i);
      }
    });
    uint64_t total = 0;
    for (int64_t i = 0; i < blocks; ++i) total += mass_of[i];
    return total;
  }
  float logit(int64_t x) const { return clean_logit(widen(data[x])); }
  uint64_t mass(int64_t x) const {
    return static_cast<uint64_t>(weight(tokenburst::exp_fast((logit(x) - most) * inv_t)));
  }
  int64_t find(uint64_t target) const {
    int64_t i = 0;
    while (mass_of[i] <= target) target -= mass_of[i++];
    alignas(64) float e[block];
    const int64_t n = exponentials(i, e);
    for (int j = 0; j < num_removed; ++j) {
      if (removed[j] / block == i) e[removed[j] % block] = 0.0f;
    }
    int64_t at = 0;
    for (; at + 64 < n; at += 64) {
      WeightSum sum;
      for (int64_t x = at; x < at + 64; x += 8) sum.add(F32x8::load(e + x));
      const uint64_t mass = sum.take();
      if (mass > target) break;
      target -= mass;
    }
    for (uint64_t w = unit(e[at]); w <= target; w = unit(e[++at])) target -= w;
    return i * block + at;
  }
  void remove(int64_t x, uint64_t mass) {
    mass_of[x / block] -= mass;
    removed[num_removed++] = x;
  }

  // The best k keys, best first; returns how many there are.
  int64_t best(int64_t k, uint64_t* top) const {
    int64_t size = 0;
    float floor = -infinity;
    for (int64_t i = 0; i < blocks; ++i) {
      if (!(most_of[i] > floor)) continue;
      for (int64_t x = i * block; x < i * block + length_of(i); ++x) {
        const float l = logit(x);
        if (!(l > floor)) continue;  // ids ascend, so an equal one stays behind
        const uint64_t key = rank_key(l, static_cast<uint32_t>(x));
        int64_t at = size < k ? size++ : size - 1;
        for (; at > 0 && top[at - 1] < key; --at) top[at] = top[at - 1];
        top[at] = key;
        if (size == k) floor = logit(rank_id(top[k - 1]));
      }
    }
    return size;
  }

 private:
  template <class F>
  void ranges(F f) {
    shared ? parallel_for(blocks, grain, f) : f(0, blocks);
  }
  static uint64_t unit(float e) { return static_cast<uint64_t>(weight(e)); }
  int64_t length_of(int64_t i) const {
    return vocab - i * block < block ? vocab - i * block : block;
  }
  float maximum(int64_t i) const {  // NaN left out
    const T* l = data + i * block;
    const int64_t n = length_of(i), whole = n / 32 * 32;
    F32x8 most[4], raw[4];
    for (F32x8& m : most) m = F32x8::splat(-infinity);
    for (int64_t x = 0; x < whole; x += 32) {
      load_pair(l + x, raw[0], raw[1]);
      load_pair(l + x + 16, raw[2], raw[3]);
      for (int j = 0; j < 4; ++j) most[j] = max(raw[j], most[j]);
    }
    float all = reduce_max(max(max(most[0], most[1]), max(most[2], most[3])));
    for (int64_t x = whole; x < n; ++x) all = widen(l[x]) > all ? widen(l[x]) : all;
    return all;
  }
  // (l - most) / T. NaN is left to exp_weighed; only beside the largest float can a logit, +inf,
  // lie above the best.
  enum Scale { one, finite, any };
  template <Scale scale>
  F32x8 distance(F32x8 l) const {
    const F32x8 below = l - F32x8::splat(most);
    if (scale == one) return below;
    const F32x8 scaled = below * F32x8::splat(inv_t);
    if (scale == finite) return scaled;
    return min(max(scaled, F32x8::splat(-infinity)), F32x8::splat(0.0f));
  }
  uint64_t mass_of_block(int64_t i) const {
    const float below = (clean_logit(most_of[i]) - most) * inv_t;
    if (below < nothing) return 0;
    if (!(most < largest)) return sum_of<any, WeightSum>(i);
    if (inv_t == 1.0f) {
      return below < small_weight ? sum_of<one, SmallWeightSum>(i) : sum_of<one, WeightSum>(i);
    }
    return below < small_weight ? sum_of<finite, SmallWeightSum>(i) : sum_of<finite, WeightSum>(i);
  }
  template <Scale scale, class Sum>
  uint64_t sum_of(int64_t i) const {
    const T* l = data + i * block;
    const int64_t n = length_of(i), whole = n / 32 * 32;
    alignas(64) float r[block], t[block];
    for (int64_t x = 0; x < whole; x += 16) {
      F32x8 raw[2];
      load_pair(l + x, raw[0], raw[1]);
      for (int j = 0; j < 2; ++j) {
        const ExpParts parts = exp_parts(distance<scale>(raw[j]));
        parts.r.store(r + x + 8 * j);
        parts.t.store(t + x + 8 * j);
      }
    }
    Sum sum;
    for (int64_t x = 0; x < whole; x += 32) {
      ExpParts parts[4];
      F32x8 e[4];
      for (int j = 0; j < 4; ++j) {
        parts[j] = {F32x8::load(r + x + 8 * j), F32x8::load(t + x + 8 * j)};
      }
      exp_of_parts(parts, e);
      for (const F32x8 v : e) sum.add(v);
    }
    uint64_t total = sum.take();
    for (int64_t x = whole; x < n; ++x) total += mass(i * block + x);
    return total;
  }
  // e^((l - most) / T) of a block; returns its length.
  int64_t exponentials(int64_t i, float* e) const {
    const T* l = data + i * block;
    const int64_t n = length_of(i), whole = n / 8 * 8;
    for (int64_t x = 0; x < whole; x += 8) {
      exp_weighed(distance<any>(F32x8::load(l + x))).store(e + x);
    }
    for (int64_t x = whole; x < n; ++x) {
      e[x] = tokenburst::exp_fast((clean_logit(widen(l[x])) - most) * inv_t);
    }
    return n;
  }

  const T* data;
  int64_t vocab, blocks;
  bool shared;
  float* most_of;
  uint64_t* mass_of;
  float inv_t = 0.0f;
  int num_removed = 0;
  int64_t removed[vocab_sample_max_k];
};

template <class T>
const T* row_of(const VocabSampleParams& p, int64_t n) {  // nullptr: none
  const int64_t r = p.rows.present() ? p.rows[n] : n;
  if (r < 0) return nullptr;
  return static_cast<const T*>(p.logits) + r / p.row_length * p.outer_stride +
         r % p.row_length * p.row_stride;
}

template <class T>
void sample_row(const VocabSampleParams& p, int64_t n, int64_t end, bool shared, uint64_t* sums) {
  const T* logits = row_of<T>(p, n);
  p.lse[n] = -infinity;
  if (!logits) return write_none(p, n, 0);
  auto* maxima = reinterpret_cast<float*>(sums + (p.vocab + block - 1) / block);
  Row<T> row(logits, p.vocab, maxima, sums, shared);
  if (row.most == -infinity) return write_none(p, n, 0);
  const float t = p.temperature[n];
  RowLaw law{row.most, t > 0.0f ? inverse_temperature(t) : 0.0f, 0};
  if (law.inv_t > 0.0f) {
    law.total = row.weigh(law.inv_t, n + 1 < end ? row_of<T>(p, n + 1) : nullptr);
    p.lse[n] = law.lse();
    return write_draws(p, n, law, row, true);
  }
  p.lse[n] = law.lse();
  uint64_t top[vocab_sample_max_k] = {};
  const int64_t size = row.best(p.replacement ? 1 : p.k, top);
  for (int64_t i = 0; i < p.k; ++i) {
    if (p.replacement || i < size) write_ranked(p, n, i, rank_id(top[p.replacement ? 0 : i]));
  }
  if (!p.replacement) write_none(p, n, size);
}

void sample_rows(const VocabSampleParams& p, int64_t begin, int64_t end, bool shared) {
  const int64_t blocks = (p.vocab + block - 1) / block;
  auto* sums = static_cast<uint64_t*>(scratch(blocks * (sizeof(uint64_t) + sizeof(float)) + 64));
  for (int64_t n = begin; n < end; ++n) {
    switch (p.dtype) {
      case DType::f32:
        sample_row<float>(p, n, end, shared, sums);
        break;
      case DType::f16:
        sample_row<Half>(p, n, end, shared, sums);
        break;
      case DType::bf16:
        sample_row<BFloat>(p, n, end, shared, sums);
        break;
    }
  }
}

}  // namespace

void vocab_sample(const VocabSampleParams& p) {
  if (p.count < thread_count() && p.vocab >= 2 * grain * block) {
    return sample_rows(p, 0, p.count, true);
  }
  parallel_for(p.count, p.vocab < 4096 ? 4096 / (p.vocab + 1) + 1 : 1,
               [&](int64_t begin, int64_t end) { sample_rows(p, begin, end, false); });
}

}  // namespace tokenburst::TB_ISA
