// One block per row: its maximum, then the weights of up to 1024 tiles relative to it. One warp
// makes the draws: a scan over the tiles, a scan inside one of them.
#include "common/cuda.cuh"
#include "vocab/drawn.h"

namespace tokenburst {
namespace {

using Word = unsigned long long;

constexpr int threads = 512, warps = threads / 32;
constexpr int max_tiles = 1024;

__device__ float minus_infinity() { return from_bits(0xff800000u); }

struct Shared {
  Word best[warps];
  Word tile[max_tiles];
  int64_t removed[vocab_sample_max_k];
};

// The row as its one drawing warp sees it; all lanes call everything together.
template <class T>
struct Row {
  const T* data;
  int64_t vocab, tile_size;
  int tiles;
  RowLaw law;
  Shared& s;
  int num_removed;

  __device__ float logit(int64_t x) const { return clean_logit(widen(data[x])); }
  __device__ Word mass(int64_t x) const {
    return static_cast<Word>(weight(exp_fast((logit(x) - law.most) * law.inv_t)));
  }
  // Place of the target in a running sum over 32 values: the lane, and the sum before it.
  __device__ static int scan(Word value, Word target, Word& before) {
    const int lane = threadIdx.x % 32;
    Word upto = value;
    for (int offset = 1; offset < 32; offset *= 2) {
      const Word lower = __shfl_up_sync(full_warp, upto, offset);
      if (lane >= offset) upto += lower;
    }
    const unsigned beyond = __ballot_sync(full_warp, before + upto > target);
    const int at = beyond ? __ffs(static_cast<int>(beyond)) - 1 : 32;
    const Word skipped = __shfl_sync(full_warp, at < 32 ? upto - value : upto, at & 31);
    before += at < 32 ? skipped : __shfl_sync(full_warp, upto, 31);
    return at;
  }
  __device__ int64_t find(Word target) const {
    const int lane = threadIdx.x % 32;
    Word before = 0;
    int64_t tile = 0;
    for (;; tile += 32) {
      const int at = scan(tile + lane < tiles ? s.tile[tile + lane] : 0, target, before);
      tile += at < 32 ? at : 0;
      if (at < 32 || tile + 32 >= tiles) break;
    }
    for (int64_t first = tile * tile_size;; first += 32) {
      const int64_t x = first + lane;
      Word value = x < vocab ? mass(x) : 0;
      for (int i = 0; i < num_removed; ++i) value = s.removed[i] == x ? 0 : value;
      const int at = scan(value, target, before);
      if (at < 32) return first + at;
      if (first + 32 >= vocab) return vocab - 1;
    }
  }
  __device__ void remove(int64_t x, Word mass) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      s.tile[x / tile_size] -= mass;
      s.removed[num_removed] = x;
    }
    __syncwarp();
    ++num_removed;
  }
};

// The largest key, in every thread.
template <class F>
__device__ Word largest(int64_t vocab, Shared& s, F key) {
  Word most = 0;
  for (int64_t x = threadIdx.x; x < vocab; x += threads) {
    const Word mine = key(x);
    most = mine > most ? mine : most;
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    const Word other = __shfl_xor_sync(full_warp, most, offset);
    most = other > most ? other : most;
  }
  if (threadIdx.x % 32 == 0) s.best[threadIdx.x / 32] = most;
  __syncthreads();
  for (int w = 0; w < warps; ++w) most = s.best[w] > most ? s.best[w] : most;
  __syncthreads();
  return most;
}

template <class T>
__global__ void __launch_bounds__(threads) sample_kernel(VocabSampleParams p) {
  __shared__ Shared shared;
  const int64_t n = blockIdx.x, given = p.rows.present() ? p.rows[n] : n;
  const int64_t r = 0 <= given && given < p.num_rows ? given : -1;
  const bool leader = threadIdx.x == 0;
  const T* data = static_cast<const T*>(p.logits);
  if (r >= 0) data += r / p.row_length * p.outer_stride + r % p.row_length * p.row_stride;
  const int64_t vocab = r < 0 ? 0 : p.vocab;
  const auto key_of = [&](int64_t x) -> Word {
    const float l = clean_logit(widen(data[x]));
    return l == minus_infinity() ? 0 : rank_key(l, static_cast<uint32_t>(x));
  };
  Word key = largest(vocab, shared, key_of);
  if (key == 0) {
    if (leader) {
      p.lse[n] = minus_infinity();
      write_none(p, n, 0);
    }
    return;
  }
  const float t = p.temperature[n];
  Row<T> row{data, vocab, 0, 0, {}, shared, 0};
  row.law = {row.logit(rank_id(key)), t > 0.0f ? inverse_temperature(t) : 0.0f, 0};

  if (row.law.inv_t == 0.0f) {
    if (leader) p.lse[n] = row.law.lse();
    for (int64_t i = 0; i < p.k; ++i) {
      if (key == 0) {
        if (leader) write_none(p, n, i);
        return;
      }
      if (leader) write_ranked(p, n, i, rank_id(key));
      const Word bound = key;
      if (!p.replacement) {
        key = largest(vocab, shared, [&](int64_t x) -> Word {
          const Word mine = key_of(x);
          return mine < bound ? mine : 0;
        });
      }
    }
    return;
  }
  row.tile_size = ((vocab + max_tiles - 1) / max_tiles + 31) / 32 * 32;
  row.tiles = static_cast<int>((vocab + row.tile_size - 1) / row.tile_size);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = warp; i < row.tiles; i += warps) {
    Word sum = 0;
    const int64_t end = (i + 1) * row.tile_size < vocab ? (i + 1) * row.tile_size : vocab;
    for (int64_t x = i * row.tile_size + lane; x < end; x += 32) sum += row.mass(x);
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(full_warp, sum, offset);
    if (lane == 0) shared.tile[i] = sum;
  }
  __syncthreads();
  if (warp > 0) return;
  Word total = 0;
  for (int i = lane; i < row.tiles; i += 32) total += shared.tile[i];
  for (int offset = 16; offset > 0; offset /= 2) {
    total += __shfl_xor_sync(full_warp, total, offset);
  }
  row.law.total = total;
  if (leader) p.lse[n] = row.law.lse();
  write_draws(p, n, row.law, row, leader);
}

template <class T>
int run(const VocabSampleParams& p, void* stream) {
  return launch(sample_kernel<T>, dim3(static_cast<unsigned>(p.count)), dim3(threads), 0, stream,
                p);
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_vocab_sample_cuda(const tokenburst::VocabSampleParams* p, void* stream) {
  switch (p->dtype) {
    case tokenburst::DType::f16:
      return tokenburst::run<__half>(*p, stream);
    case tokenburst::DType::bf16:
      return tokenburst::run<__nv_bfloat16>(*p, stream);
    default:
      return tokenburst::run<float>(*p, stream);
  }
}
