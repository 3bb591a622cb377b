// One product of queries and keys, one exponential per score. Lanes are query rows: keys are
// broadcast straight from their rows and every maximum and sum over keys is vertical, so nothing is
// transposed but the queries, once. Each block of keys leaves a row's maximum m and sum l; when all
// are there, l e^(m - most) / total is the row's share of the block, over all keys for one part and
// over the generated ones for the other.
#include "attention/attn_block_mass.h"
#include "common/parallel.h"
#include "common/simd.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t lanes = F32x8::lanes, strip = 2 * lanes;  // rows of one pass over the keys

// e^x for x <= 0; below -86.5, and for NaN, e^-86.5: nothing beside a sum that is at least 1.
// Relative error below 3e-7.
inline F32x8 exp_below(F32x8 x) {
  const F32x8 log2_e = F32x8::splat(1.442695041f), round = F32x8::splat(12582912.0f);
  x = max(x, F32x8::splat(-86.5f));
  const F32x8 t = fused(x, log2_e, round);
  const F32x8 f = fused(x, log2_e, round - t);
  F32x8 p = F32x8::splat(1.321867487e-03f);
  p = fused(p, f, F32x8::splat(9.671702585e-03f));
  p = fused(p, f, F32x8::splat(5.550893005e-02f));
  p = fused(p, f, F32x8::splat(2.402223793e-01f));
  p = fused(p, f, F32x8::splat(6.931468559e-01f));
  p = fused(p, f, F32x8::splat(1.0f));
  return times_exp2(p, t);
}

// s[key][row] of `keys` keys and one strip of rows; sums over d in order.
template <int keys>
void scores(const float* q, const float* k, int64_t k_stride, int64_t dim, float* s) {
  F32x8 sum[keys][2];
#pragma GCC unroll 8
  for (int i = 0; i < keys; ++i) sum[i][0] = sum[i][1] = F32x8::splat(0.0f);
  for (int64_t d = 0; d < dim; ++d) {
    const F32x8 x = F32x8::load(q + d * mass_rows), y = F32x8::load(q + d * mass_rows + lanes);
#pragma GCC unroll 8
    for (int i = 0; i < keys; ++i) {
      const F32x8 key = F32x8::splat(k[i * k_stride + d]);
      sum[i][0] = fused(key, x, sum[i][0]);
      sum[i][1] = fused(key, y, sum[i][1]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < keys; ++i) {
    sum[i][0].store(s + i * strip);
    sum[i][1].store(s + i * strip + lanes);
  }
}

void all_scores(const float* q, const float* k, int64_t k_stride, int64_t keys, int64_t dim,
                float* s) {
  int64_t i = 0;
  // Sixes fill the registers; two fours instead of a six and a two keep the multipliers busy.
  for (; keys - i >= 6 && keys - i != 8; i += 6) {
    scores<6>(q, k + i * k_stride, k_stride, dim, s + i * strip);
  }
  for (; keys - i >= 4; i += 4) {
    scores<4>(q, k + i * k_stride, k_stride, dim, s + i * strip);
  }
  for (; i < keys; ++i) scores<1>(q, k + i * k_stride, k_stride, dim, s + i * strip);
}

// Memory of one thread.
struct Workspace {
  float *q, *keys;           // [dim][mass_rows], one block of 16-bit keys widened
  float* s;                  // [block][strip]
  float *most, *sum;         // [blocks][mass_rows]
  float *highest, *inverse;  // [mass_rows]: of the part being finished

  explicit Workspace(const AttnBlockMassParams& p) {
    const int64_t q_size = p.dim * mass_rows, keys_size = p.block * p.dim, s_size = p.block * strip,
                  stats = p.blocks * mass_rows;
    auto* memory = static_cast<float*>(
        scratch((q_size + keys_size + s_size + 2 * stats + 2 * mass_rows) * sizeof(float)));
    const auto take = [&](int64_t n) {
      float* from = memory;
      memory += n;
      return from;
    };
    q = take(q_size), keys = take(keys_size), s = take(s_size);
    most = take(stats), sum = take(stats);
    highest = take(mass_rows), inverse = take(mass_rows);
  }
};

// Query rows [first, first + mass_rows) of one head.
template <class T>
class Item {
 public:
  Item(const AttnBlockMassParams& p, const Workspace& w, int64_t b, int64_t head, int64_t first)
      : p_(p),
        w_(w),
        first_(first),
        parts_(sparsed_parts(p.kv_len, p.prompt_len, b, p.length, p.block)) {
    const int64_t left = parts_.rows - first;
    rows_ = left < 0 ? 0 : left < mass_rows ? left : mass_rows;
    padded_ = (rows_ + strip - 1) / strip * strip;
    q_ = static_cast<const T*>(p.q) + b * p.q_stride[0] + head * p.q_stride[1] +
         first * p.q_stride[2];
    k_ = static_cast<const T*>(p.k) + b * p.k_stride[0] +
         head / (p.heads / p.kv_heads) * p.k_stride[1];
    out_ = ((b * p.heads + head) * p.blocks + first / p.block) * p.blocks;
  }

  void run() {
    load_queries();
    for (int64_t j = 0; rows_ > 0 && j < parts_.blocks; ++j) attend(j);
    finish(0, p_.prefix + out_);
    finish(parts_.split, p_.generation + out_);
  }

 private:
  void load_queries() {
    const F32x8 scale = F32x8::splat(p_.scale);
    for (int64_t r = 0; r < padded_; r += lanes) {
      for (int64_t d = 0; d < p_.dim; d += lanes) {
        F32x8 part[8];
        for (int i = 0; i < 8; ++i) {
          part[i] = r + i < rows_ ? F32x8::load(q_ + (r + i) * p_.q_stride[2] + d) * scale
                                  : F32x8::splat(0.0f);
        }
        transpose(part);
        for (int i = 0; i < 8; ++i) part[i].store(w_.q + (d + i) * mass_rows + r);
      }
    }
  }

  void attend(int64_t j) {
    const int64_t start = j * p_.block, left = parts_.rows - start;
    const int64_t keys = left < p_.block ? left : p_.block;
    const T* k = k_ + start * p_.k_stride[2];
    if constexpr (sizeof(T) == sizeof(float)) {
      attend(j, reinterpret_cast<const float*>(k), p_.k_stride[2], keys);
    } else {
      for (int64_t i = 0; i < keys; ++i) {
        for (int64_t d = 0; d < p_.dim; d += lanes) {
          F32x8::load(k + i * p_.k_stride[2] + d).store(w_.keys + i * p_.dim + d);
        }
      }
      attend(j, w_.keys, p_.dim, keys);
    }
  }

  void attend(int64_t j, const float* k, int64_t k_stride, int64_t keys) {
    for (int64_t r = 0; r < padded_; r += strip) {
      all_scores(w_.q + r, k, k_stride, keys, p_.dim, w_.s);
      for (int half = 0; half < 2; ++half) {
        const float* s = w_.s + half * lanes;
        F32x8 most[2] = {F32x8::splat(-infinity), F32x8::splat(-infinity)};
        F32x8 sum[2] = {F32x8::splat(0.0f), F32x8::splat(0.0f)};
        for (int64_t i = 0; i < keys; ++i) {
          most[i % 2] = max(F32x8::load(s + i * strip), most[i % 2]);
        }
        const F32x8 base = max(most[0], most[1]);
        int64_t i = 0;
        for (; i + 1 < keys; i += 2) {
          sum[0] = sum[0] + exp_below(F32x8::load(s + i * strip) - base);
          sum[1] = sum[1] + exp_below(F32x8::load(s + (i + 1) * strip) - base);
        }
        if (i < keys) sum[0] = sum[0] + exp_below(F32x8::load(s + i * strip) - base);
        base.store(w_.most + j * mass_rows + r + half * lanes);
        (sum[0] + sum[1]).store(w_.sum + j * mass_rows + r + half * lanes);
      }
    }
  }

  // Shares over the keys from block `from` on, summed over the rows of each query block.
  void finish(int64_t from, float* out) {
    for (int64_t r = 0; r < padded_; r += lanes) normalise(from, r);
    for (int64_t start = 0; start < mass_rows && first_ + start < p_.length; start += p_.block) {
      const int64_t left = padded_ - start, end = start + (left < p_.block ? left : p_.block);
      for (int64_t j = 0; j < p_.blocks; ++j) {
        F32x8 mass = F32x8::splat(0.0f);
        if (from <= j && j < parts_.blocks) {
          for (int64_t r = start; r < end; r += lanes) {
            mass = fused(weight(j, r), F32x8::load(w_.inverse + r), mass);
          }
        }
        out[j] = reduce_add(mass);
      }
      out += p_.blocks;
    }
  }

  F32x8 weight(int64_t j, int64_t r) const {
    const F32x8 below = F32x8::load(w_.most + j * mass_rows + r) - F32x8::load(w_.highest + r);
    return F32x8::load(w_.sum + j * mass_rows + r) * exp_below(below);
  }

  // highest and inverse of eight rows; a row without a number, or past the end, has no share.
  void normalise(int64_t from, int64_t r) {
    F32x8 highest = F32x8::splat(-infinity), total = F32x8::splat(0.0f);
    for (int64_t j = from; j < parts_.blocks; ++j) {
      highest = max(F32x8::load(w_.most + j * mass_rows + r), highest);
    }
    highest.store(w_.highest + r);
    for (int64_t j = from; j < parts_.blocks; ++j) total = total + weight(j, r);
    total.store(w_.inverse + r);
    for (int64_t i = r; i < r + lanes; ++i) {
      const bool counts = i < rows_ && w_.highest[i] > -infinity;
      w_.inverse[i] = counts ? 1.0f / w_.inverse[i] : 0.0f;
    }
  }

  const AttnBlockMassParams& p_;
  const Workspace& w_;
  int64_t first_, rows_, padded_, out_;
  SparsedParts parts_;
  const T *q_, *k_;
};

template <class T>
void masses(const AttnBlockMassParams& p) {
  const int64_t tiles = (p.length + mass_rows - 1) / mass_rows;
  parallel_for(mass_items(p), 1, [&](int64_t begin, int64_t end) {
    const Workspace workspace(p);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t lane = i / tiles;
      Item<T>(p, workspace, lane / p.heads, lane % p.heads, i % tiles * mass_rows).run();
    }
  });
}

}  // namespace

void attn_block_mass(const AttnBlockMassParams& p) {
  switch (p.dtype) {
    case DType::f32:
      return masses<float>(p);
    case DType::f16:
      return masses<Half>(p);
    case DType::bf16:
      return masses<BFloat>(p);
  }
}

}  // namespace tokenburst::TB_ISA
