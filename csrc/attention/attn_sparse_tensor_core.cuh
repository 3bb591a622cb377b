#pragma once
// Tensor-core kernel of attn_sparse: one block of threads per query block of a head, the next tile
// of keys and values on its way while one is in use.
#include "attention/attn_sparse.cuh"

namespace tokenburst {
namespace {

// Fragments as the PTX manual lays out m16n8k16: a lane holds columns 2 * (lane % 4) + {0, 1} of
// rows lane / 4 and lane / 4 + 8. A warp takes 32 queries where their sums fit its registers, so
// that a fragment of keys or values serves two products.
template <int dim>
struct Shape {
  static constexpr int m_tiles = dim <= 128 ? 2 : 1;
  static constexpr int warp_rows = 16 * m_tiles;
  static constexpr int most_rows = 4 * warp_rows;  // four warps at most
  static constexpr int tile_size = kv_tile * dim;  // of K or V, in elements
  static constexpr bool hold_queries = dim <= 80;  // in registers, as far as they go
  static int shared_bytes(int64_t rows) { return static_cast<int>(4 * tile_size + rows * dim) * 2; }
  static_assert(dim % 16 == 0, "the dot products advance by 16");
  static_assert(most_rows <= 4 * kv_tile, "the output is staged where the tiles were");
};

// Rows from `end` on are zero: their weight is 0, and 0 times what memory holds may be NaN.
template <class T, int dim>
__device__ void copy_tile(T* shared, const T* rows, int64_t stride, int start, int end) {
  using Layout = Swizzled<dim>;
  for (int index = threadIdx.x; index < kv_tile * Layout::chunks; index += blockDim.x) {
    const int row = index / Layout::chunks, chunk = index % Layout::chunks;
    const bool fill = start + row < end;
    const T* from = rows + (fill ? (start + row) * stride + chunk * 8 : 0);
    cp_async16(shared + Layout::at(row, chunk), from, fill);
  }
}

template <class T, int dim>
__global__ void __launch_bounds__(128, 2) tensor_core_kernel(AttnSparseParams p) {
  using S = Shape<dim>;
  using Layout = Swizzled<dim>;
  constexpr int m_tiles = S::m_tiles, steps = dim / 16, key_tiles = kv_tile / 8;
  TB_DYNAMIC_SHARED(T, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Place at = place_of(p, static_cast<int>(blockDim.x) / 32 * S::warp_rows);
  const T* k = static_cast<const T*>(p.k) + at.b * p.k_stride[0] + at.kv_head * p.k_stride[1];
  const T* v = static_cast<const T*>(p.v) + at.b * p.v_stride[0] + at.kv_head * p.v_stride[1];
  const int warp_first = at.first + warp * S::warp_rows;

  Tiles tiles(p, at);
  const auto fetch = [&](int start, int stage) {
    T* keys = shared + stage * 2 * S::tile_size;
    copy_tile<T, dim>(keys, k, p.k_stride[2], start, at.keys);
    copy_tile<T, dim>(keys + S::tile_size, v, p.v_stride[2], start, at.keys);
    cp_async_commit();
  };
  T* queries = shared + 4 * S::tile_size + warp * S::warp_rows * dim;
  const T* q = static_cast<const T*>(p.q) + at.b * p.q_stride[0] + at.head * p.q_stride[1];
  for (int index = lane; index < S::warp_rows * Layout::chunks; index += 32) {
    const int row = index / Layout::chunks, chunk = index % Layout::chunks;
    const bool fill = warp_first + row < at.end;
    const T* from = q + (fill ? (warp_first + row) * p.q_stride[2] + chunk * 8 : 0);
    cp_async16(queries + Layout::at(row, chunk), from, fill);
  }
  cp_async_commit();
  int start = tiles.next(p, at);
  if (start >= 0) fetch(start, 0);

  const int twist = Layout::twist(lane % 8);  // of every row that this lane names below
  uint32_t query[m_tiles][S::hold_queries ? steps : 1][4];
  const auto load_query = [&](uint32_t (&fragment)[4], int m, int s) {
    const int chunk = (2 * s + lane / 16) ^ twist;
    ldmatrix_x4(fragment, queries + (16 * m + lane % 16) * dim + chunk * 8);
  };
  if constexpr (S::hold_queries) {
    cp_async_wait<0>();
    __syncwarp();
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int s = 0; s < steps; ++s) load_query(query[m][s], m, s);
    }
  }

  const float scale = p.scale * log2_e;
  float maximum[m_tiles][2], sum[m_tiles][2], o[m_tiles][dim / 8][4];
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
    maximum[m][0] = maximum[m][1] = -INFINITY;
    sum[m][0] = sum[m][1] = 0.0f;
#pragma unroll
    for (int n = 0; n < dim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) o[m][n][i] = 0.0f;
    }
  }

  for (int stage = 0; start >= 0; stage ^= 1) {
    const int following = tiles.next(p, at);
    cp_async_wait<0>();
    __syncthreads();  // the tile is there, and nobody reads the other stage any more
    if (following >= 0) fetch(following, stage ^ 1);
    const T* keys = shared + stage * 2 * S::tile_size;
    const T* values = keys + S::tile_size;

    float score[m_tiles][key_tiles][4];
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int n = 0; n < key_tiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) score[m][n][i] = 0.0f;
      }
    }
#pragma unroll
    for (int s = 0; s < steps; ++s) {
      constexpr bool held = S::hold_queries;
#pragma unroll
      for (int m = 0; m < m_tiles && !held; ++m) load_query(query[m][0], m, s);
      const int chunk = (2 * s + lane / 8 % 2) ^ twist;
#pragma unroll
      for (int n = 0; n < key_tiles; n += 2) {
        uint32_t r[4];
        ldmatrix_x4(r, keys + (8 * n + lane / 16 * 8 + lane % 8) * dim + chunk * 8);
#pragma unroll
        for (int m = 0; m < m_tiles; ++m) {
          mma_m16n8k16(score[m][n], query[m][held ? s : 0], r[0], r[1], T{});
          mma_m16n8k16(score[m][n + 1], query[m][held ? s : 0], r[2], r[3], T{});
        }
      }
    }
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int n = 0; n < key_tiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) score[m][n][i] *= scale;
      }
    }
    if (start + kv_tile > at.keys) {  // the last tile of a sequence
#pragma unroll
      for (int n = 0; n < key_tiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool past = start + 8 * n + 2 * (lane % 4) + i % 2 >= at.keys;
#pragma unroll
          for (int m = 0; m < m_tiles; ++m) {
            if (past) score[m][n][i] = -INFINITY;
          }
        }
      }
    }

    float factor[m_tiles][2];
    bool same = true;
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float higher = maximum[m][h];
#pragma unroll
        for (int n = 0; n < key_tiles; ++n) {
          higher = fmaxf(higher, fmaxf(score[m][n][2 * h], score[m][n][2 * h + 1]));
        }
        higher = fmaxf(higher, __shfl_xor_sync(full_warp, higher, 1));
        higher = fmaxf(higher, __shfl_xor_sync(full_warp, higher, 2));
        const float zero = higher == -INFINITY ? 0.0f : higher;
        factor[m][h] = exp2_approx(maximum[m][h] - zero);
        same = same && maximum[m][h] == higher;
        maximum[m][h] = higher;
        float added = 0.0f;
#pragma unroll
        for (int n = 0; n < key_tiles; ++n) {
          score[m][n][2 * h] = exp2_approx(score[m][n][2 * h] - zero);
          score[m][n][2 * h + 1] = exp2_approx(score[m][n][2 * h + 1] - zero);
          added += score[m][n][2 * h] + score[m][n][2 * h + 1];
        }
        sum[m][h] = fused(sum[m][h], factor[m][h], added);  // of this lane's columns
      }
    }
    if (__any_sync(full_warp, !same)) {  // else every factor is 1, or nothing was gathered yet
#pragma unroll
      for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
        for (int n = 0; n < dim / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) o[m][n][i] *= factor[m][i / 2];
        }
      }
    }
#pragma unroll
    for (int s = 0; s < kv_tile / 16; ++s) {
      uint32_t weight[m_tiles][4];
#pragma unroll
      for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = score[m][2 * s + i / 2] + 2 * (i % 2);
          weight[m][i] = pair_of(pair[0], pair[1], T{});
        }
      }
#pragma unroll
      for (int n = 0; n < dim / 8; n += 2) {
        const int chunk = (n + lane / 16) ^ twist;
        uint32_t r[4];
        ldmatrix_x4_trans(r, values + (16 * s + lane % 16) * dim + chunk * 8);
#pragma unroll
        for (int m = 0; m < m_tiles; ++m) {
          mma_m16n8k16(o[m][n], weight[m], r[0], r[1], T{});
          mma_m16n8k16(o[m][n + 1], weight[m], r[2], r[3], T{});
        }
      }
    }
    start = following;
  }

  cp_async_wait<0>();
  __syncthreads();  // the tiles make room for the output, each warp's rows in a part of its own
  T* staged = shared + warp * S::warp_rows * dim;
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float total = sum[m][h];
      total += __shfl_xor_sync(full_warp, total, 1);
      total += __shfl_xor_sync(full_warp, total, 2);
      const int row = 16 * m + lane / 4 + 8 * h;
      const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
#pragma unroll
      for (int n = 0; n < dim / 8; ++n) {
        const uint32_t bits = pair_of(o[m][n][2 * h] * inverse, o[m][n][2 * h + 1] * inverse, T{});
        memcpy(staged + Layout::at(row, n) + 2 * (lane % 4), &bits, sizeof bits);
      }
      if (lane % 4 == 0 && warp_first + row < at.end) {
        lse_of(p, at, warp_first + row) = log_sum(maximum[m][h], total);
      }
    }
  }
  __syncwarp();
  for (int index = lane; index < S::warp_rows * Layout::chunks; index += 32) {
    const int row = index / Layout::chunks, chunk = index % Layout::chunks;
    if (warp_first + row >= at.end) break;
    const Pack<T> part = *reinterpret_cast<const Pack<T>*>(staged + Layout::at(row, chunk));
    part.store(out_row<T>(p, at, warp_first + row) + chunk * 8);
  }
}

}  // namespace
}  // namespace tokenburst
