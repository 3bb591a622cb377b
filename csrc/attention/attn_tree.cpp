#include "attention/attn_tree.h"

#include <cmath>

#include "common/check.h"

namespace tokenburst {
namespace {

void strides_of(const Tensor& t, int64_t (&strides)[3]) {
  for (int i = 0; i < 3; ++i) strides[i] = t.stride(i);
}

void check_lengths(const Check& check, const Ints& kv_len, const Ints& n_nodes, int64_t batch,
                   int64_t nodes, int64_t capacity) {
  for (int64_t b = 0; b < batch; ++b) {
    const auto in_sequence = [b] { return " in sequence " + std::to_string(b); };
    const int64_t count = n_nodes.present() ? n_nodes[b] : nodes;
    check.that(
        0 <= count && count <= nodes, "n_nodes",
        [&] { return "0 <= n_nodes <= " + std::to_string(nodes) + in_sequence(); }, count);
    check.that(kv_len[b] >= 0, "kv_len", [&] { return "0 <= kv_len" + in_sequence(); }, kv_len[b]);
    check.that(
        kv_len[b] <= capacity - count, "kv_len",
        [&] {
          return "at most " + std::to_string(capacity - count) + in_sequence() + " (" +
                 std::to_string(count) + " nodes in a cache of " + std::to_string(capacity) +
                 " rows: tree larger than the cache)";
        },
        kv_len[b]);
  }
}

// The pages that hold rows which somebody may see; those a window has left behind may be gone.
void check_pages(const Check& check, const AttnTreeParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t count = p.n_nodes.present() ? p.n_nodes[b] : p.nodes;
    const int64_t first = p.window ? p.kv_len[b] - attn_tree_reach(p) : 0;
    for (int64_t i = first > 0 ? first / p.page_size : 0;
         count > 0 && i * p.page_size < p.kv_len[b] + count; ++i) {
      const int64_t page = p.page_table[b * p.table_width + i];
      check.that(
          0 <= page && page < p.pages, "page_table",
          [&] {
            return "0 <= page < " + std::to_string(p.pages) + " at place " + std::to_string(i) +
                   " in sequence " + std::to_string(b);
          },
          page);
    }
  }
}

}  // namespace

std::tuple<Tensor, Tensor> attn_tree(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                                     const Tensor& kv_len, const OptionalTensor& ancestors,
                                     const OptionalTensor& n_nodes,
                                     const OptionalTensor& page_table, bool causal,
                                     std::optional<int64_t> window, std::optional<double> scale) {
  const Check check("attn_tree", q, "q");
  check.floating(q, "q", {any, any, any, any});
  const int64_t batch = q.size(0), heads = q.size(1), nodes = q.size(2), dim = q.size(3);
  const int64_t words = (nodes + 31) / 32;
  check.floating(k_cache, "k_cache", {page_table ? any : batch, any, any, dim});
  const int64_t kv_heads = k_cache.size(1), page_size = k_cache.size(2);
  check.floating(v_cache, "v_cache", {k_cache.size(0), kv_heads, page_size, dim});
  check.same_dtype(k_cache, "k_cache", q, "q");
  check.same_dtype(v_cache, "v_cache", q, "q");
  check.last_dim_contiguous(q, "q");
  check.last_dim_contiguous(k_cache, "k_cache");
  check.last_dim_contiguous(v_cache, "v_cache");
  check.integer(kv_len, "kv_len", {batch});
  check.optional(&Check::int32, ancestors, "ancestors", {batch, nodes, words});
  check.optional(&Check::integer, n_nodes, "n_nodes", {batch});
  check.optional(&Check::int32, page_table, "page_table", {batch, any});
  check.that(dim > 0 && dim % 8 == 0 && dim <= 256, "q", "a head dim of 8, 16, 24, ... 256", dim);
  check.that(
      kv_heads > 0 && heads % kv_heads == 0, "q",
      [&] { return "a multiple of the " + std::to_string(kv_heads) + " heads of k_cache"; }, heads);

  const int64_t table_width = page_table ? page_table->size(1) : 1;
  if (page_table) {
    check.that(page_size > 0 && page_size % 16 == 0, "k_cache", "pages of 16, 32, 48, ... rows",
               page_size);
  }
  const int64_t capacity = table_width * page_size;
  check.that(capacity < (int64_t{1} << 30), "k_cache", "less than 2^30 rows", capacity);
  if (window) check.that(*window > 0, "window", "at least 1 key", *window);

  const Tensor kv_len_ = packed(kv_len);
  const OptionalTensor ancestors_ = packed(ancestors), n_nodes_ = packed(n_nodes);
  const OptionalTensor page_table_ = packed(page_table);
  if (check.on_cpu()) {
    check_lengths(check, ints(kv_len_), ints(n_nodes_), batch, nodes, capacity);
  }

  const Tensor out = empty_strided_like_device(  // heads side by side in memory
      q, {batch, heads, nodes, dim}, {nodes * heads * dim, dim, heads * dim, 1}, q.scalar_type());
  const Tensor lse = empty_like_device(q, {batch, heads, nodes}, ScalarType::Float);
  AttnTreeParams params{
      .batch = batch,
      .heads = heads,
      .kv_heads = kv_heads,
      .nodes = nodes,
      .capacity = capacity,
      .dim = dim,
      .words = words,
      .dtype = dtype_of(q),
      .causal = causal,
      .window = window && *window < capacity ? *window : 0,
      .scale = static_cast<float>(scale ? *scale : 1.0 / std::sqrt(static_cast<double>(dim))),
      .q = q.const_data_ptr(),
      .k = k_cache.const_data_ptr(),
      .v = v_cache.const_data_ptr(),
      .q_stride = {},
      .k_stride = {},
      .v_stride = {},
      .kv_len = ints(kv_len_),
      .n_nodes = ints(n_nodes_),
      .ancestors = ancestors_ ? ancestors_->const_data_ptr<int32_t>() : nullptr,
      .page_table = page_table_ ? page_table_->const_data_ptr<int32_t>() : nullptr,
      .table_width = table_width,
      .page_size = page_size,
      .pages = k_cache.size(0),
      .out = out.mutable_data_ptr(),
      .lse = lse.mutable_data_ptr<float>(),
      .splits = 1,
      .partial_out = nullptr,
      .partial_stats = nullptr,
  };
  strides_of(q, params.q_stride);
  strides_of(k_cache, params.k_stride);
  strides_of(v_cache, params.v_stride);

  if (check.on_cpu() && page_table) check_pages(check, params);
  OptionalTensor partial;
  if (!check.on_cpu()) {
    const int64_t near = params.window ? 2 * attn_tree_reach(params) + nodes : capacity;
    params.splits = attn_tree_splits(near < capacity ? near : capacity, nodes * (heads / kv_heads));
    if (params.splits > 1) {
      const int64_t parts = batch * heads * nodes * params.splits;
      partial = empty_like_device(q, {parts * (dim + 2)}, ScalarType::Float);
      params.partial_out = partial->mutable_data_ptr<float>();
      params.partial_stats = params.partial_out + parts * dim;
    }
  }
  if (batch * heads * nodes > 0) TB_LAUNCH(attn_tree, params, check.device());
  return {out, lse};
}

}  // namespace tokenburst

TB_REGISTER(attn_tree)
