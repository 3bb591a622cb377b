// Threads take query blocks from a common counter. Whoever first needs a block of keys and values
// packs it, into panels of 16 floats, for all query blocks of the KV head. The online softmax
// advances by up to 128 keys at a time, which are one block or several small ones, in ascending
// order: a row's result depends on its query, its pattern and what that selects, and on nothing
// else.
#include "attention/attention_cpu.h"
#include "attention/attn_sparse.h"
#include "common/parallel.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t panel = 16;   // keys, or dims of values, side by side: two registers
constexpr int64_t step = 128;   // keys per advance of the online softmax
constexpr int64_t ahead = 512;  // floats: packed memory is asked for 2 KB before it is used
constexpr int at_once = 2;      // strips that use a panel while both are in the first cache

// Seven and eight rows are two strips of about four, so that no strip is much too thin.
inline int64_t strip_of(int64_t rows) { return rows == 7 || rows == 8 ? 4 : least(rows, strip); }

// [count / 16][dim][16] of keys, zero from key `count` on.
template <class T>
void pack_keys(const T* keys, int64_t stride, int64_t count, int64_t dim, float* packed) {
  for (int64_t key = 0; key < up(count, panel); key += 8) {
    pack_eight(keys + key * stride, stride, count - key, dim,
               packed + key / panel * panel * dim + key % panel, panel);
  }
}

// [dim / 16][block][16] of values, zero from `dim` on; rows from `count` on are never read.
template <class T>
void pack_values(const T* values, int64_t stride, int64_t count, int64_t dim, int64_t block,
                 float* packed) {
  for (int64_t d = 0; d < dim; d += panel) {
    float* to = packed + d * block;
    const bool whole = d + 8 < dim;
    for (int64_t key = 0; key < count; ++key) {
      const T* from = values + key * stride + d;
      F32x8::load(from).store(to + key * panel);
      (whole ? F32x8::load(from + 8) : F32x8::splat(0.0f)).store(to + key * panel + 8);
    }
  }
}

// s[row][0..16) = <q[row], key> of one panel of keys.
template <int rows>
void scores(const float* q, int64_t dim, const float* keys, float* s) {
  F32x8 sum[rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) sum[r][0] = sum[r][1] = F32x8::splat(0.0f);
  for (int64_t d = 0; d < dim; ++d) {
    const F32x8 k0 = F32x8::load(keys + d * panel), k1 = F32x8::load(keys + d * panel + 8);
    __builtin_prefetch(keys + d * panel + ahead);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const F32x8 x = F32x8::splat(q[r * dim + d]);
      sum[r][0] = fused(x, k0, sum[r][0]);
      sum[r][1] = fused(x, k1, sum[r][1]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    sum[r][0].store(s + r * step);
    sum[r][1].store(s + r * step + 8);
  }
}

// The selected blocks of one advance; all but the last have `block` keys.
struct Selected {
  const float* data[step / 32];  // packed keys, then values
  int64_t blocks, keys;          // keys in all
};

// o[row][0..16) = factor[row] * o[row] + sum over keys of weight[row][key] * value[key], one panel.
template <int rows>
void add_values(const float* weight, const float* factor, const Selected& selected, int64_t block,
                int64_t offset, float* o, int64_t o_stride) {
  F32x8 sum[rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    const F32x8 x = F32x8::splat(factor[r]);
    sum[r][0] = F32x8::load(o + r * o_stride) * x;
    sum[r][1] = F32x8::load(o + r * o_stride + 8) * x;
  }
  int64_t left = selected.keys;
  for (int64_t g = 0; g < selected.blocks; ++g, left -= block, weight += block) {
    const float* values = selected.data[g] + offset;
    const int64_t keys = least(left, block);
    for (int64_t j = 0; j < keys; ++j) {
      const F32x8 v0 = F32x8::load(values + j * panel), v1 = F32x8::load(values + j * panel + 8);
      __builtin_prefetch(values + j * panel + ahead);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const F32x8 x = F32x8::splat(weight[r * step + j]);
        sum[r][0] = fused(x, v0, sum[r][0]);
        sum[r][1] = fused(x, v1, sum[r][1]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    sum[r][0].store(o + r * o_stride);
    sum[r][1].store(o + r * o_stride + 8);
  }
}

inline int64_t length_of(const AttnSparseParams& p, int64_t b) {
  return p.kv_len.present() ? p.kv_len[b] : p.kv_length;
}

// Word w of a row of the pattern without the blocks that lie past the keys.
inline uint32_t valid_word(const int32_t* bits, int64_t w, int64_t blocks) {
  const int64_t valid = blocks - 32 * w;
  const uint32_t word = static_cast<uint32_t>(bits[w]);
  return valid >= 32 ? word : valid <= 0 ? 0u : word & ((1u << valid) - 1u);
}

enum State : int32_t { untouched, taken, ready };

// Packed memory of one (sequence, KV head).
struct Lane {
  const AttnSparseParams& p;
  int64_t b, kv_head, keys, blocks;
  float* packed;
  int32_t* state;  // of each block

  Lane(const AttnSparseParams& params, int64_t index, int64_t slot) : p(params) {
    b = index / p.kv_heads, kv_head = index % p.kv_heads;
    keys = length_of(p, b);
    blocks = (keys + p.block - 1) / p.block;
    packed = p.packed + slot * attn_sparse_lane_floats(p.kv_blocks, p.block, p.dim);
    state = p.state + slot * p.kv_blocks;
  }

  int64_t group() const { return p.heads / p.kv_heads; }
  const int32_t* pattern(int64_t head, int64_t q_block) const {
    return p.bits + b * p.bits_stride[0] + head * p.bits_stride[1] + q_block * p.words;
  }
  int64_t keys_of(int64_t j) const { return least(keys - j * p.block, p.block); }

  // The first thread that comes packs block j, the others wait: it takes microseconds.
  template <class T>
  const float* block_data(int64_t j) const {
    float* data = packed + j * p.block * (p.dim + up(p.dim, panel));
    int32_t seen = __atomic_load_n(state + j, __ATOMIC_ACQUIRE);
    if (seen == ready) return data;
    if (seen == untouched && __atomic_compare_exchange_n(state + j, &seen, int32_t{taken}, false,
                                                         __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {
      pack<T>(j, data);
      __atomic_store_n(state + j, int32_t{ready}, __ATOMIC_RELEASE);
    }
    while (__atomic_load_n(state + j, __ATOMIC_ACQUIRE) != ready) give_way();
    return data;
  }

  template <class T>
  void pack(int64_t j, float* data) const {
    const int64_t first = j * p.block, count = keys_of(j);
    const T* k = static_cast<const T*>(p.k) + b * p.k_stride[0] + kv_head * p.k_stride[1];
    const T* v = static_cast<const T*>(p.v) + b * p.v_stride[0] + kv_head * p.v_stride[1];
    pack_keys(k + first * p.k_stride[2], p.k_stride[2], count, p.dim, data);
    pack_values(v + first * p.v_stride[2], p.v_stride[2], count, p.dim, p.block,
                data + p.block * p.dim);
  }
};

// Memory of one thread.
struct Workspace {
  float *q, *o, *s;      // [block][dim], [block][dim up to 16], [at_once * strip][step]
  float *maximum, *sum;  // [block]
  int32_t* blocks;       // selected ones of the query block
  explicit Workspace(const AttnSparseParams& p) {
    const int64_t wide = up(p.dim, panel);
    const int64_t s_size = at_once * strip * step;
    const int64_t floats = p.block * (p.dim + wide + 2) + s_size;
    q = static_cast<float*>(scratch(floats * sizeof(float) + p.kv_blocks * sizeof(int32_t)));
    o = q + p.block * p.dim;
    s = o + p.block * wide;
    maximum = s + s_size;
    sum = maximum + p.block;
    blocks = reinterpret_cast<int32_t*>(sum + p.block);
  }
};

// Query block i of one head.
template <class T>
class Item {
 public:
  Item(const Lane& lane, const Workspace& w, int64_t head, int64_t i)
      : p_(lane.p), lane_(lane), w_(w), head_(head), first_(i * p_.block) {
    rows_ = least(p_.q_length - first_, p_.block);
    wide_ = up(p_.dim, panel);
    list_blocks(lane.pattern(head, i));
  }

  void run() {
    load_queries();
    const int64_t per_step = step / p_.block;
    for (int64_t c = 0; c < count_; c += per_step) {
      Selected selected;
      selected.blocks = least(count_ - c, per_step);
      for (int64_t g = 0; g < selected.blocks; ++g) {
        selected.data[g] = lane_.block_data<T>(w_.blocks[c + g]);
      }
      selected.keys =
          (selected.blocks - 1) * p_.block + lane_.keys_of(w_.blocks[c + selected.blocks - 1]);
      attend(selected);
    }
    for (int64_t r = 0; r < rows_; ++r) write(r);
  }

 private:
  void list_blocks(const int32_t* bits) {
    count_ = 0;
    for (int64_t w = 0; w < p_.words; ++w) {
      for (uint32_t word = valid_word(bits, w, lane_.blocks); word; word &= word - 1) {
        w_.blocks[count_++] = static_cast<int32_t>(32 * w + __builtin_ctz(word));
      }
    }
  }

  void load_queries() {
    const F32x8 zero = F32x8::splat(0.0f);
    const T* q = static_cast<const T*>(p_.q) + lane_.b * p_.q_stride[0] + head_ * p_.q_stride[1] +
                 first_ * p_.q_stride[2];
    for (int64_t r = 0; r < rows_; ++r) {
      load_scaled(q + r * p_.q_stride[2], p_.dim, p_.scale, w_.q + r * p_.dim);
      for (int64_t d = 0; d < wide_; d += 8) zero.store(w_.o + r * wide_ + d);
      w_.maximum[r] = -infinity;
      w_.sum[r] = 0.0f;
    }
  }

  void attend(const Selected& selected) {
    int64_t start[at_once], size[at_once];
    for (int64_t r = 0; r < rows_;) {
      const int64_t begin = r;
      int strips = 0;
      for (; strips < at_once && r < rows_; ++strips) {
        start[strips] = r;
        size[strips] = strip_of(rows_ - r);
        r += size[strips];
      }
      attend_strips(selected, begin, strips, start, size);
    }
  }

  void attend_strips(const Selected& selected, int64_t begin, int strips, const int64_t* start,
                     const int64_t* size) {
    const int64_t block = p_.block, dim = p_.dim;
    for (int64_t key = 0; key < selected.keys; key += panel) {
      const float* keys = selected.data[key / block] + key % block * dim;
      for (int i = 0; i < strips; ++i) {
        with_rows(size[i], [&](auto n) {
          scores<n.count>(w_.q + start[i] * dim, dim, keys, w_.s + (start[i] - begin) * step + key);
        });
      }
    }
    float factor[at_once * strip];
    const auto all = [&](int64_t) { return Range{0, selected.keys}; };
    for (int i = 0; i < strips; ++i) {
      with_rows(size[i], [&](auto n) {
        const int64_t r = start[i];
        advance<n.count>(w_.s + (r - begin) * step, step, all, w_.maximum + r, w_.sum + r,
                         factor + r - begin);
      });
    }
    for (int64_t d = 0; d < dim; d += panel) {
      const int64_t offset = block * dim + d * block;
      for (int i = 0; i < strips; ++i) {
        with_rows(size[i], [&](auto n) {
          add_values<n.count>(w_.s + (start[i] - begin) * step, factor + start[i] - begin, selected,
                              block, offset, w_.o + start[i] * wide_ + d, wide_);
        });
      }
    }
  }

  void write(int64_t r) {
    const int64_t row = first_ + r;
    T* out = static_cast<T*>(p_.out) + ((lane_.b * p_.q_length + row) * p_.heads + head_) * p_.dim;
    p_.lse[(lane_.b * p_.heads + head_) * p_.q_length + row] =
        finish(w_.o + r * wide_, p_.dim, w_.maximum[r], w_.sum[r], out);
  }

  const AttnSparseParams& p_;
  const Lane& lane_;
  const Workspace& w_;
  int64_t head_, first_, rows_, wide_, count_;
};

template <class T>
void attend_all(const AttnSparseParams& p) {
  const int64_t lanes = p.batch * p.kv_heads, group = p.heads / p.kv_heads;
  const int64_t pair = p.block * p.block * p.dim;  // multiply-adds of scores, as many of values
  const int64_t grain = (1 << 18) / (pair * (p.kv_blocks + 1) / 2) + 1;
  for (int64_t from = 0; from < lanes; from += p.lanes) {
    const int64_t count = least(lanes - from, p.lanes), items = group * p.q_blocks;
    for (int64_t i = 0; i < count * p.kv_blocks; ++i) p.state[i] = untouched;
    int64_t next = 0;
    parallel_for(count * items, grain,
                 [&](int64_t, int64_t) {  // ranges of unequal work: take turns
                   const Workspace workspace(p);
                   for (;;) {
                     const int64_t n = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
                     if (n >= count * items) break;
                     const Lane lane(p, from + n / items, n / items);
                     const int64_t head = lane.kv_head * group + n % items / p.q_blocks;
                     Item<T>(lane, workspace, head, n % p.q_blocks).run();
                   }
                 });
  }
}

}  // namespace

void attn_sparse(const AttnSparseParams& p) {
  switch (p.dtype) {
    case DType::f32:
      return attend_all<float>(p);
    case DType::f16:
      return attend_all<Half>(p);
    case DType::bf16:
      return attend_all<BFloat>(p);
  }
}

}  // namespace tokenburst::TB_ISA
