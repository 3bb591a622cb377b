// One thread owns one column chunk of one head of one cache and moves it for all accepted rows in
// ascending order. A row only moves down, so no thread reads what another has written, and four
// rows may be loaded before the first of them is stored.
#include "common/cuda.cuh"
#include "tree/tree_commit_kv_.h"

namespace tokenburst {
namespace {

constexpr int threads = 128;
constexpr int in_flight = 4;

template <class Unit>
__device__ void move_chunk(const TreeCommitKvParams& p, const KvCache& cache, int64_t b,
                           int64_t chunk) {
  const int64_t length = p.kv_len[b], given = p.n_accepted[b];
  if (length < 0 || length > p.capacity) return;
  const int64_t room = p.capacity - length;
  const int64_t count = given < p.path_length ? given : p.path_length;
  const int chunks = cache.row_bytes / static_cast<int>(sizeof(Unit));
  const int64_t column = (chunk / chunks) * cache.head_stride + (chunk % chunks) * sizeof(Unit);

  for (int64_t first = 0; first < count; first += in_flight) {
    Unit value[in_flight];
    char* to[in_flight];  // null: nothing to do for a row in place, nor for a wild one
#pragma unroll
    for (int i = 0; i < in_flight; ++i) {
      const int64_t j = first + i, node = j < count ? p.path[b * p.path_length + j] : -1;
      to[i] = nullptr;
      if (!(j < node && node < room)) continue;
      const char* from = cache_row(p, cache, b, length + node);
      if (from == nullptr) continue;
      value[i] = *reinterpret_cast<const Unit*>(from + column);
      to[i] = cache_row(p, cache, b, length + j);
    }
#pragma unroll
    for (int i = 0; i < in_flight; ++i) {
      if (to[i] != nullptr) *reinterpret_cast<Unit*>(to[i] + column) = value[i];
    }
  }
}

__global__ void commit_kernel(TreeCommitKvParams p) {
  const KvCache cache = p.caches[blockIdx.y];
  const int unit = copy_unit(cache);
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (chunk >= static_cast<int64_t>(cache.heads) * (cache.row_bytes / unit)) return;
  for (int64_t b = blockIdx.z; b < p.batch; b += gridDim.z) {
    if (unit == 16) {
      move_chunk<uint4>(p, cache, b, chunk);
    } else if (unit == 8) {
      move_chunk<uint2>(p, cache, b, chunk);
    } else if (unit == 4) {
      move_chunk<uint32_t>(p, cache, b, chunk);
    } else {
      move_chunk<uint16_t>(p, cache, b, chunk);
    }
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_tree_commit_kv__cuda(const tokenburst::TreeCommitKvParams* p,
                                              void* stream) {
  int64_t most = 0;
  for (int64_t c = 0; c < p->num_caches; ++c) {
    const tokenburst::KvCache& cache = p->caches[c];
    const int64_t chunks =
        static_cast<int64_t>(cache.heads) * (cache.row_bytes / tokenburst::copy_unit(cache));
    most = chunks > most ? chunks : most;
  }
  const dim3 grid((most + tokenburst::threads - 1) / tokenburst::threads, p->num_caches,
                  p->batch < 65535 ? p->batch : 65535);
  return tokenburst::launch(tokenburst::commit_kernel, grid, dim3(tokenburst::threads), 0, stream,
                            *p);
}
