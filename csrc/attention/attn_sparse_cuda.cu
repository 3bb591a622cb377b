// One block of threads per query block of a head, the query blocks of a KV head next to each other
// so that they find its keys in L2. 16-bit tensors go to tensor cores, everything else takes one
// warp per query.
#include "attention/attn_sparse.cuh"
#include "attention/attn_sparse_tensor_core.cuh"

namespace tokenburst {
namespace {

// --- one warp per query: every dtype, every head dim ---------------------------------------------

constexpr int simt_warps = 4;

template <class T>
__global__ void __launch_bounds__(simt_warps * 32, 4) simt_kernel(AttnSparseParams p) {
  __shared__ float queries[simt_warps][256];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = static_cast<int>(p.dim);
  const Place at = place_of(p, simt_warps);
  const int row = at.first + warp;
  if (row >= at.end) return;  // whole warps, and the block never meets again
  const T* q = static_cast<const T*>(p.q) + at.b * p.q_stride[0] + at.head * p.q_stride[1] +
               row * p.q_stride[2];
  const T* k = static_cast<const T*>(p.k) + at.b * p.k_stride[0] + at.kv_head * p.k_stride[1];
  const T* v = static_cast<const T*>(p.v) + at.b * p.v_stride[0] + at.kv_head * p.v_stride[1];
  const bool vectors =
      (reinterpret_cast<uintptr_t>(k) | p.k_stride[2] * static_cast<int64_t>(sizeof(T))) % 16 == 0;
  for (int d = lane; d < dim; d += 32) queries[warp][d] = widen(q[d]) * (p.scale * log2_e);
  __syncwarp();

  float maximum = -INFINITY, sum = 0.0f, o[8] = {};
  Tiles tiles(p, at);
  for (int start = tiles.next(p, at); start >= 0; start = tiles.next(p, at)) {  // lane = key
    const int count = min(at.keys - start, kv_tile);
    float score = -INFINITY;
    if (lane < count) {
      score = dot(queries[warp], k + (start + lane) * p.k_stride[2], dim, vectors);
    }
    const float higher = fmaxf(maximum, warp_max(score));
    const float zero = higher == -INFINITY ? 0.0f : higher;
    const float factor = exp2_approx(maximum - zero), weight = exp2_approx(score - zero);
    sum = fused(sum, factor, warp_sum(weight));
    maximum = higher;
    for (int i = 0; i < 8; ++i) o[i] *= factor;
#pragma unroll 2
    for (int j = 0; j < count; ++j) {
      const float w = __shfl_sync(full_warp, weight, j);
      const T* value = v + (start + j) * p.v_stride[2];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int d = 32 * i + lane;
        if (d < dim) o[i] = fused(w, widen(value[d]), o[i]);
      }
    }
  }

  store_row(o, sum, dim, lane, out_row<T>(p, at, row));
  if (lane == 0) lse_of(p, at, row) = log_sum(maximum, sum);
}

// --- launchers -----------------------------------------------------------------------------------

int64_t blocks_of(const AttnSparseParams& p, int64_t rows) {
  return (p.q_length + rows - 1) / rows * p.heads * p.batch;
}

template <class T>
int launch_simt(const AttnSparseParams& p, void* stream) {
  return launch(simt_kernel<T>, dim3(blocks_of(p, simt_warps)), dim3(simt_warps * 32), 0, stream,
                p);
}

template <class T, int dim>
int launch_tensor_core(const AttnSparseParams& p, void* stream) {
  using S = Shape<dim>;
  const int64_t rows = p.block < S::most_rows ? p.block : S::most_rows;
  return launch(tensor_core_kernel<T, dim>, dim3(blocks_of(p, rows)),
                dim3(rows / S::warp_rows * 32), S::shared_bytes(rows), stream, p);
}

template <class T>
int launch_16bit(const AttnSparseParams& p, void* stream) {
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
      case 256:
        return launch_tensor_core<T, 256>(p, stream);
      default:
        break;
    }
  }
  return launch_simt<T>(p, stream);
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_attn_sparse_cuda(const tokenburst::AttnSparseParams* p, void* stream) {
  using namespace tokenburst;
  switch (p->dtype) {
    case DType::f32:
      return launch_simt<float>(*p, stream);
    case DType::f16:
      return launch_16bit<__half>(*p, stream);
    default:
      return launch_16bit<__nv_bfloat16>(*p, stream);
  }
}
