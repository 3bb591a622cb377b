#pragma once
// 16-bit tensors on tensor cores: the rows of a block are nodes x heads of a KV group, so a tile of
// keys is read once for the whole group; copies of the next tile run under the products.
#include "attention/attn_tree.cuh"

namespace tokenburst {
namespace {

// Fragments as the PTX manual lays out m16n8k16: a lane holds columns 2 * (lane % 4) + {0, 1} of
// rows lane / 4 and lane / 4 + 8. Shared rows are padded by 16 bytes: eight rows of any dim here
// start in eight different groups of four banks.
template <class T, int dim, int warps>
struct TensorCore {
  static constexpr int threads = 32 * warps;
  static constexpr int pitch = dim + 8;
  static constexpr int tile_size = kv_tile * pitch;  // of K or V, in elements
  static constexpr int shared_bytes = 4 * tile_size * static_cast<int>(sizeof(T));
  static constexpr int chunks = dim / 8;  // 16 bytes each
  static constexpr int copies = kv_tile * chunks / threads;
  static_assert(dim % 16 == 0, "the dot products advance by 16");
  static_assert(kv_tile * chunks % threads == 0, "every thread copies the same number of chunks");

  // Rows outside [from, end) are zero: their weight is 0, and 0 times what the cache holds may be
  // NaN.
  __device__ static void copy_tile(T* shared, const Cache<T>& cache, int start, int from, int end) {
#pragma unroll 2  // more would hold too many addresses in registers
    for (int i = 0; i < copies; ++i) {
      const int index = i * threads + threadIdx.x, row = index / chunks, d = index % chunks * 8;
      const bool fill = from <= start + row && start + row < end;
      const T* source = fill ? cache.row(start + row) : nullptr;
      cp_async16(shared + row * pitch + d, source ? source + d : cache.data, source != nullptr);
    }
  }
};

template <class T, int dim, int warps>
__global__ void __launch_bounds__(32 * warps, 2) tensor_core_kernel(AttnTreeParams p) {
  using Core = TensorCore<T, dim, warps>;
  constexpr int pitch = Core::pitch, steps = dim / 16, key_tiles = kv_tile / 8;
  TB_DYNAMIC_SHARED(T, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int group = static_cast<int>(p.heads / p.kv_heads);
  const int rows = static_cast<int>(p.nodes) * group;
  const Place at = place_of(p, (rows + 16 * warps - 1) / (16 * warps));
  const Cache<T> k(p, p.k, p.k_stride, at), v(p, p.v, p.v_stride, at);

  int row[2], node[2], head[2];
  for (int h = 0; h < 2; ++h) {
    row[h] = at.row_tile * 16 * warps + 16 * warp + lane / 4 + 8 * h;
    node[h] = row[h] / group, head[h] = at.kv_head * group + row[h] % group;
  }
  // The block sees rows of [from, end) only; all its nodes see all rows of [masked_until, prefix).
  const int first_node = at.row_tile * 16 * warps / group;
  int last_node = ((at.row_tile + 1) * 16 * warps - 1) / group;
  if (last_node >= at.count) last_node = at.count - 1;
  const bool tree = p.ancestors != nullptr;
  int from = 0, masked_until = 0, end = at.prefix + at.count;
  if (!tree && p.causal) end = at.prefix + last_node + 1;
  if (p.window) {
    const int reach = static_cast<int>(attn_tree_reach(p));
    from = at.prefix + (tree ? 0 : first_node) - reach;
    from = from > 0 ? from : 0;
    masked_until = at.prefix + (tree ? at.count - 1 : last_node) - reach;
    if (!tree && !p.causal && at.prefix + last_node + reach + 1 < end) {
      end = at.prefix + last_node + reach + 1;
    }
  }
  if (first_node >= at.count) end = 0;

  uint32_t query[steps][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // register i: rows + 8 * (i % 2), columns + 8 * (i / 2)
    const int h = i % 2;
    const T* q = static_cast<const T*>(p.q) + at.b * p.q_stride[0] + head[h] * p.q_stride[1] +
                 node[h] * p.q_stride[2] + 2 * (lane % 4) + 8 * (i / 2);
#pragma unroll
    for (int s = 0; s < steps; ++s) {
      query[s][i] = 0;
      if (node[h] < at.count) memcpy(&query[s][i], q + 16 * s, sizeof(uint32_t));
    }
  }

  const float scale = p.scale * log2_e;
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
  float o[dim / 8][4];
#pragma unroll
  for (int n = 0; n < dim / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) o[n][i] = 0.0f;
  }

  const int step = static_cast<int>(p.splits) * kv_tile;
  int start = first_tile(p, at, from);
  int stage = 0;
  const auto fetch = [&](int tile, int into) {
    T* keys = shared + into * 2 * Core::tile_size;
    Core::copy_tile(keys, k, tile, from, end);
    Core::copy_tile(keys + Core::tile_size, v, tile, from, end);
    cp_async_commit();
  };
  if (start < end) fetch(start, 0);
  for (; start < end; start += step, stage ^= 1) {
    if (start + step < end) {
      fetch(start + step, stage ^ 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    const T* keys = shared + stage * 2 * Core::tile_size;
    const T* values = keys + Core::tile_size;

    float score[key_tiles][4];
#pragma unroll
    for (int n = 0; n < key_tiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) score[n][i] = 0.0f;
    }
#pragma unroll
    for (int s = 0; s < steps; ++s) {
#pragma unroll
      for (int n = 0; n < key_tiles; n += 2) {
        uint32_t r[4];
        ldmatrix_x4(r,
                    keys + (8 * n + lane / 16 * 8 + lane % 8) * pitch + 16 * s + lane / 8 % 2 * 8);
        mma_m16n8k16(score[n], query[s], r[0], r[1], T{});
        mma_m16n8k16(score[n + 1], query[s], r[2], r[3], T{});
      }
    }
#pragma unroll
    for (int n = 0; n < key_tiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) score[n][i] *= scale;
    }
    // Only here do rows of the block differ in what they see.
    const unsigned long long existing = k.existing(start, end);
    if (start + kv_tile > at.prefix || start < masked_until || existing != ~0ull) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const Sight sight = sight_of(p, at, node[h]);
        const unsigned long long seen =
            (visible_rows(p, at, node[h], sight, start) & existing) >> (2 * (lane % 4));
#pragma unroll
        for (int n = 0; n < key_tiles; ++n) {
          if (!(seen >> (8 * n) & 1)) score[n][2 * h] = -INFINITY;
          if (!(seen >> (8 * n + 1) & 1)) score[n][2 * h + 1] = -INFINITY;
        }
      }
    }

    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float higher = maximum[h];
#pragma unroll
      for (int n = 0; n < key_tiles; ++n) {
        higher = fmaxf(higher, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
      }
      higher = fmaxf(higher, __shfl_xor_sync(full_warp, higher, 1));
      higher = fmaxf(higher, __shfl_xor_sync(full_warp, higher, 2));
      const float zero = higher == -INFINITY ? 0.0f : higher;
      factor[h] = exp2_approx(maximum[h] - zero);
      maximum[h] = higher;
      float added = 0.0f;
#pragma unroll
      for (int n = 0; n < key_tiles; ++n) {
        score[n][2 * h] = exp2_approx(score[n][2 * h] - zero);
        score[n][2 * h + 1] = exp2_approx(score[n][2 * h + 1] - zero);
        added += score[n][2 * h] + score[n][2 * h + 1];
      }
      sum[h] = fused(sum[h], factor[h], added);  // of this lane's columns
    }
#pragma unroll
    for (int n = 0; n < dim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) o[n][i] *= factor[i / 2];
    }
#pragma unroll
    for (int s = 0; s < kv_tile / 16; ++s) {
      const uint32_t weight[4] = {
          pair_of(score[2 * s][0], score[2 * s][1], T{}),
          pair_of(score[2 * s][2], score[2 * s][3], T{}),
          pair_of(score[2 * s + 1][0], score[2 * s + 1][1], T{}),
          pair_of(score[2 * s + 1][2], score[2 * s + 1][3], T{}),
      };
#pragma unroll
      for (int n = 0; n < dim / 8; n += 2) {
        uint32_t r[4];
        ldmatrix_x4_trans(r, values + (16 * s + lane % 16) * pitch + 8 * n + lane / 16 * 8);
        mma_m16n8k16(o[n], weight, r[0], r[1], T{});
        mma_m16n8k16(o[n + 1], weight, r[2], r[3], T{});
      }
    }
    __syncthreads();  // the stage is free for the tile after next
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(full_warp, sum[h], 1);
    sum[h] += __shfl_xor_sync(full_warp, sum[h], 2);
    if (row[h] >= rows) continue;
    if (node[h] >= at.count) sum[h] = 0.0f;  // padding: tiles without a mask did not leave it out
    if (p.splits > 1) {
      const int64_t part = partial_index(p, at.b, head[h], node[h], at.split);
      float* out = p.partial_out + part * dim + 2 * (lane % 4);
      if (lane % 4 == 0) {
        p.partial_stats[2 * part] = maximum[h];
        p.partial_stats[2 * part + 1] = sum[h];
      }
      if (sum[h] > 0.0f) {  // the merge does not look at others
#pragma unroll
        for (int n = 0; n < dim / 8; ++n) {
          *reinterpret_cast<float2*>(out + 8 * n) = make_float2(o[n][2 * h], o[n][2 * h + 1]);
        }
      }
    } else {
      const float inverse = sum[h] > 0.0f ? 1.0f / sum[h] : 0.0f;
      T* out = static_cast<T*>(p.out) + ((at.b * p.nodes + node[h]) * p.heads + head[h]) * dim +
               2 * (lane % 4);
#pragma unroll
      for (int n = 0; n < dim / 8; ++n) {
        const uint32_t bits = pair_of(o[n][2 * h] * inverse, o[n][2 * h + 1] * inverse, T{});
        memcpy(out + 8 * n, &bits, sizeof bits);
      }
      if (lane % 4 == 0) {
        p.lse[(at.b * p.heads + head[h]) * p.nodes + node[h]] = log_sum(maximum[h], sum[h]);
      }
    }
  }
}

}  // namespace
}  // namespace tokenburst
