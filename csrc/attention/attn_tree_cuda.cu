// Online softmax over tiles of 64 cache rows, the tiles dealt out to a fixed number of splits and
// merged in split order by a second kernel. 16-bit tensors: tensor cores, rows = nodes x heads of a
// KV group, so a tile of keys is read once for the whole group. Everything else: one warp per row.
#include "common/cuda.cuh"

#include "attention/attn_tree.h"

namespace tokenburst {
namespace {

constexpr int kv_tile = 64;
constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

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

// Bit i = node sees cache row start + i.
__device__ unsigned long long visible_rows(const AttnTreeParams& p, const Place& at, int node,
                                           int start) {
  if (node >= at.count) return 0;
  unsigned long long seen = low_bits(at.prefix + at.count - start);
  if (start + kv_tile <= at.prefix) return seen;
  if (p.ancestors == nullptr) return p.causal ? low_bits(at.prefix + node + 1 - start) : seen;
  const int first = start > at.prefix ? start - at.prefix : 0;  // node of the lowest bit
  const int32_t* mask = p.ancestors + (at.b * p.nodes + node) * p.words;
  const int words = static_cast<int>(p.words);
  unsigned long long bits = 0;
  for (int i = 0; i < 3; ++i) {
    const int word = first / 32 + i, shift = 32 * i - first % 32;
    if (word >= words || shift >= 64) break;
    const unsigned long long value = static_cast<uint32_t>(mask[word]);
    bits |= shift >= 0 ? value << shift : value >> -shift;
  }
  const int before = at.prefix - start;  // rows of the prefix in this tile
  if (before > 0) bits = bits << before | low_bits(before);
  return bits & seen;
}

__device__ int64_t partial_index(const AttnTreeParams& p, int b, int head, int node, int split) {
  return ((b * p.heads + head) * p.nodes + node) * p.splits + split;
}

__device__ float log_sum(float maximum, float sum) {
  return sum > 0.0f ? maximum * ln_2 + log_fast(sum) : -INFINITY;
}

// --- one warp per query row: every dtype, every head dim -----------------------------------------

constexpr int simt_warps = 4;

// In order of d, so that the alignment of a cache does not show in the result.
template <class T>
__device__ float dot(const float* q, const T* key, int dim, bool vectors) {
  float sum = 0.0f;
  if (!vectors) {
    for (int d = 0; d < dim; ++d) sum = fused(q[d], widen(key[d]), sum);
    return sum;
  }
#pragma unroll 2
  for (int d = 0; d < dim; d += Pack<T>::size) {
    const Pack<T> part = Pack<T>::load(key + d);
#pragma unroll
    for (int i = 0; i < Pack<T>::size; ++i) sum = fused(q[d + i], widen(part.value[i]), sum);
  }
  return sum;
}

template <class T>
__global__ void __launch_bounds__(simt_warps * 32, 4) simt_kernel(AttnTreeParams p) {
  __shared__ float queries[simt_warps][256];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = static_cast<int>(p.dim);
  const int group = static_cast<int>(p.heads / p.kv_heads);
  const int rows = static_cast<int>(p.nodes) * group;
  const Place at = place_of(p, (rows + simt_warps - 1) / simt_warps);
  const int row = at.row_tile * simt_warps + warp;
  if (row >= rows) return;  // whole warps, and the block never meets again
  const int node = row / group, head = at.kv_head * group + row % group;
  const T* q = static_cast<const T*>(p.q) + at.b * p.q_stride[0] + head * p.q_stride[1] +
               node * p.q_stride[2];
  const T* k = static_cast<const T*>(p.k) + at.b * p.k_stride[0] + at.kv_head * p.k_stride[1];
  const T* v = static_cast<const T*>(p.v) + at.b * p.v_stride[0] + at.kv_head * p.v_stride[1];
  const bool vectors =
      (reinterpret_cast<uintptr_t>(k) | p.k_stride[2] * static_cast<int64_t>(sizeof(T))) % 16 == 0;
  for (int d = lane; d < dim; d += 32) queries[warp][d] = widen(q[d]) * (p.scale * log2_e);
  __syncwarp();

  float maximum = -INFINITY, sum = 0.0f, o[8] = {};
  const int end = node < at.count ? at.prefix + at.count : 0;
  const int step = static_cast<int>(p.splits) * kv_tile;
  for (int start = at.split * kv_tile; start < end; start += step) {
    const unsigned long long seen = visible_rows(p, at, node, start);
    for (int half = 0; half < 2; ++half) {  // lane = key
      const unsigned visible = static_cast<unsigned>(seen >> (32 * half));
      if (visible == 0) continue;
      const int base = start + 32 * half;
      float score = -INFINITY;
      if (visible >> lane & 1) {
        const T* key = k + (base + lane) * p.k_stride[2];
        score = dot(queries[warp], key, dim, vectors);
      }
      const float higher = fmaxf(maximum, warp_max(score));
      const float zero = higher == -INFINITY ? 0.0f : higher;
      const float factor = exp2_approx(maximum - zero), weight = exp2_approx(score - zero);
      sum = fused(sum, factor, warp_sum(weight));
      maximum = higher;
      for (int i = 0; i < 8; ++i) o[i] *= factor;
#pragma unroll 2
      for (int j = 0; j < 32; ++j) {
        const float w = __shfl_sync(full_warp, weight, j);
        if (!(visible >> j & 1)) continue;
        const T* value = v + (base + j) * p.v_stride[2];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int d = 32 * i + lane;
          if (d < dim) o[i] = fused(w, widen(value[d]), o[i]);
        }
      }
    }
  }

  if (p.splits > 1) {
    const int64_t part = partial_index(p, at.b, head, node, at.split);
    if (lane == 0) p.partial_stats[2 * part] = maximum, p.partial_stats[2 * part + 1] = sum;
    for (int i = 0; i < 8; ++i) {
      if (32 * i + lane < dim) p.partial_out[part * dim + 32 * i + lane] = o[i];
    }
    return;
  }
  T* out = static_cast<T*>(p.out) + ((at.b * p.nodes + node) * p.heads + head) * dim;
  const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
  for (int i = 0; i < 8; ++i) {
    if (32 * i + lane < dim) out[32 * i + lane] = narrow<T>(o[i] * inverse);
  }
  if (lane == 0) p.lse[(at.b * p.heads + head) * p.nodes + node] = log_sum(maximum, sum);
}

// --- tensor cores
// ---------------------------------------------------------------------------------

__device__ uint32_t pair_of(float a, float b, __half) {
  const __half2 pair = __floats2half2_rn(a, b);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}
__device__ uint32_t pair_of(float a, float b, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

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

  // Rows from `end` on are zero: their weight is 0, and 0 times what the cache holds may be NaN.
  __device__ static void copy_tile(T* shared, const T* rows, int64_t stride, int start, int end) {
#pragma unroll 2  // more would hold too many addresses in registers
    for (int i = 0; i < copies; ++i) {
      const int index = i * threads + threadIdx.x, row = index / chunks, d = index % chunks * 8;
      const bool fill = start + row < end;
      cp_async16(shared + row * pitch + d, rows + (fill ? (start + row) * stride + d : 0), fill);
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
  const T* k = static_cast<const T*>(p.k) + at.b * p.k_stride[0] + at.kv_head * p.k_stride[1];
  const T* v = static_cast<const T*>(p.v) + at.b * p.v_stride[0] + at.kv_head * p.v_stride[1];

  int row[2], node[2], head[2];
  for (int h = 0; h < 2; ++h) {
    row[h] = at.row_tile * 16 * warps + 16 * warp + lane / 4 + 8 * h;
    node[h] = row[h] / group, head[h] = at.kv_head * group + row[h] % group;
  }
  // No row of the block sees anything from `end` on.
  const int first_node = at.row_tile * 16 * warps / group;
  int last_node = ((at.row_tile + 1) * 16 * warps - 1) / group;
  if (last_node >= at.count) last_node = at.count - 1;
  const bool chain = p.causal && p.ancestors == nullptr;
  const int end = first_node >= at.count ? 0 : at.prefix + (chain ? last_node + 1 : at.count);

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
  int start = at.split * kv_tile;
  int stage = 0;
  const auto fetch = [&](int from, int into) {
    T* keys = shared + into * 2 * Core::tile_size;
    Core::copy_tile(keys, k, p.k_stride[2], from, end);
    Core::copy_tile(keys + Core::tile_size, v, p.v_stride[2], from, end);
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
    if (start + kv_tile > at.prefix) {  // only here do rows of the block differ in what they see
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const unsigned long long seen = visible_rows(p, at, node[h], start) >> (2 * (lane % 4));
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

// --- merge of the splits, one warp per query row ------------------------------------------------

constexpr int merge_warps = 4;

template <class T>
__global__ void __launch_bounds__(merge_warps * 32) merge_kernel(AttnTreeParams p) {
  const int lane = threadIdx.x % 32, dim = static_cast<int>(p.dim);
  const int splits = static_cast<int>(p.splits);  // at most 32: one lane each
  const int64_t row = static_cast<int64_t>(blockIdx.x) * merge_warps + threadIdx.x / 32;
  if (row >= p.batch * p.heads * p.nodes) return;
  const float* stats = p.partial_stats + 2 * row * splits;
  const float mine = lane < splits ? stats[2 * lane] : -INFINITY;
  const float sum = lane < splits ? stats[2 * lane + 1] : 0.0f;
  const float maximum = warp_max(mine);
  const float factor = sum > 0.0f ? exp2_approx(mine - maximum) : 0.0f;
  const float total = warp_sum(sum * factor);
  float o[8] = {};
  for (int s = 0; s < splits; ++s) {
    const float w = __shfl_sync(full_warp, factor, s);
    if (w == 0.0f) continue;  // the same for all lanes; its part may never have been written
    const float* part = p.partial_out + (row * splits + s) * dim;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (32 * i + lane < dim) o[i] = fused(w, part[32 * i + lane], o[i]);
    }
  }
  const int64_t node = row % p.nodes, head = row / p.nodes % p.heads, b = row / (p.nodes * p.heads);
  T* out = static_cast<T*>(p.out) + ((b * p.nodes + node) * p.heads + head) * dim;
  const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
  for (int i = 0; i < 8; ++i) {
    if (32 * i + lane < dim) out[32 * i + lane] = narrow<T>(o[i] * inverse);
  }
  if (lane == 0) p.lse[row] = log_sum(maximum, total);
}

// --- launchers -----------------------------------------------------------------------------------

int blocks_of(const AttnTreeParams& p, int64_t rows_per_block) {
  const int64_t rows = p.nodes * (p.heads / p.kv_heads);
  return static_cast<int>((rows + rows_per_block - 1) / rows_per_block * p.splits * p.kv_heads *
                          p.batch);
}

template <class T>
int launch_simt(const AttnTreeParams& p, void* stream) {
  return launch(simt_kernel<T>, dim3(blocks_of(p, simt_warps)), dim3(simt_warps * 32), 0, stream,
                p);
}

template <class T, int dim, int warps>
int launch_warps(const AttnTreeParams& p, void* stream) {
  return launch(tensor_core_kernel<T, dim, warps>, dim3(blocks_of(p, 16 * warps)), dim3(32 * warps),
                TensorCore<T, dim, warps>::shared_bytes, stream, p);
}

template <class T, int dim>
int launch_tensor_core(const AttnTreeParams& p, void* stream) {
  switch (attn_tree_row_tile(p.nodes * (p.heads / p.kv_heads))) {
    case 16:
      return launch_warps<T, dim, 1>(p, stream);
    case 32:
      return launch_warps<T, dim, 2>(p, stream);
    default:
      return launch_warps<T, dim, 4>(p, stream);
  }
}

bool aligned(const void* data, const int64_t (&strides)[3]) {  // every row of 16-bit values
  return (reinterpret_cast<uintptr_t>(data) | 2 * (strides[0] | strides[1] | strides[2])) % 16 == 0;
}

template <class T>
int launch_16bit(const AttnTreeParams& p, void* stream) {
  if (aligned(p.q, p.q_stride) && aligned(p.k, p.k_stride) && aligned(p.v, p.v_stride)) {
    switch (p.dim) {
      case 64:
        return launch_tensor_core<T, 64>(p, stream);
      case 80:
        return launch_tensor_core<T, 80>(p, stream);
      case 96:
        return launch_tensor_core<T, 96>(p, stream);
      case 128:
        return launch_tensor_core<T, 128>(p, stream);
      default:
        break;
    }
  }
  return launch_simt<T>(p, stream);
}

template <class T>
int launch_merge(const AttnTreeParams& p, void* stream) {
  if (p.splits <= 1) return 0;
  const int64_t rows = p.batch * p.heads * p.nodes;
  return launch(merge_kernel<T>, dim3((rows + merge_warps - 1) / merge_warps),
                dim3(merge_warps * 32), 0, stream, p);
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_attn_tree_cuda(const tokenburst::AttnTreeParams* p, void* stream) {
  using namespace tokenburst;
  int error = 0;
  switch (p->dtype) {
    case DType::f32:
      error = launch_simt<float>(*p, stream);
      return error ? error : launch_merge<float>(*p, stream);
    case DType::f16:
      error = launch_16bit<__half>(*p, stream);
      return error ? error : launch_merge<__half>(*p, stream);
    default:
      error = launch_16bit<__nv_bfloat16>(*p, stream);
      return error ? error : launch_merge<__nv_bfloat16>(*p, stream);
  }
}
