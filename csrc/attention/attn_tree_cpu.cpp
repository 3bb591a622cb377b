// The result of a query is a pure function of its row and of its visible keys in path order, bit
// for bit: a key's packed index is its position on that path, scores are sums over d in order, the
// online softmax advances in tiles of 64 packed keys, values are added in packed order; keys before
// a window keep their index and are left out. Where memory order is path order (prefix, chains,
// full blocks) tiles serve strips of six queries at once; the last keys of a tree node are gathered
// and go through the same arithmetic.
#include "attention/attn_tree_tile_cpu.h"
#include "common/parallel.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t item_rows = 96;  // queries that share one packing of the keys
constexpr int64_t few_rows = 24;   // so few that memory counts
constexpr int64_t chunk = 32;      // keys that they pack at once

// Their strips: sums, what is widened for them and a weight fit the registers.
template <int n>
struct FewRows {
  static constexpr int count = n;
  static constexpr int vectors = n <= 2 ? 4 : 2;
};

// Memory of one thread, carved out of its scratch.
struct Workspace {
  float *q, *o, *maximum, *sum;  // of the item's rows
  float *keys, *values;          // one tile, or all tail tiles of keys for a tree
  float *s, *weight;             // [few_rows][score_stride], [tile]
  int64_t *begin, *end;          // positions that a query sees in memory order
  int64_t* place;                // of the values of each tail row, in elements
  int32_t* visible;              // tail rows that a node sees, in path order
  int64_t score_stride;

  Workspace(const AttnTreeParams& p, int64_t rows) {
    const int64_t tail = p.ancestors ? (tile - 1 + p.nodes + tile - 1) / tile : 1;
    score_stride = tail * tile;
    const int64_t floats = 2 * rows * p.dim + 2 * rows + tail * tile * p.dim + tile * p.dim +
                           few_rows * score_stride + score_stride;
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
    s = take(few_rows * score_stride);
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
    rows_ <= few_rows ? attend_few() : attend_in_memory_order();
    if (p_.ancestors) attend_tails();
    for (int64_t r = 0; r < rows; ++r) write(r);
  }

 private:
  int64_t node(int64_t r) const { return (first_ + r) / group_; }
  int64_t head(int64_t r) const { return kv_head_ * group_ + (first_ + r) % group_; }

  void load_queries() {
    for (int64_t r = 0; r < rows_; ++r) {
      const T* q = static_cast<const T*>(p_.q) + b_ * p_.q_stride[0] + head(r) * p_.q_stride[1] +
                   node(r) * p_.q_stride[2];
      load_scaled(q, p_.dim, p_.scale, w_.q + r * p_.dim);
      for (int64_t d = 0; d < p_.dim; d += 8) F32x8::splat(0.0f).store(w_.o + r * p_.dim + d);
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
    const auto value_of = [=](int64_t j, int64_t d) { return values + j * stride + d; };
    for (int64_t r = 0; r < rows_; r += strip) {
      const int64_t count = clamp(rows_ - r, 0, strip);
      const Span seen = span(r, count, start);
      const int64_t most = clamp(seen.last, 0, tile);
      if (most > clamp(seen.first, 0, tile)) {
        with_rows(count, [&](auto n) {
          scores(n, w_.q + r * p_.dim, w_.keys, most, p_.dim, w_.s, tile);
          add_tile(n, r, start, seen, w_.s, value_of);
        });
      }
    }
  }

  // Few queries leave memory as the limit. Keys are packed by chunks that stay in the nearest
  // cache, values widened where they are used, and each half of a tile asks for the other's memory.
  void attend_few() {
    const int64_t dim = p_.dim, parts = (rows_ + strip - 1) / strip;
    const int64_t part = parts > 0 ? (rows_ + parts - 1) / parts : 1;
    const Span all = span(0, rows_, 0);
    for (int64_t start = all.first / tile * tile; start < all.last; start += tile) {
      const int64_t keys = clamp(all.last - start, 0, tile);
      for (int64_t key = 0; key < keys; key += chunk) {
        const int64_t count = clamp(keys - key, 0, chunk);
        pack_chunk(start + key, count);
        for (int64_t r = 0; r < rows_; r += part) {
          with_rows(clamp(rows_ - r, 0, part), [&](auto n) {
            scores<chunk>(FewRows<n.count>{}, w_.q + r * dim, w_.keys, count, dim,
                          w_.s + r * tile + key, tile);
          });
        }
      }
      for (int64_t j = 0; j < keys; j += 8) {
        const T* values = v_.row(start + j);
        const int64_t first = values ? values - v_.data : 0;
        for (int64_t i = 0; i < 8; ++i) w_.place[j + i] = first + i * v_.stride;
      }
      const int64_t following = start + tile;
      const bool near = following < all.last && k_.one_page(following, tile);
      const T* next = near ? k_.row(following) : nullptr;
      for (int64_t r = 0; r < rows_; r += part) {
        with_rows(clamp(rows_ - r, 0, part), [&](auto n) {
          using Few = FewRows<n.count>;
          constexpr int64_t step = 8 * Few::vectors, line = 64 / sizeof(T);
          const T *values = v_.data, *ahead = r == 0 ? next : nullptr;
          const int64_t *place = w_.place, stride = k_.stride;
          add_tile(Few{}, r, start, span(r, n.count, start), w_.s + r * tile,
                   [=](int64_t j, int64_t d) {
                     if (ahead && (step >= line || d % line == 0)) {
                       const T* row = ahead + j * stride + d;
                       for (int64_t l = 0; l < step; l += line) __builtin_prefetch(row + l, 0, 2);
                     }
                     return values + place[j] + d;
                   });
        });
      }
    }
  }

  // The keys of a chunk; their values are asked for meanwhile.
  void pack_chunk(int64_t start, int64_t count) {
    for (int64_t key = 0; key < count; key += 8) {
      const T *keys = k_.row(start + key), *values = v_.row(start + key);
      const int64_t rows = clamp(count - key, 0, 8);
      pack_eight(keys, k_.stride, keys ? rows : 0, p_.dim, w_.keys + key, chunk);
      if (values) fetch(values, v_.stride, rows, p_.dim);
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

  // A strip's scores of one tile become weights and add values: value_of(j, d) is key start + j's.
  template <class R, class ValueOf>
  void add_tile(R, int64_t r, int64_t start, const Span& seen, float* s, ValueOf value_of) {
    const int64_t dim = p_.dim;
    float* o = w_.o + r * dim;
    float factor[R::count];
    int64_t from[R::count], to[R::count];
    for (int i = 0; i < R::count; ++i) {
      from[i] = clamp(w_.begin[r + i] - start, 0, tile);
      to[i] = clamp(w_.end[r + i] - start, from[i], tile);
    }
    advance<R::count>(
        s, tile, [&](int i) { return Range{from[i], to[i]}; }, w_.maximum + r, w_.sum + r, factor);
    const auto add_diagonal = [&](int i, int64_t begin, int64_t end) {
      if (begin >= end) return;
      add_values<1, 4>(
          s + i * tile + begin, factor + i, end - begin,
          [=](int64_t j, int64_t d) { return value_of(begin + j, d); }, dim, 0, o + i * dim);
      factor[i] = 1.0f;
    };
    const int64_t all_from = clamp(seen.all_from, 0, tile);
    const int64_t all_to = clamp(seen.all_to, all_from, tile);
    for (int i = 0; i < R::count; ++i) {  // what only some rows of the strip see, before and after
      add_diagonal(i, from[i], all_from < to[i] ? all_from : to[i]);
    }
    add_values<R::count, R::vectors>(
        s + all_from, factor, all_to - all_from,
        [=](int64_t j, int64_t d) { return value_of(all_from + j, d); }, dim, 0, o);
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
      float factor;
      advance<1>(
          weight, tile, [&](int) { return Range{from, keys}; }, w_.maximum + r, w_.sum + r,
          &factor);
      visible += from;
      add_values<1, 4>(
          weight + from, &factor, keys - from,
          [=](int64_t j, int64_t d) { return values + place[visible[j]] + d; }, p_.dim, 0,
          w_.o + r * p_.dim);
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
    T* out = static_cast<T*>(p_.out) + ((b_ * p_.nodes + node(r)) * p_.heads + head(r)) * p_.dim;
    p_.lse[(b_ * p_.heads + head(r)) * p_.nodes + node(r)] =
        finish(w_.o + r * p_.dim, p_.dim, r < rows_ ? w_.maximum[r] : 0.0f,
               r < rows_ ? w_.sum[r] : 0.0f, out);
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
