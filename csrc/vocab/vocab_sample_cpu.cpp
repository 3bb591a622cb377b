// A row is read once, tile by tile: the maximum of the next tile, then the sum of this one, still
// in the cache, against its own maximum (tile.h). A draw finds its tile by their masses and its
// token inside by integer weights, which only the tiles that are drawn need; tokens that were drawn
// leave both. Fewer rows than threads are cut into ranges of tiles.
#include "common/parallel.h"
#include "common/simd.h"
#include "vocab/drawn.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t grain = 32;    // tiles that are worth a thread
constexpr int64_t ahead = 4096;  // bytes from what is summed to what is fetched
constexpr int64_t bunch = 16;    // tiles that a draw passes at a time
constexpr int64_t group = 64;    // ids of a tile that are searched one by one
constexpr float largest = 3.402823466e38f;

template <class T>
float most_of_any(const T* l, int64_t n) {  // NaN left out
  const int64_t whole = n / 32 * 32;
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
inline float most_of(const float* l) { return most_of_any(l, tile_size); }
template <class T>
inline float most_of(const T* l) {  // sixteen bits: by integers where they are in order
  const int pattern = highest_pattern(l);
  const float most = widen(T{static_cast<uint16_t>(pattern)});
  return pattern > 0 && most <= largest ? most : most_of_any(l, tile_size);
}

float sum_of_columns(const F32x8 (&c)[4]) { return reduce_add((c[0] + c[2]) + (c[1] + c[3])); }

// y of sixteen logits as n + f; t holds n.
struct Powers {
  F32x8 t[2], f[2];
};
template <class T>
inline Powers powers(const T* l, F32x8 rate, F32x8 magic, F32x8 least) {
  Powers y;
  for (int j = 0; j < 2; ++j) {
    const F32x8 logit = max(F32x8::load(l + 8 * j), least);
    y.t[j] = fused(logit, rate, magic);
    y.f[j] = fused(logit, rate, magic - y.t[j]);
  }
  return y;
}

// Sum of a tile without +infinity, NaN counts as -infinity: Tile::term for sixteen logits at a
// time, with the first steps of the next sixteen beside the last ones of these.
template <class T>
inline __attribute__((always_inline)) float sum_of(const T* l, const Tile& tile) {
  const F32x8 rate = F32x8::splat(tile.rate), magic = F32x8::splat(tile.magic),
              least = F32x8::splat(tile.least);
  constexpr float coefficients[] = {9.671512991e-3f, 5.550733581e-2f, 2.402224243e-1f,
                                    6.931470037e-1f, 1.0f};
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  F32x8 sum[4];
  for (F32x8& s : sum) s = F32x8::splat(0.0f);
  Powers y = powers(l, rate, magic, least);
  for (int64_t x = 0; x < tile_size; x += 32) {
    for (int64_t i = 0; i < 32; i += line) {
      __builtin_prefetch(reinterpret_cast<const char*>(l + x + i) + ahead);
    }
    for (int half = 0; half < 2; ++half) {
      const int64_t after = x + 16 * half + 16;
      const Powers next = powers(l + (after < tile_size ? after : 0), rate, magic, least);
      for (int j = 0; j < 2; ++j) {
        F32x8 p = F32x8::splat(1.326472731e-3f);
        for (const float c : coefficients) p = fused(p, y.f[j], F32x8::splat(c));
        sum[2 * half + j] = sum[2 * half + j] + times_exp2(p, y.t[j]);
      }
      y = next;
    }
  }
  return sum_of_columns(sum);
}
template <class T>
float sum_of_any(const T* l, int64_t n, const Tile& tile) {
  alignas(32) float column[tile_columns] = {};
  for (int64_t x = 0; x < tile_size; ++x) {
    column[x % tile_columns] += tile.term(x < n ? clean_logit(widen(l[x])) : -infinity);
  }
  return sum_of_columns({F32x8::load(column), F32x8::load(column + 8), F32x8::load(column + 16),
                         F32x8::load(column + 24)});
}

struct Space {     // for one row
  uint64_t* mass;  // of each tile
  uint64_t* many;  // of `bunch` tiles
  float *most, *sum;
  static Space of(int64_t vocab) {
    const int64_t tiles = vocab_sample_tiles(vocab), bunches = (tiles + bunch - 1) / bunch;
    auto* mass = static_cast<uint64_t*>(scratch(static_cast<size_t>(tiles * 16 + bunches * 8)));
    auto* most = reinterpret_cast<float*>(mass + tiles + bunches);
    return {mass, mass + tiles, most, most + tiles};
  }
};

template <class T>
class Row {
 public:
  Row(const T* logits, int64_t length, const Space& space, float t, bool all_threads)
      : data(logits),
        vocab(length),
        tiles(vocab_sample_tiles(length)),
        shared(all_threads),
        s(space) {
    law.inv_t = t > 0.0f ? inverse_temperature(t) : 0.0f;
    scale = Scale::of(law.inv_t);
    ranges([this](int64_t begin, int64_t end) { read(begin, end); });
    law.most = -infinity;
    for (int64_t i = 0; i < tiles; ++i) law.most = s.most[i] > law.most ? s.most[i] : law.most;
    law.most = clean_logit(law.most);
    if (law.inv_t > 0.0f && law.most > -infinity) weigh();
  }

  RowLaw law{};

  float logit(int64_t x) const { return clean_logit(widen(data[x])); }
  Found find(uint64_t target) const {
    int64_t i = 0;
    while (i + bunch < tiles && s.many[i / bunch] <= target) {
      target -= s.many[i / bunch];
      i += bunch;
    }
    while (i + 1 < tiles && s.mass[i] <= target) target -= s.mass[i++];
    alignas(64) float e[tile_size];
    const int64_t n = exponentials(i, e);
    for (int j = 0; j < num_removed; ++j) {
      if (removed[j] / tile_size == i) e[removed[j] % tile_size] = 0.0f;
    }
    uint64_t part[tile_size / group] = {}, weights = 0;
    for (int64_t g = 0; g * group < n; ++g) {
      F64x8 sum = F64x8::splat(0.0);
      for (int64_t x = g * group; x < (g + 1) * group; x += 8) {
        sum = sum + round(whole_weight8(e + x));
      }
      weights += part[g] = static_cast<uint64_t>(reduce_add(sum));
    }
    uint64_t place = place_in_tile(target, s.mass[i], weights);
    int64_t g = 0;
    while (part[g] <= place) place -= part[g++];
    int64_t at = g * group;
    auto mine = static_cast<uint64_t>(weight(e[at]));
    for (; mine <= place; mine = static_cast<uint64_t>(weight(e[++at]))) place -= mine;
    return {i * tile_size + at, s.mass[i] - mass_without(s.mass[i], weights, mine)};
  }
  void remove(const Found& found) {
    s.mass[found.id / tile_size] -= found.mass;
    s.many[found.id / (bunch * tile_size)] -= found.mass;
    removed[num_removed++] = found.id;
  }

  // The best k keys, best first; returns how many there are.
  int64_t best(int64_t k, uint64_t* top) const {
    int64_t size = 0;
    float floor = -infinity;
    for (int64_t i = 0; i < tiles; ++i) {
      if (!(s.most[i] > floor)) continue;
      for (int64_t x = i * tile_size; x < i * tile_size + length_of(i); ++x) {
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
    shared ? parallel_for(tiles, grain, f) : f(0, tiles);
  }
  int64_t length_of(int64_t i) const {
    return vocab - i * tile_size < tile_size ? vocab - i * tile_size : tile_size;
  }
  void read(int64_t begin, int64_t end) {
    const int64_t whole = end < vocab / tile_size ? end : vocab / tile_size;
    float next = begin < whole ? most_of(data + begin * tile_size) : 0.0f;
    for (int64_t i = begin; i < whole; ++i) {
      const float most = next;
      s.most[i] = most;
      if (i + 1 < whole) next = most_of(data + (i + 1) * tile_size);
      if (law.inv_t == 0.0f) continue;
      const Tile tile(scale, most);
      s.sum[i] = tile.counts() && !tile.wide && most <= largest ? sum_of(data + i * tile_size, tile)
                                                                : sum(i);
    }
    for (int64_t i = whole; i < end; ++i) {
      s.most[i] = most_of_any(data + i * tile_size, length_of(i));
      if (law.inv_t > 0.0f) s.sum[i] = sum(i);
    }
  }
  float sum(int64_t i) const {
    const Tile tile(scale, clean_logit(s.most[i]));
    const T* l = data + i * tile_size;
    const int64_t n = length_of(i);
    if (!tile.counts()) return 0.0f;
    if (tile.wide || tile.shift != 0.0f || s.most[i] > largest) return sum_of_any(l, n, tile);
    if (n == tile_size) return sum_of(l, tile);
    alignas(64) T padded[tile_size];
    for (int64_t x = 0; x < n; ++x) padded[x] = l[x];
    for (int64_t x = n; x < tile_size; ++x) narrow(-infinity, padded + x);
    return sum_of(padded, tile);
  }
  void weigh() {
    if (!scale.fits(law.most)) {
      scale.shift = law.most;
      ranges([this](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) s.sum[i] = sum(i);
      });
    }
    const float exponent = scale.exponent(law.most);
    law.best = tokenburst::fused(law.most - scale.shift, scale.rate, -exponent);
    for (int64_t i = 0; i < tiles; i += bunch) {
      uint64_t many = 0;
      for (int64_t j = i; j < tiles && j < i + bunch; ++j) {
        const float most = clean_logit(s.most[j]), below = scale.exponent(most) - exponent;
        s.mass[j] = tile_mass(s.sum[j], below, (most - law.most) * law.inv_t);
        many += s.mass[j];
      }
      s.many[i / bunch] = many;
      law.total += many;
    }
  }
  // (l - most) / T; NaN is left to exp_weighed. Beside the largest float +infinity lies above it.
  F32x8 distance(F32x8 l) const {
    const F32x8 scaled = (l - F32x8::splat(law.most)) * F32x8::splat(law.inv_t);
    return min(max(scaled, F32x8::splat(-infinity)), F32x8::splat(0.0f));
  }
  // e^((l - most) / T) of a tile, 0 up to a multiple of a group; returns its length.
  int64_t exponentials(int64_t i, float* e) const {
    const T* l = data + i * tile_size;
    const int64_t n = length_of(i), whole = n / 32 * 32;
    for (int64_t x = 0; x < whole; x += 32) {
      ExpParts parts[4];
      F32x8 exp[4];
      for (int j = 0; j < 4; ++j) parts[j] = exp_parts(distance(F32x8::load(l + x + 8 * j)));
      exp_of_parts(parts, exp);
      for (int j = 0; j < 4; ++j) exp[j].store(e + x + 8 * j);
    }
    for (int64_t x = whole; x < n; ++x) {
      e[x] = tokenburst::exp_fast((clean_logit(widen(l[x])) - law.most) * law.inv_t);
    }
    for (int64_t x = n; x % group != 0; ++x) e[x] = 0.0f;
    return n;
  }

  const T* data;
  int64_t vocab, tiles;
  bool shared;
  Space s;
  Scale scale{};
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
void sample_row(const VocabSampleParams& p, int64_t n, bool shared, const Space& space) {
  const T* logits = row_of<T>(p, n);
  p.lse[n] = -infinity;
  if (!logits) return write_none(p, n, 0);
  Row<T> row(logits, p.vocab, space, p.temperature[n], shared);
  if (row.law.most == -infinity) return write_none(p, n, 0);
  p.lse[n] = row.law.lse();
  if (row.law.inv_t > 0.0f) return write_draws(p, n, row.law, row, true);
  uint64_t top[vocab_sample_max_k] = {};
  const int64_t size = row.best(p.replacement ? 1 : p.k, top);
  for (int64_t i = 0; i < p.k; ++i) {
    if (p.replacement || i < size) write_ranked(p, n, i, rank_id(top[p.replacement ? 0 : i]));
  }
  if (!p.replacement) write_none(p, n, size);
}

void sample_rows(const VocabSampleParams& p, int64_t begin, int64_t end, bool shared) {
  const Space space = Space::of(p.vocab);
  for (int64_t n = begin; n < end; ++n) {
    switch (p.dtype) {
      case DType::f32:
        sample_row<float>(p, n, shared, space);
        break;
      case DType::f16:
        sample_row<Half>(p, n, shared, space);
        break;
      case DType::bf16:
        sample_row<BFloat>(p, n, shared, space);
        break;
    }
  }
}

}  // namespace

void vocab_sample(const VocabSampleParams& p) {
  if (p.count < thread_count() && p.vocab >= 2 * grain * tile_size) {
    return sample_rows(p, 0, p.count, true);
  }
  parallel_for(p.count, p.vocab < 4096 ? 4096 / (p.vocab + 1) + 1 : 1,
               [&](int64_t begin, int64_t end) { sample_rows(p, begin, end, false); });
}

}  // namespace tokenburst::TB_ISA
