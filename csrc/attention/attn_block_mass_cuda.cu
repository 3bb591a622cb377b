// One product of queries and keys: for each row and block of keys the base 2 logarithm of its sum
// of weights goes to a scratch that the thread block keeps, and once all are there the same thread
// block makes shares of them and adds those up over the rows of each query block. 16-bit tensors
// use tensor cores; everything else one warp per four rows.
#include "attention/attention.cuh"
#include "attention/attn_block_mass.h"

namespace tokenburst {
namespace {

constexpr int rows_per_item = static_cast<int>(mass_rows), warps = 4, threads = 32 * warps;
static_assert(threads == rows_per_item, "one thread per row when shares are made");

// Rows [first, first + rows_per_item) of one head; every length is clamped.
struct Place {
  int b, head, first;
  int rows, blocks, split;  // of the sequence
  __device__ Place(const AttnBlockMassParams& p, int64_t item) {
    const int tiles = static_cast<int>((p.length + rows_per_item - 1) / rows_per_item);
    const int lane = static_cast<int>(item / tiles), heads = static_cast<int>(p.heads);
    first = static_cast<int>(item % tiles) * rows_per_item;
    b = lane / heads, head = lane % heads;
    const SparsedParts parts = sparsed_parts(p.kv_len, p.prompt_len, b, p.length, p.block);
    rows = static_cast<int>(parts.rows);
    blocks = static_cast<int>(parts.blocks), split = static_cast<int>(parts.split);
  }
};

// A row's sum of weights so far, 2^maximum * sum.
struct Running {
  float maximum = -INFINITY, sum = 0.0f;
  __device__ float zero() const { return maximum == -INFINITY ? 0.0f : maximum; }
  __device__ void raise(float to) {
    const float before = maximum;
    maximum = fmaxf(maximum, to);
    sum *= exp2_approx(before - zero());
  }
  __device__ void merge(int offset) {  // with the lane that differs in this bit
    const float other = __shfl_xor_sync(full_warp, maximum, offset);
    raise(other);
    sum += __shfl_xor_sync(full_warp, sum, offset);
  }
  __device__ float log2_sum() const {
    return sum > 0.0f ? maximum + log_fast(sum) * log2_e : -INFINITY;
  }
};

// sums: [blocks][rows_per_item] of this thread block, base 2 logarithms.
__device__ void write_masses(const AttnBlockMassParams& p, const Place& at, const float* sums) {
  __shared__ float total[rows_per_item];
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int block = static_cast<int>(p.block), blocks = static_cast<int>(p.blocks);
  for (int part = 0; part < 2; ++part) {
    const int from = part == 0 ? 0 : at.split;
    Running all;
    if (at.first + thread < at.rows) {
      for (int j = from; j < at.blocks; ++j) {
        const float sum = sums[j * rows_per_item + thread];
        all.raise(sum);
        all.sum += exp2_approx(sum - all.zero());
      }
    }
    total[thread] = all.sum > 0.0f ? all.log2_sum() : INFINITY;  // no share where there is none
    __syncthreads();
    float* out = part == 0 ? p.prefix : p.generation;
    out += ((at.b * p.heads + at.head) * p.blocks + at.first / block) * p.blocks;
    for (int j = warp; j < blocks; j += warps) {
      float mass = 0.0f;
      for (int row = lane; row < rows_per_item; row += 32) {
        const int i = row / block;  // the same for all lanes
        if (at.first + row - lane < at.rows && from <= j && j < at.blocks && total[row] < INFINITY)
          mass += exp2_approx(sums[j * rows_per_item + row] - total[row]);
        if ((row - lane + 32) % block == 0) {
          const float sum = warp_sum(mass);
          if (lane == 0 && at.first + i * block < p.length) out[i * p.blocks + j] = sum;
          mass = 0.0f;
        }
      }
    }
    __syncthreads();  // before `total`, and after the last part the scratch, is written again
  }
}

// --- one warp per four rows: every dtype, every head dim -----------------------------------------

constexpr int simt_rows = 4;

template <class T>
__device__ void dot(const float (*q)[256], const T* key, int dim, float (&sum)[simt_rows]) {
  for (int d = 0; d < dim; ++d) {
    const float x = widen(key[d]);
#pragma unroll
    for (int r = 0; r < simt_rows; ++r) sum[r] = fused(q[r][d], x, sum[r]);
  }
}

template <class T>
__global__ void __launch_bounds__(threads, 4) simt_kernel(AttnBlockMassParams p) {
  __shared__ float queries[warps][simt_rows][256];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int dim = static_cast<int>(p.dim), block = static_cast<int>(p.block);
  float* sums = p.scratch + blockIdx.x * p.blocks * rows_per_item;
  const int64_t items = mass_items(p);
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const Place at(p, item);
    const T* q = static_cast<const T*>(p.q) + at.b * p.q_stride[0] + at.head * p.q_stride[1];
    const T* k = static_cast<const T*>(p.k) + at.b * p.k_stride[0] +
                 at.head / (p.heads / p.kv_heads) * p.k_stride[1];
    for (int row = simt_rows * warp; row < rows_per_item; row += simt_rows * warps) {
      if (at.first + row >= at.rows) break;  // the same for the whole warp
      __syncwarp();
      for (int r = 0; r < simt_rows; ++r) {
        const int from = at.first + row + r;
        for (int d = lane; d < dim; d += 32) {
          const float x = from < at.rows ? widen(q[from * p.q_stride[2] + d]) : 0.0f;
          queries[warp][r][d] = x * (p.scale * log2_e);
        }
      }
      __syncwarp();
      for (int j = 0; j < at.blocks; ++j) {
        Running mine[simt_rows];
        for (int key = j * block + lane; key < (j + 1) * block; key += 32) {
          if (key >= at.rows) break;
          float score[simt_rows] = {};
          dot(queries[warp], k + key * p.k_stride[2], dim, score);
#pragma unroll
          for (int r = 0; r < simt_rows; ++r) {
            const float s = fmaxf(score[r], -INFINITY);  // NaN has no weight
            mine[r].raise(s);
            mine[r].sum += exp2_approx(s - mine[r].zero());
          }
        }
#pragma unroll
        for (int r = 0; r < simt_rows; ++r) {
          for (int offset = 16; offset > 0; offset /= 2) mine[r].merge(offset);
          if (lane == 0) sums[j * rows_per_item + row + r] = mine[r].log2_sum();
        }
      }
    }
    __syncthreads();
    write_masses(p, at, sums);
  }
}

// --- tensor cores --------------------------------------------------------------------------------

constexpr int kv_tile = 64, unit = 32;  // keys copied, and keys scored, at a time

// Fragments as the PTX manual lays out m16n8k16; a warp takes 32 rows, so each fragment of keys
// serves two products. Shared rows are padded by 16 bytes: eight of them start in eight different
// groups of four banks.
template <class T, int dim>
struct TensorCore {
  static constexpr int pitch = dim + 8, tile_size = kv_tile * pitch;
  static constexpr int shared_bytes = 2 * tile_size * static_cast<int>(sizeof(T));
  static constexpr int chunks = dim / 8;  // 16 bytes each
  static constexpr int copies = kv_tile * chunks / threads;
  static_assert(dim % 16 == 0, "the dot products advance by 16");
  static_assert(kv_tile * chunks % threads == 0, "every thread copies the same number of chunks");

  __device__ static void copy_tile(T* shared, const T* rows, int64_t stride, int start, int end) {
#pragma unroll 2  // more would hold too many addresses in registers
    for (int i = 0; i < copies; ++i) {
      const int index = i * threads + threadIdx.x, row = index / chunks, d = index % chunks * 8;
      const bool fill = start + row < end;
      cp_async16(shared + row * pitch + d, rows + (fill ? (start + row) * stride + d : 0), fill);
    }
    cp_async_commit();
  }
};

template <class T, int dim>
__global__ void __launch_bounds__(threads, dim == 96 ? 2 : 3)
    tensor_core_kernel(AttnBlockMassParams p) {
  using Core = TensorCore<T, dim>;
  constexpr int pitch = Core::pitch, steps = dim / 16, key_tiles = unit / 8;
  TB_DYNAMIC_SHARED(T, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, block = static_cast<int>(p.block);
  const float scale = p.scale * log2_e;
  float* sums = p.scratch + blockIdx.x * p.blocks * rows_per_item;
  const int64_t items = mass_items(p);
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const Place at(p, item);
    const int end = at.first < at.rows ? at.rows : 0;  // nothing to score where all is padding
    const T* k = static_cast<const T*>(p.k) + at.b * p.k_stride[0] +
                 at.head / (p.heads / p.kv_heads) * p.k_stride[1];
    if (end > 0) Core::copy_tile(shared, k, p.k_stride[2], 0, end);

    uint32_t query[2][steps][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // register i: rows + 8 * (i % 2), columns + 8 * (i / 2)
        const int row = at.first + 32 * warp + 16 * m + lane / 4 + 8 * (i % 2);
        const T* q = static_cast<const T*>(p.q) + at.b * p.q_stride[0] + at.head * p.q_stride[1] +
                     row * p.q_stride[2] + 2 * (lane % 4) + 8 * (i / 2);
#pragma unroll
        for (int s = 0; s < steps; ++s) {
          query[m][s][i] = 0;
          if (row < at.rows) memcpy(&query[m][s][i], q + 16 * s, sizeof(uint32_t));
        }
      }
    }

    Running mine[2][2];  // of this lane's columns: rows lane / 4 + 16 * m + 8 * h
    int stage = 0;
    for (int start = 0; start < end; start += kv_tile, stage ^= 1) {
      if (start + kv_tile < end) {
        Core::copy_tile(shared + (stage ^ 1) * Core::tile_size, k, p.k_stride[2], start + kv_tile,
                        end);
        cp_async_wait<1>();
      } else {
        cp_async_wait<0>();
      }
      __syncthreads();
      for (int first = start; first < start + kv_tile && first < end; first += unit) {
        const T* keys = shared + stage * Core::tile_size + (first - start) * pitch;
        float score[2][key_tiles][4];
#pragma unroll
        for (int n = 0; n < key_tiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) score[0][n][i] = score[1][n][i] = 0.0f;
        }
#pragma unroll
        for (int s = 0; s < steps; ++s) {
#pragma unroll
          for (int n = 0; n < key_tiles; n += 2) {
            uint32_t r[4];
            ldmatrix_x4(
                r, keys + (8 * n + lane / 16 * 8 + lane % 8) * pitch + 16 * s + lane / 8 % 2 * 8);
#pragma unroll
            for (int m = 0; m < 2; ++m) {
              mma_m16n8k16(score[m][n], query[m][s], r[0], r[1], T{});
              mma_m16n8k16(score[m][n + 1], query[m][s], r[2], r[3], T{});
            }
          }
        }
        const bool closes = (first + unit) % block == 0 || first + unit >= end;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            Running& row = mine[m][h];
            float highest = -INFINITY;
#pragma unroll
            for (int n = 0; n < key_tiles; ++n) {
#pragma unroll
              for (int c = 0; c < 2; ++c) {
                float& s = score[m][n][2 * h + c];
                const bool real = first + 8 * n + 2 * (lane % 4) + c < end;
                s = real ? fmaxf(s * scale, -INFINITY) : -INFINITY;  // NaN has no weight
                highest = fmaxf(highest, s);
              }
            }
            row.raise(highest);
#pragma unroll
            for (int n = 0; n < key_tiles; ++n) {
              row.sum += exp2_approx(score[m][n][2 * h] - row.zero()) +
                         exp2_approx(score[m][n][2 * h + 1] - row.zero());
            }
            if (!closes) continue;
            row.merge(1), row.merge(2);
            if (lane % 4 == 0) {
              sums[first / block * rows_per_item + 32 * warp + 16 * m + 8 * h + lane / 4] =
                  row.log2_sum();
            }
            row = Running();
          }
        }
      }
      __syncthreads();  // the stage is free for the tile after next
    }
    __syncthreads();
    write_masses(p, at, sums);
  }
}

// --- launchers -----------------------------------------------------------------------------------

template <class T>
int launch_simt(const AttnBlockMassParams& p, void* stream) {
  return launch(simt_kernel<T>, dim3(p.slots), dim3(threads), 0, stream, p);
}

template <class T, int dim>
int launch_tensor_core(const AttnBlockMassParams& p, void* stream) {
  return launch(tensor_core_kernel<T, dim>, dim3(p.slots), dim3(threads),
                TensorCore<T, dim>::shared_bytes, stream, p);
}

template <class T>
int launch_16bit(const AttnBlockMassParams& p, void* stream) {
  if (aligned(p.q, p.q_stride) && aligned(p.k, p.k_stride)) {
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

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_attn_block_mass_cuda(const tokenburst::AttnBlockMassParams* p,
                                              void* stream) {
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
