#include "tree/tree_commit_kv_.h"

#include <vector>

#include "common/check.h"

namespace tokenburst {
namespace {

void check_page(const Check& check, const TreeCommitKvParams& p, int64_t b, int64_t row) {
  const int64_t place = row / p.page_size, page = p.page_table[b * p.table_width + place];
  check.that(
      0 <= page && page < p.pages, "page_table",
      [&] {
        return "0 <= page < " + std::to_string(p.pages) + " at place " + std::to_string(place) +
               " in sequence " + std::to_string(b);
      },
      page);
}

// What makes the move safe in place: rows only move down, and never over one that is still to move.
void check_path(const Check& check, const TreeCommitKvParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t count = p.n_accepted[b], length = p.kv_len[b];
    const auto expected = [b](const char* rule, int64_t number) {
      return [=] { return rule + std::to_string(number) + " in sequence " + std::to_string(b); };
    };
    check.that(0 <= count && count <= p.path_length, "n_accepted",
               expected("0 <= n_accepted <= ", p.path_length), count);
    if (count == 0) continue;
    check.that(0 <= length && length <= p.capacity, "kv_len",
               expected("0 <= kv_len <= ", p.capacity), length);
    for (int64_t j = 0; j < count; ++j) {
      const int64_t node = p.path[b * p.path_length + j];
      check.that(node > (j == 0 ? -1 : p.path[b * p.path_length + j - 1]), "path",
                 expected("ascending nodes from 0 on at place ", j), node);
      if (node >= p.capacity - length) {
        check.refuse("path", expected("kv_len + path < ", p.capacity)(),
                     std::to_string(length) + " + " + std::to_string(node));
      }
      if (p.page_table) {
        check_page(check, p, b, length + j);
        check_page(check, p, b, length + node);
      }
    }
  }
}

}  // namespace

void tree_commit_kv_(const std::vector<Tensor>& k_caches, const std::vector<Tensor>& v_caches,
                     const Tensor& kv_len, const Tensor& path, const Tensor& n_accepted,
                     const OptionalTensor& page_table) {
  const Check check("tree_commit_kv_", kv_len, "kv_len");
  check.that(v_caches.size() == k_caches.size(), "v_caches",
             "as many layers as k_caches (" + std::to_string(k_caches.size()) + ")",
             v_caches.size());
  check.integer(kv_len, "kv_len", {any});
  const int64_t batch = kv_len.size(0);
  check.integer(path, "path", {batch, any});
  check.integer(n_accepted, "n_accepted", {batch});
  check.optional(&Check::int32, page_table, "page_table", {batch, any});

  std::vector<KvCache> caches;
  int64_t pages = page_table ? any : batch, page_size = any;
  for (size_t i = 0; i < 2 * k_caches.size(); ++i) {
    const std::string name =
        (i % 2 ? "v_caches[" : "k_caches[") + std::to_string(i / 2) + std::string("]");
    const Tensor& cache = (i % 2 ? v_caches : k_caches)[i / 2];
    check.floating(cache, name.c_str(), {pages, any, page_size, any});
    check.last_dim_contiguous(cache, name.c_str());
    check.not_expanded(cache, name.c_str());
    pages = cache.size(0), page_size = cache.size(2);
    const int64_t bytes = cache.element_size();
    caches.push_back({.data = cache.mutable_data_ptr(),
                      .batch_stride = cache.stride(0) * bytes,
                      .head_stride = cache.stride(1) * bytes,
                      .row_stride = cache.stride(2) * bytes,
                      .heads = static_cast<int32_t>(cache.size(1)),
                      .row_bytes = static_cast<int32_t>(cache.size(3) * bytes)});
  }
  if (caches.empty()) return;
  const int64_t table_width = page_table ? page_table->size(1) : 1;

  const Tensor kv_len_ = packed(kv_len), path_ = packed(path), n_accepted_ = packed(n_accepted);
  const OptionalTensor page_table_ = packed(page_table);
  TreeCommitKvParams params{
      .batch = batch,
      .capacity = table_width * page_size,
      .path_length = path.size(1),
      .kv_len = ints(kv_len_),
      .path = ints(path_),
      .n_accepted = ints(n_accepted_),
      .page_table = page_table_ ? page_table_->const_data_ptr<int32_t>() : nullptr,
      .table_width = table_width,
      .page_size = page_size,
      .pages = pages,
      .num_caches = 0,
      .caches = {},
  };
  if (check.on_cpu()) check_path(check, params);
  if (batch == 0 || params.path_length == 0) return;

  for (size_t first = 0; first < caches.size(); first += max_kv_caches) {
    const size_t left = caches.size() - first;
    params.num_caches = left < max_kv_caches ? left : max_kv_caches;
    for (int64_t c = 0; c < params.num_caches; ++c) params.caches[c] = caches[first + c];
    TB_LAUNCH(tree_commit_kv_, params, check.device());
  }
}

}  // namespace tokenburst

TB_REGISTER(tree_commit_kv_)
