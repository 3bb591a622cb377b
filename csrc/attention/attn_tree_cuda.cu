// Online softmax over tiles of 64 cache rows, the tiles dealt out to a fixed number of splits and
// merged in split order by a second kernel. Aligned 16-bit tensors of common head dims go to tensor
// cores, everything else to one warp per row.
#include "attention/attn_tree_tensor_core.cuh"

namespace tokenburst {
namespace {

// --- one warp per query row: every dtype, every head dim -----------------------------------------

constexpr int simt_warps = 4;

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
  const Cache<T> k(p, p.k, p.k_stride, at), v(p, p.v, p.v_stride, at);
  const int64_t steps = k.stride | (k.table ? k.page_stride : 0);
  const bool vectors =
      (reinterpret_cast<uintptr_t>(k.data) | steps * static_cast<int64_t>(sizeof(T))) % 16 == 0;
  for (int d = lane; d < dim; d += 32) queries[warp][d] = widen(q[d]) * (p.scale * log2_e);
  __syncwarp();

  float maximum = -INFINITY, sum = 0.0f, o[8] = {};
  const Sight sight = sight_of(p, at, node);
  const int step = static_cast<int>(p.splits) * kv_tile;
  for (int start = first_tile(p, at, sight.from); start < sight.to; start += step) {
    const unsigned long long seen =
        visible_rows(p, at, node, sight, start) & k.existing(start, sight.to);
    for (int half = 0; half < 2; ++half) {  // lane = key
      const unsigned visible = static_cast<unsigned>(seen >> (32 * half));
      if (visible == 0) continue;
      const int base = start + 32 * half;
      float score = -INFINITY;
      if (visible >> lane & 1) {
        score = dot(queries[warp], k.row(base + lane), dim, vectors);
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
        const T* value = v.row(base + j);
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
  store_row(o, sum, dim, lane, out);
  if (lane == 0) p.lse[(at.b * p.heads + head) * p.nodes + node] = log_sum(maximum, sum);
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
  store_row(o, total, dim, lane, out);
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
