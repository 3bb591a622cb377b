// The result of a query is a pure function of its row and of its visible keys in path order, bit
// for bit: a key's packed index is its position on that path, scores are sums over d in order, the
// online softmax advances in tiles of 64 packed keys, values are added in packed order; keys before
// a window keep their index and are left out. Where memory order is path order (prefix, chains,
// full blocks) tiles serve strips of six queries at once; the last keys of a tree node are gathered
// and go through the same arithmetic.
#include "attention/attn_tree.h"
#include "common/parallel.h"
#include "common/simd.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t tile = 64;       // packed keys per step of the online softmax
constexpr int strip = 6;           // queries per pass over a tile: 6 x 2 sums fill the registers
constexpr int64_t item_rows = 96;  // queries that share one packing of the keys

template <int n>
struct Rows {
  static constexpr int count = n;
  // Vectors per row, so that enough independent sums hide the latency of a fused multiply-add.
  static constexpr int vectors = n == 1 ? 8 : n <= 3 ? 4 : 2;
};

template <class F>
inline void with_rows(int64_t n, F f) {
  switch (n) {
    case 1:
      return f(Rows<1>{});
    case 2:
      return f(Rows<2>{});
    case 3:
      return f(Rows<3>{});
    case 4:
      return f(Rows<4>{});
    case 5:
      return f(Rows<5>{});
    default:
      return f(Rows<6>{});
  }
}

// Keys or values of one sequence and head. Eight rows from a multiple of eight on lie in one page.
template <class T>
struct Cache {
  const T* data;
  int64_t stride, page_stride;
  const int32_t* table;  // null: one page holds all rows
  int64_t page_size, pages;

  Cache(const AttnTreeParams& p, const void* cache, const int64_t (&strides)[3], int64_t b,
        int64_t kv_head)
      : data(static_cast<const T*>(cache) + (p.page_table ? 0 : b * strides[0]) +
             kv_head * strides[1]),
        stride(strides[2]),
        page_stride(strides[0]),
        table(p.page_table ? p.page_table + b * p.table_width : nullptr),
        page_size(p.page_size),
        pages(p.pages) {}

  // Null for a page that is gone, as those may be that a window has left behind.
  const T* row(int64_t r) const {
    if (table == nullptr) return data + r * stride;
    const int64_t page = table[r / page_size];
    if (page < 0 || page >= pages) return nullptr;
    return data + page * page_stride + r % page_size * stride;
  }
  bool one_page(int64_t start, int64_t count) const {
    return table == nullptr || start / page_size == (start + count - 1) / page_size;
  }
};

// packed[d][key] of the rows from `start` on, zero from key `count` on, so that eight scores grow
// in one register.
template <class T>
void pack_keys(const Cache<T>& cache, int64_t start, int64_t count, int64_t dim, float* packed) {
  for (int64_t key = 0; key < tile; key += 8) {
    const T* keys = key < count ? cache.row(start + key) : nullptr;
    for (int64_t d = 0; d < dim; d += 8) {
      F32x8 block[8];
      for (int i = 0; i < 8; ++i) {
        block[i] =
            keys && key + i < count ? F32x8::load(keys + i * cache.stride + d) : F32x8::splat(0.0f);
      }
      transpose(block);
      for (int i = 0; i < 8; ++i) block[i].store(packed + (d + i) * tile + key);
    }
  }
}

template <class T>
void pack_values(const Cache<T>& cache, int64_t start, int64_t count, int64_t dim, float* packed) {
  for (int64_t key = 0; key < count; ++key) {
    const T* values = cache.row(start + key);
    for (int64_t d = 0; values && d < dim; d += 8) {
      F32x8::load(values + d).store(packed + key * dim + d);
    }
  }
}

// s[row][key] of the first `keys` keys of a packed tile, rounded up to whole registers.
template <class R>
void scores(R, const float* q, const float* packed, int64_t keys, int64_t dim, float* s,
            int64_t s_stride) {
  constexpr int rows = R::count, vectors = R::vectors;
  for (int64_t key = 0; key < keys; key += 8 * vectors) {
    F32x8 sum[rows][vectors];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v] = F32x8::splat(0.0f);
    }
    for (int64_t d = 0; d < dim; ++d) {
      F32x8 k[vectors];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) k[v] = F32x8::load(packed + d * tile + key + 8 * v);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const F32x8 x = F32x8::splat(q[r * dim + d]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[r][v] = fused(x, k[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v].store(s + r * s_stride + key + 8 * v);
    }
  }
}

// One row, one tile: scores become weights relative to the new maximum; returns the factor for what
// was gathered before. Scores outside [from, to) are not looked at. A NaN score has weight 0.
inline float advance(float* s, int64_t from, int64_t to, float* maximum, float* sum) {
  const int64_t first = from / 8 * 8, padded = (to + 7) / 8 * 8;
  for (int64_t j = first; j < from; ++j) s[j] = -infinity;
  for (int64_t j = to; j < padded; ++j) s[j] = -infinity;
  F32x8 top = F32x8::splat(*maximum);
  for (int64_t j = first; j < padded; j += 8) top = max(F32x8::load(s + j), top);
  const float higher = reduce_max(top);
  const F32x8 base = F32x8::splat(higher);
  F32x8 total = F32x8::splat(0.0f);
  for (int64_t j = first; j < padded; j += 8) {
    const F32x8 weight = exp_fast(F32x8::load(s + j) - base);
    weight.store(s + j);
    total = total + weight;
  }
  const float factor = tokenburst::exp_fast(*maximum - higher);
  *sum = tokenburst::fused(*sum, factor, reduce_add(total));
  *maximum = higher;
  return factor;
}

// o[row][d] = factor[row] * o[row][d] + sum over keys, in order, of weight[row][key] *
// value(key)[d].
template <int rows, int vectors, class ValueOf>
void add_values(const float* weight, const float* factor, int64_t keys, ValueOf value_of,
                int64_t dim, int64_t d, float* o) {
  for (; d + 8 * vectors <= dim; d += 8 * vectors) {
    F32x8 sum[rows][vectors];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const F32x8 x = F32x8::splat(factor[r]);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v] = F32x8::load(o + r * dim + d + 8 * v) * x;
    }
    for (int64_t j = 0; j < keys; ++j) {
      const auto* value = value_of(j) + d;
      F32x8 y[vectors];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) y[v] = F32x8::load(value + 8 * v);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const F32x8 x = F32x8::splat(weight[r * tile + j]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[r][v] = fused(x, y[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v].store(o + r * dim + d + 8 * v);
    }
  }
  if constexpr (vectors > 1) {
    if (d < dim) {
      add_values<rows, vectors / 2>(weight, factor, keys, value_of, dim, d, o);
    }
  }
}

inline int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

// Memory of one thread, carved out of its scratch.
struct Workspace {
  float *q, *o, *maximum, *sum;  // of the item's rows
  float *keys, *values;          // one tile, or all tail tiles of keys for a tree
  float *s, *weight;             // [strip][score_stride], [tile]
  int64_t *begin, *end;          // positions that a query sees in memory order
  int64_t* place;                // of the values of each tail row, in elements
  int32_t* visible;              // tail rows that a node sees, in path order
  int64_t score_stride;

  Workspace(const AttnTreeParams& p, int64_t rows) {
    const int64_t tail = p.ancestors ? (tile - 1 + p.nodes + tile - 1) / tile : 1;
    score_stride = tail * tile;
    const int64_t floats = 2 * rows * p.dim + 2 * rows + tail * tile * p.dim + tile * p.dim +
                           strip * score_stride + score_stride;
    const int64_t wide = 2 * rows + score_stride;
    auto* memory = static_cast<float*>(
        scratch(floats * sizeof(float) + wide * sizeof(int64_t) + score_stride * sizeof(int32_t)));
    const auto take = [&](int64_t n) {
      float* from = memory;
      memory += n;
      return from;
    };
    keys = take(tail * tile * p.dim);
    values = take(tile * p.dim);
    s = take(strip * score_stride);
    weight = take(score_stride);
    q = take(rows * p.dim);
    o = take(rows * p.dim);
    maximum = take(rows);
    sum = take(rows);
    begin = reinterpret_cast<int64_t*>(memory);
    end = begin + rows;
    place = end + rows;
    visible = reinterpret_cast<int32_t*>(place + score_stride);
  }
};

// Query rows [first, first + rows) of one (sequence, KV head); row r is node r / group of head
// r % group, so that neighbours see nearly the same keys.
template <class T>
class Item {
 public:
  Item(const AttnTreeParams& p, const Workspace& w, int64_t b, int64_t kv_head, int64_t first,
       int64_t rows)
      : p_(p),
        w_(w),
        b_(b),
        kv_head_(kv_head),
        first_(first),
        group_(p.heads / p.kv_heads),
        k_(p, p.k, p.k_stride, b, kv_head),
        v_(p, p.v, p.v_stride, b, kv_head) {
    prefix_ = p.kv_len[b];
    nodes_ = p.n_nodes.present() ? p.n_nodes[b] : p.nodes;
    rows_ = clamp(nodes_ * group_ - first, 0, rows);  // padding nodes are the last rows
  }

  void run(int64_t rows) {
    load_queries();
    attend_in_memory_order();
    if (p_.ancestors) attend_tails();
    for (int64_t r = 0; r < rows; ++r) write(r);
  }

 private:
  int64_t node(int64_t r) const { return (first_ + r) / group_; }
  int64_t head(int64_t r) const { return kv_head_ * group_ + (first_ + r) % group_; }

  void load_queries() {
    const F32x8 scale = F32x8::splat(p_.scale);
    for (int64_t r = 0; r < rows_; ++r) {
      const T* q = static_cast<const T*>(p_.q) + b_ * p_.q_stride[0] + head(r) * p_.q_stride[1] +
                   node(r) * p_.q_stride[2];
      for (int64_t d = 0; d < p_.dim; d += 8) {
        (F32x8::load(q + d) * scale).store(w_.q + r * p_.dim + d);
        F32x8::splat(0.0f).store(w_.o + r * p_.dim + d);
      }
      w_.maximum[r] = -infinity;
      w_.sum[r] = 0.0f;
      w_.begin[r] = first_position(node(r));
      w_.end[r] = p_.ancestors ? prefix_ / tile * tile
                  : p_.causal  ? prefix_ + node(r) + 1
                               : prefix_ + nodes_;
      if (p_.window && !p_.ancestors && !p_.causal) {
        w_.end[r] = clamp(prefix_ + node(r) + p_.window + 1, 0, w_.end[r]);
      }
    }
  }

  int64_t first_position(int64_t i) const {
    if (p_.window == 0) return 0;
    int64_t position = prefix_ + i;
    if (p_.ancestors) {
      position = prefix_ - (word(i, i / 32) >> i % 32 & 1);
      for (int64_t w = 0; w < p_.words; ++w) position += __builtin_popcount(word(i, w));
    }
    return clamp(position - attn_tree_reach(p_), 0, position);
  }

  void attend_in_memory_order() {
    const Span all = span(0, rows_, 0);
    const int64_t end = all.last;
    for (int64_t start = all.first / tile * tile; start < end; start += tile) {
      const int64_t keys = clamp(end - start, 0, tile);
      pack_keys(k_, start, keys, p_.dim, w_.keys);
      if (sizeof(T) == sizeof(float) && v_.one_page(start, keys)) {
        attend_tile(start, reinterpret_cast<const float*>(v_.row(start)), v_.stride);
      } else {
        pack_values(v_, start, keys, p_.dim, w_.values);
        attend_tile(start, w_.values, p_.dim);
      }
    }
  }

  void attend_tile(int64_t start, const float* values, int64_t stride) {
    for (int64_t r = 0; r < rows_; r += strip) {
      const int64_t count = clamp(rows_ - r, 0, strip);
      const Span seen = span(r, count, start);
      const int64_t most = clamp(seen.last, 0, tile);
      if (most > clamp(seen.first, 0, tile)) {
        with_rows(count, [&](auto n) {
          attend_strip(n, r, start, clamp(seen.all_from, 0, tile), clamp(seen.all_to, 0, tile),
                       most, values, stride);
        });
      }
    }
  }

  // Of some rows, relative to `start`: where the first begins and the last ends, and what all see.
  struct Span {
    int64_t first, all_from, all_to, last;
  };
  Span span(int64_t r, int64_t count, int64_t start) const {
    if (count == 0) return {0, 0, 0, 0};
    const int64_t *begin = w_.begin + r, *end = w_.end + r;
    Span s{begin[0], begin[0], end[0], end[0]};
    for (int64_t i = 1; i < count; ++i) {
      s.first = begin[i] < s.first ? begin[i] : s.first;
      s.all_from = begin[i] > s.all_from ? begin[i] : s.all_from;
      s.all_to = end[i] < s.all_to ? end[i] : s.all_to;
      s.last = end[i] > s.last ? end[i] : s.last;
    }
    return {s.first - start, s.all_from - start, s.all_to - start, s.last - start};
  }

  template <class R>
  void attend_strip(R n, int64_t r, int64_t start, int64_t all_from, int64_t all_to, int64_t most,
                    const float* values, int64_t stride) {
    const int64_t dim = p_.dim;
    float* o = w_.o + r * dim;
    float factor[R::count];
    int64_t from[R::count], to[R::count];
    scores(n, w_.q + r * dim, w_.keys, most, dim, w_.s, tile);
    for (int i = 0; i < R::count; ++i) {
      from[i] = clamp(w_.begin[r + i] - start, 0, tile);
      to[i] = clamp(w_.end[r + i] - start, from[i], tile);
      factor[i] = advance(w_.s + i * tile, from[i], to[i], w_.maximum + r + i, w_.sum + r + i);
    }
    const auto add_diagonal = [&](int i, int64_t begin, int64_t end) {
      if (begin >= end) return;
      const float* first = values + begin * stride;
      add_values<1, 8>(
          w_.s + i * tile + begin, factor + i, end - begin,
          [=](int64_t j) { return first + j * stride; }, dim, 0, o + i * dim);
      factor[i] = 1.0f;
    };
    if (all_to < all_from) all_to = all_from;
    for (int i = 0; i < R::count; ++i) {  // what only some rows of the strip see, before and after
      add_diagonal(i, from[i], all_from < to[i] ? all_from : to[i]);
    }
    const float* common = values + all_from * stride;
    add_values<R::count, R::vectors>(
        w_.s + all_from, factor, all_to - all_from, [=](int64_t j) { return common + j * stride; },
        dim, 0, o);
    for (int i = 0; i < R::count; ++i) {
      factor[i] = 1.0f;
      add_diagonal(i, from[i] > all_to ? from[i] : all_to, to[i]);
    }
  }

  // What follows the full tiles of the prefix: the prefix's last rows and the visible nodes.
  void attend_tails() {
    const int64_t dim = p_.dim, start = prefix_ / tile * tile, rest = prefix_ - start;
    const int64_t keys = rows_ > 0 ? rest + nodes_ : 0;
    for (int64_t t = 0; t < keys; t += tile) {
      pack_keys(k_, start + t, clamp(keys - t, 0, tile), dim, w_.keys + t * dim);
    }
    for (int64_t t = 0; t < keys; ++t) {
      const T* values = v_.row(start + t);
      w_.place[t] = values ? values - v_.data : 0;
    }
    int64_t listed = -1, count = 0;
    for (int64_t r = 0; r < rows_; r += strip) {
      const int64_t strip_rows = clamp(rows_ - r, 0, strip);
      int64_t reach = rest;
      for (int64_t i = node(r); i <= node(r + strip_rows - 1); ++i) {
        const int64_t above = rest + highest(i) + 1;
        reach = above > reach ? above : reach;
      }
      for (int64_t t = 0; t < reach; t += tile) {
        with_rows(strip_rows, [&](auto n) {
          scores(n, w_.q + r * dim, w_.keys + t * dim, clamp(reach - t, 0, tile), dim, w_.s + t,
                 w_.score_stride);
        });
      }
      for (int64_t i = 0; i < strip_rows; ++i) {
        if (node(r + i) != listed) {
          listed = node(r + i);
          count = list_visible(listed, rest);
        }
        attend_tail(r + i, start, w_.s + i * w_.score_stride, count);
      }
    }
  }

  void attend_tail(int64_t r, int64_t start, const float* s, int64_t count) {
    float* weight = w_.weight;
    const T* values = v_.data;
    const int64_t* place = w_.place;
    for (int64_t t = 0; t < count; t += tile) {
      const int64_t keys = clamp(count - t, 0, tile);
      const int64_t from = clamp(w_.begin[r] - start - t, 0, keys);
      if (from == keys) continue;
      const int32_t* visible = w_.visible + t;
      for (int64_t j = from; j < keys; ++j) weight[j] = s[visible[j]];
      const float factor = advance(weight, from, keys, w_.maximum + r, w_.sum + r);
      visible += from;
      add_values<1, 8>(
          weight + from, &factor, keys - from,
          [=](int64_t j) { return values + place[visible[j]]; }, p_.dim, 0, w_.o + r * p_.dim);
    }
  }

  uint32_t word(int64_t i, int64_t w) const {  // without bits of padding nodes
    const uint32_t bits = static_cast<uint32_t>(p_.ancestors[(b_ * p_.nodes + i) * p_.words + w]);
    const int64_t valid = nodes_ - 32 * w;
    return valid >= 32 ? bits : valid <= 0 ? 0u : bits & ((1u << valid) - 1u);
  }

  int64_t highest(int64_t i) const {  // visible node, -1 = none
    for (int64_t w = p_.words - 1; w >= 0; --w) {
      const uint32_t bits = word(i, w);
      if (bits) return 32 * w + 31 - __builtin_clz(bits);
    }
    return -1;
  }

  int64_t list_visible(int64_t i, int64_t rest) {
    int64_t count = 0;
    for (; count < rest; ++count) w_.visible[count] = static_cast<int32_t>(count);
    for (int64_t w = 0; w < p_.words; ++w) {
      for (uint32_t bits = word(i, w); bits; bits &= bits - 1) {
        w_.visible[count++] = static_cast<int32_t>(rest + 32 * w + __builtin_ctz(bits));
      }
    }
    return count;
  }

  void write(int64_t r) {
    const bool sees = r < rows_ && w_.sum[r] > 0.0f;
    const float inverse = sees ? 1.0f / w_.sum[r] : 0.0f;
    T* out = static_cast<T*>(p_.out) + ((b_ * p_.nodes + node(r)) * p_.heads + head(r)) * p_.dim;
    for (int64_t d = 0; d < p_.dim; ++d)
      narrow(sees ? w_.o[r * p_.dim + d] * inverse : 0.0f, out + d);
    p_.lse[(b_ * p_.heads + head(r)) * p_.nodes + node(r)] =
        sees ? w_.maximum[r] + tokenburst::log_fast(w_.sum[r]) : -infinity;
  }

  const AttnTreeParams& p_;
  const Workspace& w_;
  int64_t b_, kv_head_, first_, group_, prefix_, nodes_, rows_;
  Cache<T> k_, v_;
};

template <class T>
void attend(const AttnTreeParams& p) {
  const int64_t total = p.nodes * (p.heads / p.kv_heads), lanes = p.batch * p.kv_heads;
  int64_t longest = 0;
  for (int64_t b = 0; b < p.batch; ++b) {
    longest = p.kv_len[b] + p.nodes > longest ? p.kv_len[b] + p.nodes : longest;
  }
  if (p.window) longest = clamp(longest, 0, p.window + p.nodes);
  int64_t rows = total < item_rows ? total : item_rows;
  const int64_t work = rows * longest * p.dim;  // multiply-adds of scores, as many of values
  // A few rows are worth splitting for the threads only when they are many microseconds of work.
  while (rows > 24 && work > (1 << 18) && lanes * ((total + rows - 1) / rows) < 8) {
    rows = (rows / 2 + strip - 1) / strip * strip;
  }
  const int64_t tiles = (total + rows - 1) / rows;
  const int64_t grain = (1 << 18) / (rows * longest * p.dim + 1) + 1;
  parallel_for(lanes * tiles, grain, [&](int64_t begin, int64_t end) {
    const Workspace workspace(p, rows);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t lane = i / tiles, t = i % tiles;
      // Short and long rows of a chain in turn, so that contiguous ranges are equal work.
      const int64_t first = (t % 2 ? tiles - 1 - t / 2 : t / 2) * rows;
      const int64_t count = clamp(total - first, 0, rows);
      Item<T>(p, workspace, lane / p.kv_heads, lane % p.kv_heads, first, count).run(count);
    }
  });
}

}  // namespace

void attn_tree(const AttnTreeParams& p) {
  switch (p.dtype) {
    case DType::f32:
      return attend<float>(p);
    case DType::f16:
      return attend<Half>(p);
    case DType::bf16:
      return attend<BFloat>(p);
  }
}

}  // namespace tokenburst::TB_ISA
