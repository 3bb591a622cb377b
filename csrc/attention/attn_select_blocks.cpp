#include "attention/attn_select_blocks.h"

#include "attention/sparsed_check.h"

namespace tokenburst {

Tensor attn_select_blocks(const Tensor& prefix_mass, const Tensor& generation_mass, int64_t length,
                          int64_t block, double keep, const OptionalTensor& prompt_len,
                          const OptionalTensor& kv_len) {
  const Check check("attn_select_blocks", prefix_mass, "prefix_mass");
  check.that(0 <= length && length < (int64_t{1} << 30), "length", "0 <= length < 2^30", length);
  check_block(check, block);
  check.that(0.0 <= keep && keep <= 1.0, "keep", "a ratio from 0 to 1", keep);
  const int64_t blocks = (length + block - 1) / block, words = (blocks + 31) / 32;
  check.float32(prefix_mass, "prefix_mass", {any, any, blocks, blocks});
  const int64_t batch = prefix_mass.size(0), heads = prefix_mass.size(1);
  check.float32(generation_mass, "generation_mass", {batch, heads, blocks, blocks});
  check.optional(&Check::integer, prompt_len, "prompt_len", {batch});
  check.optional(&Check::integer, kv_len, "kv_len", {batch});

  const Tensor prefix = packed(prefix_mass), generation = packed(generation_mass);
  const OptionalTensor prompt_len_ = packed(prompt_len), kv_len_ = packed(kv_len);
  check_parts(check, ints(kv_len_), ints(prompt_len_), batch, length);

  const Tensor bits = empty_like_device(prefix, {batch, heads, blocks, words}, ScalarType::Int);
  const AttnSelectBlocksParams params{
      .batch = batch,
      .heads = heads,
      .length = length,
      .block = block,
      .blocks = blocks,
      .words = words,
      .keep = keep,
      .prefix = prefix.const_data_ptr<float>(),
      .generation = generation.const_data_ptr<float>(),
      .kv_len = ints(kv_len_),
      .prompt_len = ints(prompt_len_),
      .bits = bits.mutable_data_ptr<int32_t>(),
  };
  if (batch * heads * blocks > 0) TB_LAUNCH(attn_select_blocks, params, check.device());
  return bits;
}

}  // namespace tokenburst

TB_REGISTER(attn_select_blocks)
