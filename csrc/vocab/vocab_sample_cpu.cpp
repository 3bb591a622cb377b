// A row is read twice, the second time from the cache: for its maximum by blocks, then for the
// blocks' weights relative to it. A draw finds its block by their sums and its token inside; tokens
// that were drawn leave both.
#include "common/parallel.h"
#include "common/simd.h"
#include "vocab/drawn.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t block = 512;
constexpr float nothing = -29.0f;  // e^nothing weighs less than half a unit

template <class T>
class Row {
 public:
  Row(const T* logits, int64_t length, float* maxima, uint64_t* sums)
      : data(logits), vocab(length), most_of(maxima), mass_of(sums) {
    for (int64_t i = 0; i * block < vocab; ++i) {
      const float largest = maximum(i);
      most_of[i] = largest;
      most = largest > most ? largest : most;
    }
    most = clean_logit(most);
  }

  float most = -infinity;

  // Total weight at a temperature.
  uint64_t weigh(float inverse) {
    inv_t = inverse;
    uint64_t total = 0;
    alignas(64) float e[block];
    for (int64_t i = 0; i * block < vocab; ++i) {
      mass_of[i] = (clean_logit(most_of[i]) - most) * inv_t < nothing ? 0 : exponentials(i, e);
      total += mass_of[i];
    }
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
    exponentials(i, e);
    for (int j = 0; j < num_removed; ++j) {
      if (removed[j] / block == i) e[removed[j] % block] = 0.0f;
    }
    int64_t at = 0;
    for (uint64_t w = unit(e[0]); w <= target; w = unit(e[++at])) target -= w;
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
    for (int64_t i = 0; i * block < vocab; ++i) {
      if (!(most_of[i] > floor)) continue;
      const int64_t end = (i + 1) * block < vocab ? (i + 1) * block : vocab;
      for (int64_t x = i * block; x < end; ++x) {
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
  static uint64_t unit(float e) { return static_cast<uint64_t>(weight(e)); }
  int64_t length_of(int64_t i) const {
    return vocab - i * block < block ? vocab - i * block : block;
  }
  float maximum(int64_t i) const {  // NaN left out
    const T* l = data + i * block;
    const int64_t n = length_of(i), whole = n / 16 * 16;
    F32x8 a = F32x8::splat(-infinity), b = a;
    for (int64_t x = 0; x < whole; x += 16) {
      a = max(F32x8::load(l + x), a);
      b = max(F32x8::load(l + x + 8), b);
    }
    float largest = reduce_max(max(a, b));
    for (int64_t x = whole; x < n; ++x) largest = widen(l[x]) > largest ? widen(l[x]) : largest;
    return largest;
  }
  // e^((l - most) / T) of a block, 0 behind its end; returns the sum of the weights.
  uint64_t exponentials(int64_t i, float* e) const {
    const T* l = data + i * block;
    const int64_t n = length_of(i), whole = n / 8 * 8;
    const F32x8 base = F32x8::splat(most), scale = F32x8::splat(inv_t);
    const F32x8 least = F32x8::splat(-infinity), largest = F32x8::splat(3.402823466e38f);
    WeightSum sum;
    for (int64_t x = 0; x < whole; x += 8) {
      const F32x8 clean = min(max(F32x8::load(l + x), least), largest);
      const F32x8 power = exp_fast((clean - base) * scale);
      power.store(e + x);
      sum.add(power);
    }
    uint64_t total = sum.take();
    for (int64_t x = whole; x < n; ++x) {
      e[x] = tokenburst::exp_fast((clean_logit(widen(l[x])) - most) * inv_t);
      total += unit(e[x]);
    }
    return total;
  }

  const T* data;
  int64_t vocab;
  float* most_of;
  uint64_t* mass_of;
  float inv_t = 0.0f;
  int num_removed = 0;
  int64_t removed[vocab_sample_max_k];
};

template <class T>
void sample_row(const VocabSampleParams& p, int64_t n, float* maxima, uint64_t* sums) {
  const int64_t r = p.rows.present() ? p.rows[n] : n;
  p.lse[n] = -infinity;
  if (r < 0) return write_none(p, n, 0);
  Row<T> row(static_cast<const T*>(p.logits) + r / p.row_length * p.outer_stride +
                 r % p.row_length * p.row_stride,
             p.vocab, maxima, sums);
  if (row.most == -infinity) return write_none(p, n, 0);
  const float t = p.temperature[n];
  RowLaw law{row.most, t > 0.0f ? inverse_temperature(t) : 0.0f, 0};
  if (law.inv_t > 0.0f) {
    law.total = row.weigh(law.inv_t);
    p.lse[n] = law.lse();
    return write_draws(p, n, law, row, true);
  }
  p.lse[n] = law.lse();
  uint64_t top[vocab_sample_max_k];
  const int64_t size = row.best(p.replacement ? 1 : p.k, top);
  for (int64_t i = 0; i < p.k; ++i) {
    if (p.replacement || i < size) write_ranked(p, n, i, rank_id(top[p.replacement ? 0 : i]));
  }
  if (!p.replacement) write_none(p, n, size);
}

}  // namespace

void vocab_sample(const VocabSampleParams& p) {
  parallel_for(
      p.count, p.vocab < 4096 ? 4096 / (p.vocab + 1) + 1 : 1, [&](int64_t begin, int64_t end) {
        const int64_t blocks = (p.vocab + block - 1) / block;
        auto* sums =
            static_cast<uint64_t*>(scratch(blocks * (sizeof(uint64_t) + sizeof(float)) + 64));
        auto* maxima = reinterpret_cast<float*>(sums + blocks);
        for (int64_t n = begin; n < end; ++n) {
          switch (p.dtype) {
            case DType::f32:
              sample_row<float>(p, n, maxima, sums);
              break;
            case DType::f16:
              sample_row<Half>(p, n, maxima, sums);
              break;
            case DType::bf16:
              sample_row<BFloat>(p, n, maxima, sums);
              break;
          }
        }
      });
}

}  // namespace tokenburst::TB_ISA
