#include "attention/attn_sparse.h"

#include <cmath>

#include "common/check.h"
#include "common/parallel.h"

namespace tokenburst {
namespace {

void strides_of(const Tensor& t, int64_t (&strides)[3]) {
  for (int i = 0; i < 3; ++i) strides[i] = t.stride(i);
}

// [batch or 1, heads or 1, q_blocks, words] for these lengths.
void check_pattern(const Check& check, const Tensor& bits, const AttnSparseParams& p) {
  check.int32(bits, "bits", {any, any, any, any});
  const int64_t batch = bits.size(0), heads = bits.size(1);
  const bool fits = (batch == p.batch || batch == 1) && (heads == p.heads || heads == 1) &&
                    bits.size(2) == p.q_blocks && bits.size(3) == p.words;
  if (fits) return;
  std::ostringstream want;
  want << "[" << p.batch << " or 1, " << p.heads << " or 1, " << p.q_blocks << ", " << p.words
       << "] for " << p.q_length << " queries and " << p.kv_length << " keys in blocks of "
       << p.block;
  check.refuse("bits", want.str(), shape_of(bits));
}

}  // namespace

std::tuple<Tensor, Tensor> attn_sparse(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const Tensor& bits, int64_t block,
                                       const OptionalTensor& kv_len, std::optional<double> scale) {
  const Check check("attn_sparse", q, "q");
  check.floating(q, "q", {any, any, any, any});
  const int64_t batch = q.size(0), heads = q.size(1), q_length = q.size(2), dim = q.size(3);
  check.floating(k, "k", {batch, any, any, dim});
  const int64_t kv_heads = k.size(1), kv_length = k.size(2);
  check.floating(v, "v", {batch, kv_heads, kv_length, dim});
  check.same_dtype(k, "k", q, "q");
  check.same_dtype(v, "v", q, "q");
  check.last_dim_contiguous(q, "q");
  check.last_dim_contiguous(k, "k");
  check.last_dim_contiguous(v, "v");
  check.optional(&Check::integer, kv_len, "kv_len", {batch});
  check.that(dim > 0 && dim % 8 == 0 && dim <= 256, "q", "a head dim of 8, 16, 24, ... 256", dim);
  check.that(kv_heads > 0 && heads % kv_heads == 0, "q",
             "a multiple of the " + std::to_string(kv_heads) + " heads of k", heads);
  check.that(block == 32 || block == 64 || block == 128, "block", "32, 64 or 128", block);
  check.that(q_length < (int64_t{1} << 30), "q", "less than 2^30 queries", q_length);
  check.that(kv_length < (int64_t{1} << 30), "k", "less than 2^30 keys", kv_length);

  AttnSparseParams params{};
  params.batch = batch, params.heads = heads, params.kv_heads = kv_heads;
  params.q_length = q_length, params.kv_length = kv_length, params.dim = dim;
  params.block = block;
  params.q_blocks = (q_length + block - 1) / block;
  params.kv_blocks = (kv_length + block - 1) / block;
  params.words = (params.kv_blocks + 31) / 32;
  check_pattern(check, bits, params);
  const Tensor bits_ = packed(bits);
  const OptionalTensor kv_len_ = packed(kv_len);
  if (check.on_cpu() && kv_len_) {
    const Ints lengths = ints(kv_len_);
    for (int64_t b = 0; b < batch; ++b) {
      check.that(
          0 <= lengths[b] && lengths[b] <= kv_length, "kv_len",
          [&] {
            return "0 <= kv_len <= " + std::to_string(kv_length) + " in sequence " +
                   std::to_string(b);
          },
          lengths[b]);
    }
  }

  const Tensor out = empty_like_device(q, {batch, q_length, heads, dim}, q.scalar_type());
  const Tensor lse = empty_like_device(q, {batch, heads, q_length}, ScalarType::Float);
  params.dtype = dtype_of(q);
  params.scale = static_cast<float>(scale ? *scale : 1.0 / std::sqrt(static_cast<double>(dim)));
  params.q = q.const_data_ptr(), params.k = k.const_data_ptr(), params.v = v.const_data_ptr();
  strides_of(q, params.q_stride);
  strides_of(k, params.k_stride);
  strides_of(v, params.v_stride);
  params.bits = bits_.const_data_ptr<int32_t>();
  params.bits_stride[1] = bits.size(1) == 1 ? 0 : params.q_blocks * params.words;
  params.bits_stride[0] = bits.size(0) == 1 ? 0 : bits.size(1) * params.q_blocks * params.words;
  params.kv_len = ints(kv_len_);
  params.out = out.mutable_data_ptr();
  params.lse = lse.mutable_data_ptr<float>();

  OptionalTensor workspace;
  if (check.on_cpu()) {
    const int64_t floats = attn_sparse_lane_floats(params.kv_blocks, block, dim);
    params.lanes = attn_sparse_lanes(batch * kv_heads, floats * 4,
                                     params.q_blocks * (heads / kv_heads), thread_count());
    workspace =
        empty_like_device(q, {params.lanes * (floats + params.kv_blocks)}, ScalarType::Float);
    params.packed = workspace->mutable_data_ptr<float>();
    params.state = reinterpret_cast<int32_t*>(params.packed + params.lanes * floats);
  }
  if (batch * heads * q_length > 0) TB_LAUNCH(attn_sparse, params, check.device());
  return {torch::stable::transpose(out, 1, 2), lse};
}

}  // namespace tokenburst

TB_REGISTER(attn_sparse)
