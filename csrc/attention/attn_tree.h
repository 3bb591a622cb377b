#pragma once
// Attention of the N newest tokens over a key/value cache: a prefix that all of them see, then each
// other by an ancestor bitmask, as a chain, or fully.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

struct AttnTreeParams {
  int64_t batch, heads, kv_heads, nodes, capacity, dim, words;
  DType dtype;
  bool causal;     // without ancestors: node i sees nodes j <= i, otherwise all of them
  int64_t window;  // a query at position p sees keys at positions > p - window; 0 = all
  float scale;
  const void* q;  // [batch, heads, nodes, dim]
  const void* k;  // [batch, kv_heads, capacity, dim], node j of sequence b in row kv_len[b] + j
  const void* v;  // the same; with a page table both are [pages, kv_heads, page_size, dim]
  int64_t q_stride[3], k_stride[3], v_stride[3];  // in elements; the last dimension is contiguous
  Ints kv_len;                                    // [batch]
  Ints n_nodes;                                   // [batch], may be absent: nodes
  const int32_t* ancestors;  // [batch, nodes, words], bit j = node j is visible; may be null
  const int32_t*
      page_table;  // [batch, table_width], row r is in page [b, r / page_size]; may be null
  int64_t table_width, page_size, pages;
  void* out;   // [batch, nodes, heads, dim]
  float* lse;  // [batch, heads, nodes]

  // CUDA: split s takes the tiles of 64 cache rows s, s + splits, ... and leaves a partial result,
  // unless there is one split only.
  int64_t splits;
  float* partial_out;    // [batch, heads, nodes, splits, dim], unnormalised
  float* partial_stats;  // [batch, heads, nodes, splits, 2]: maximum (base 2 logit), sum
};

// Query rows (nodes x heads of a group) that one block of the tensor-core kernel takes.
inline int64_t attn_tree_row_tile(int64_t query_rows) {
  return query_rows <= 16 ? 16 : query_rows <= 32 ? 32 : 64;
}

// How far a query looks to either side of its position when there is a window: a window counts the
// query itself where it looks back only.
TB_HD int64_t attn_tree_reach(const AttnTreeParams& p) {
  return p.causal || p.ancestors ? p.window - 1 : p.window;
}

// Enough splits, at most 32, to fill a GPU with one sequence of eight KV heads; `keys` is the most
// that a query may see. Never a function of the batch or of lengths, so the same row gives the same
// bits in any company.
inline int64_t attn_tree_splits(int64_t keys, int64_t query_rows) {
  const int64_t tile = attn_tree_row_tile(query_rows);
  const int64_t row_tiles = (query_rows + tile - 1) / tile;
  const int64_t most = row_tiles > 0 ? 32 / row_tiles : 1, useful = keys / 128;
  const int64_t splits = most < useful ? most : useful;
  return splits < 1 ? 1 : splits;
}

}  // namespace tokenburst

TB_KERNEL(attn_tree, tokenburst::AttnTreeParams);
