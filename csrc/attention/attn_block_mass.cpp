#include "attention/attn_block_mass.h"

#include <cmath>

#include "attention/sparsed_check.h"

namespace tokenburst {

std::tuple<Tensor, Tensor> attn_block_mass(const Tensor& q, const Tensor& k, int64_t block,
                                           const OptionalTensor& prompt_len,
                                           const OptionalTensor& kv_len,
                                           std::optional<double> scale) {
  const Check check("attn_block_mass", q, "q");
  check.floating(q, "q", {any, any, any, any});
  const int64_t batch = q.size(0), heads = q.size(1), length = q.size(2), dim = q.size(3);
  check.floating(k, "k", {batch, any, length, dim});
  const int64_t kv_heads = k.size(1);
  check.same_dtype(k, "k", q, "q");
  check.last_dim_contiguous(q, "q");
  check.last_dim_contiguous(k, "k");
  check.optional(&Check::integer, prompt_len, "prompt_len", {batch});
  check.optional(&Check::integer, kv_len, "kv_len", {batch});
  check.that(dim > 0 && dim % 8 == 0 && dim <= 256, "q", "a head dim of 8, 16, 24, ... 256", dim);
  check.that(kv_heads > 0 && heads % kv_heads == 0, "q",
             "a multiple of the " + std::to_string(kv_heads) + " heads of k", heads);
  check.that(length < (int64_t{1} << 30), "q", "less than 2^30 rows", length);
  check_block(check, block);

  const OptionalTensor prompt_len_ = packed(prompt_len), kv_len_ = packed(kv_len);
  check_parts(check, ints(kv_len_), ints(prompt_len_), batch, length);

  const int64_t blocks = (length + block - 1) / block;
  const Tensor prefix = empty_like_device(q, {batch, heads, blocks, blocks}, ScalarType::Float);
  const Tensor generation = empty_like_device(q, {batch, heads, blocks, blocks}, ScalarType::Float);
  AttnBlockMassParams params{
      .batch = batch,
      .heads = heads,
      .kv_heads = kv_heads,
      .length = length,
      .dim = dim,
      .block = block,
      .blocks = blocks,
      .dtype = dtype_of(q),
      .scale = static_cast<float>(scale ? *scale : 1.0 / std::sqrt(static_cast<double>(dim))),
      .q = q.const_data_ptr(),
      .k = k.const_data_ptr(),
      .q_stride = {q.stride(0), q.stride(1), q.stride(2)},
      .k_stride = {k.stride(0), k.stride(1), k.stride(2)},
      .kv_len = ints(kv_len_),
      .prompt_len = ints(prompt_len_),
      .prefix = prefix.mutable_data_ptr<float>(),
      .generation = generation.mutable_data_ptr<float>(),
      .slots = 0,
      .scratch = nullptr,
  };
  const int64_t items = mass_items(params);
  OptionalTensor scratch;
  if (!check.on_cpu()) {
    params.slots = mass_slots(items);
    scratch = empty_like_device(q, {params.slots * blocks * mass_rows}, ScalarType::Float);
    params.scratch = scratch->mutable_data_ptr<float>();
  }
  if (items > 0) TB_LAUNCH(attn_block_mass, params, check.device());
  return {prefix, generation};
}

}  // namespace tokenburst

TB_REGISTER(attn_block_mass)
