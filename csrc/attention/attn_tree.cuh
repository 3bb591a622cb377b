#pragma once
// What the kernels of attn_tree share: where a block works and which rows of the cache a node sees.
#include "attention/attention.cuh"
#include "attention/attn_tree.h"

namespace tokenburst {
namespace {

constexpr int kv_tile = 64;

// Where one block works, from its index; every length is clamped to the cache. Rows fit in 32 bits:
// the front door sees to that.
struct Place {
  int b, kv_head, split, row_tile;
  int prefix, count;  // committed rows, real nodes
};

__device__ Place place_of(const AttnTreeParams& p, int row_tiles) {
  Place at;
  int rest = blockIdx.x;
  const int splits = static_cast<int>(p.splits), kv_heads = static_cast<int>(p.kv_heads);
  at.row_tile = rest % row_tiles, rest /= row_tiles;
  at.split = rest % splits, rest /= splits;
  at.kv_head = rest % kv_heads, at.b = rest / kv_heads;
  const int64_t prefix = p.kv_len[at.b];
  at.prefix = static_cast<int>(prefix < 0 ? 0 : prefix > p.capacity ? p.capacity : prefix);
  const int64_t count = p.n_nodes.present() ? p.n_nodes[at.b] : p.nodes;
  at.count = static_cast<int>(count < 0 ? 0 : count > p.nodes ? p.nodes : count);
  const int room = static_cast<int>(p.capacity) - at.prefix;
  if (at.count > room) at.count = room;
  return at;
}

// The n lowest bits.
__device__ unsigned long long low_bits(int n) {
  return n <= 0 ? 0 : n >= 64 ? ~0ull : (1ull << n) - 1;
}

// The rows [from, to) of the cache that a node may see; of the nodes among them only those of its
// mask.
struct Sight {
  int from, to;
};

__device__ uint32_t mask_word(const AttnTreeParams& p, const Place& at, int node, int word) {
  const uint32_t bits =
      static_cast<uint32_t>(p.ancestors[(at.b * p.nodes + node) * p.words + word]);
  return bits & static_cast<uint32_t>(low_bits(at.count - 32 * word));
}

__device__ Sight sight_of(const AttnTreeParams& p, const Place& at, int node) {
  if (node >= at.count) return {0, 0};
  const bool tree = p.ancestors != nullptr;
  const int end = at.prefix + at.count;
  Sight sight{0, !tree && p.causal ? at.prefix + node + 1 : end};
  if (p.window == 0) return sight;
  const int reach = static_cast<int>(attn_tree_reach(p)), words = static_cast<int>(p.words);
  int depth = node;
  if (tree) {
    depth = -static_cast<int>(mask_word(p, at, node, node / 32) >> node % 32 & 1);
    for (int w = 0; w < words; ++w) depth += __popc(mask_word(p, at, node, w));
  } else if (!p.causal && at.prefix + node + reach < end) {
    sight.to = at.prefix + node + reach + 1;
  }
  int before = depth - reach;  // nodes that the window leaves behind
  if (!tree || before <= 0) {
    sight.from = at.prefix + before > 0 ? at.prefix + before : 0;
    return sight;
  }
  for (int w = 0; w < words; ++w) {
    uint32_t bits = mask_word(p, at, node, w);
    if (before >= __popc(bits)) {
      before -= __popc(bits);
      continue;
    }
    for (; before > 0; --before) bits &= bits - 1;
    sight.from = at.prefix + 32 * w + __ffs(static_cast<int>(bits)) - 1;
    return sight;
  }
  return {end, end};
}

// Keys or values of one sequence and head. Sixteen rows from a multiple of 16 on lie in one page.
template <class T>
struct Cache {
  const T* data;
  int64_t stride, page_stride;
  const int32_t* table;  // null: one page holds all rows
  int page_size, pages;

  __device__ Cache(const AttnTreeParams& p, const void* cache, const int64_t (&strides)[3],
                   const Place& at)
      : data(static_cast<const T*>(cache) + (p.page_table ? 0 : at.b * strides[0]) +
             at.kv_head * strides[1]),
        stride(strides[2]),
        page_stride(strides[0]),
        table(p.page_table ? p.page_table + at.b * p.table_width : nullptr),
        page_size(static_cast<int>(p.page_size)),
        pages(static_cast<int>(p.pages)) {}

  __device__ const T* row(int r) const {  // null in a page that does not exist
    if (table == nullptr) return data + r * stride;
    const int page = table[r / page_size];
    if (page < 0 || page >= pages) return nullptr;
    return data + page * page_stride + r % page_size * stride;
  }

  // Bit i = row start + i exists, for the rows before `end`; the others may be said to.
  __device__ unsigned long long existing(int start, int end) const {
    unsigned long long bits = ~0ull;
    for (int i = 0; table != nullptr && i < kv_tile && start + i < end; i += 16) {
      if (row(start + i) == nullptr) bits &= ~(0xffffull << i);
    }
    return bits;
  }
};

// Bit i = node sees cache row start + i.
__device__ unsigned long long visible_rows(const AttnTreeParams& p, const Place& at, int node,
                                           const Sight& sight, int start) {
  const unsigned long long seen = low_bits(sight.to - start) & ~low_bits(sight.from - start);
  if (seen == 0 || p.ancestors == nullptr || start + kv_tile <= at.prefix) return seen;
  const int first = start > at.prefix ? start - at.prefix : 0;  // node of the lowest bit
  const int words = static_cast<int>(p.words);
  unsigned long long bits = 0;
  for (int i = 0; i < 3; ++i) {
    const int word = first / 32 + i, shift = 32 * i - first % 32;
    if (word >= words || shift >= 64) break;
    const unsigned long long value = mask_word(p, at, node, word);
    bits |= shift >= 0 ? value << shift : value >> -shift;
  }
  const int before = at.prefix - start;  // rows of the prefix in this tile
  if (before > 0) bits = bits << before | low_bits(before);
  return bits & seen;
}

// The first tile from row `from` on that falls to this split: tiles are dealt out in turn.
__device__ int first_tile(const AttnTreeParams& p, const Place& at, int from) {
  const int splits = static_cast<int>(p.splits), tile = from / kv_tile;
  return (tile + (at.split - tile % splits + splits) % splits) * kv_tile;
}

__device__ int64_t partial_index(const AttnTreeParams& p, int b, int head, int node, int split) {
  return ((b * p.heads + head) * p.nodes + node) * p.splits + split;
}

}  // namespace
}  // namespace tokenburst
