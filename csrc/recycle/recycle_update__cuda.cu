// One thread per entry (a node of a sequence). An entry wins its row if no later one has the same
// key, which it finds out by scanning the later keys tile by tile in shared memory; then the block
// writes its winners' rows together. Rows of different winners never coincide.
#include "common/cuda.cuh"
#include "recycle/recycle_update_.h"

namespace tokenburst {
namespace {

constexpr int threads = 128;

// Row of the adjacency that entry e would write, counted over all groups; -1 = takes no part.
__device__ int64_t key_of(const RecycleUpdateParams& p, int64_t e) {
  if (e >= p.batch * p.nodes) return -1;
  const int64_t b = e / p.nodes;
  const int64_t count = p.n_nodes.present() ? p.n_nodes[b] : p.nodes;
  const int64_t group = p.group.present() ? p.group[b] : 0;
  const int64_t token = p.tokens[e], best = p.ids[e * p.width];
  const bool takes_part = e - b * p.nodes < count && 0 <= group && group < p.groups && 0 <= token &&
                          token < p.vocab && 0 <= best && best < p.vocab;
  return takes_part ? group * p.vocab + token : -1;
}

// Four ids at a time where every row start is a multiple of 16 bytes.
template <int lanes>
__device__ void write_rows(const RecycleUpdateParams& p, const int64_t* winner) {
  const int chunks = static_cast<int>(p.ranks / lanes);
  for (int64_t c = threadIdx.x; c < static_cast<int64_t>(threads) * chunks; c += threads) {
    const int64_t key = winner[c / chunks];
    if (key < 0) continue;
    const int64_t e = static_cast<int64_t>(blockIdx.x) * threads + c / chunks;
    const int64_t first = c % chunks * lanes;
    int32_t* row = p.adjacency + key / p.vocab * p.group_stride + key % p.vocab * p.token_stride;
    int32_t value[lanes];
#pragma unroll
    for (int i = 0; i < lanes; ++i) {
      const int64_t id = p.ids[e * p.width + first + i];
      value[i] = 0 <= id && id < p.vocab ? static_cast<int32_t>(id) : -1;
    }
    if constexpr (lanes == 4) {
      *reinterpret_cast<int4*>(row + first) = make_int4(value[0], value[1], value[2], value[3]);
    } else {
      row[first] = value[0];
    }
  }
}

__global__ void update_kernel(RecycleUpdateParams p, bool aligned) {
  __shared__ int64_t later[threads];
  __shared__ int64_t winner[threads];
  const int thread = threadIdx.x;
  const int64_t tiles = (p.batch * p.nodes + threads - 1) / threads;
  const int64_t mine = key_of(p, static_cast<int64_t>(blockIdx.x) * threads + thread);
  bool wins = mine >= 0;

  for (int64_t tile = blockIdx.x; tile < tiles && __syncthreads_or(wins); ++tile) {
    later[thread] = tile == blockIdx.x ? mine : key_of(p, tile * threads + thread);
    __syncthreads();
    for (int i = tile == blockIdx.x ? thread + 1 : 0; wins && i < threads; ++i) {
      wins = later[i] != mine;
    }
  }
  winner[thread] = wins ? mine : -1;
  __syncthreads();

  if (aligned) {
    write_rows<4>(p, winner);
  } else {
    write_rows<1>(p, winner);
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_recycle_update__cuda(const tokenburst::RecycleUpdateParams* p,
                                              void* stream) {
  const int64_t tiles = (p->batch * p->nodes + tokenburst::threads - 1) / tokenburst::threads;
  const bool aligned = reinterpret_cast<uintptr_t>(p->adjacency) % 16 == 0 && p->ranks % 4 == 0 &&
                       p->group_stride % 4 == 0 && p->token_stride % 4 == 0;
  return tokenburst::launch(tokenburst::update_kernel, dim3(tiles), dim3(tokenburst::threads), 0,
                            stream, *p, aligned);
}
