// Two kernels. The first gives tiles to warps and reads the row once: best logit and sum of each
// tile (tile.h), a lane per column. The second gives a row to a block: masses of the tiles, then
// one warp makes the draws: scans over bunches of tiles, over the tiles of one, over the lanes of
// one tile.
#include "common/cuda.cuh"
#include "vocab/drawn.h"

namespace tokenburst {
namespace {

using Word = unsigned long long;

constexpr int threads = 256, warps = threads / 32;
constexpr int part = 16;   // tiles of a block
constexpr int bunch = 32;  // tiles that a draw passes at a time
constexpr int max_bunches = max_weighed_vocab / (tile_size * bunch);
constexpr int per_lane = tile_size / 32;
static_assert(tile_columns == 32, "a lane per column");

__device__ float minus_infinity() { return from_bits(0xff800000u); }

struct TileRecord {
  float most, sum;
  Word mass;  // greedy: key of its best token that is not written yet, 0 = none
};
static_assert(sizeof(TileRecord) == vocab_sample_tile_bytes);

__device__ float inverse_of(const VocabSampleParams& p, int64_t n) {  // 0: greedy
  const float t = p.temperature[n];
  return t > 0.0f ? inverse_temperature(t) : 0.0f;
}
__device__ Word warp_total(Word x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(full_warp, x, offset);
  return x;
}
__device__ Word warp_best(Word x) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const Word other = __shfl_xor_sync(full_warp, x, offset);
    x = other > x ? other : x;
  }
  return x;
}

// Tile `index` of a row; all lanes of a warp call everything together.
template <class T>
struct TileView {
  const T* data;
  int64_t vocab;
  int64_t first;
  __device__ TileView(const T* row, int64_t length, int64_t index)
      : data(row), vocab(length), first(index * tile_size) {}
  __device__ float logit(int64_t x) const {
    return x < vocab ? clean_logit(widen(data[x])) : minus_infinity();
  }
  __device__ void load(float (&l)[per_lane]) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < per_lane; ++i) l[i] = logit(first + i * 32 + lane);
  }
  __device__ static float most_of(const float (&l)[per_lane]) {
    float most = l[0];
#pragma unroll
    for (int i = 1; i < per_lane; ++i) most = fmaxf(most, l[i]);
    return warp_max(most);
  }
  __device__ static float sum_of(const float (&l)[per_lane], const Tile& tile) {
    float sum = 0.0f;
    if (tile.counts()) {
#pragma unroll
      for (int i = 0; i < per_lane; ++i) sum += tile.term(l[i]);
    }
    return warp_sum(sum);
  }
  // The best key below a bound, 0 = none.
  __device__ Word best(Word bound) const {
    Word most = 0;
    for (int i = 0; i < per_lane; ++i) {
      const int64_t x = first + i * 32 + threadIdx.x % 32;
      const float l = logit(x);
      const Word mine = l == minus_infinity() ? 0 : rank_key(l, static_cast<uint32_t>(x));
      most = mine < bound && mine > most ? mine : most;
    }
    return warp_best(most);
  }
};

__device__ int64_t source_row(const VocabSampleParams& p, int64_t n) {  // -1 = none
  const int64_t r = p.rows.present() ? p.rows[n] : n;
  return 0 <= r && r < p.num_rows ? r : -1;
}
template <class T>
__device__ const T* row_of(const VocabSampleParams& p, int64_t r) {
  return static_cast<const T*>(p.logits) + r / p.row_length * p.outer_stride +
         r % p.row_length * p.row_stride;
}

template <class T>
__global__ void __launch_bounds__(threads) tile_kernel(VocabSampleParams p) {
  const int64_t tiles = vocab_sample_tiles(p.vocab), parts = (tiles + part - 1) / part;
  const int64_t n = blockIdx.x / parts, r = source_row(p, n);
  if (r < 0) return;
  const float inv_t = inverse_of(p, n);
  const Scale scale = Scale::of(inv_t);
  auto* records = static_cast<TileRecord*>(p.workspace) + n * tiles;
  for (int i = threadIdx.x / 32; i < part; i += warps) {
    const int64_t index = blockIdx.x % parts * part + i;
    if (index >= tiles) return;
    const TileView<T> view(row_of<T>(p, r), p.vocab, index);
    float l[per_lane];
    view.load(l);
    TileRecord record{view.most_of(l), 0.0f, 0};
    if (inv_t > 0.0f) {
      record.sum = view.sum_of(l, Tile(scale, record.most));
    } else {
      record.mass = view.best(~Word{0});
    }
    if (threadIdx.x % 32 == 0) records[index] = record;
  }
}

struct Shared {
  float most[warps];
  Word many[max_bunches];
  int64_t removed[vocab_sample_max_k];
};

// The row as its one drawing warp sees it; all lanes call everything together.
template <class T>
struct Row {
  const T* data;
  int64_t vocab, tiles;
  TileRecord* records;
  RowLaw law;
  Shared& s;
  int num_removed;

  __device__ float logit(int64_t x) const { return clean_logit(widen(data[x])); }
  __device__ Word weight_of(int64_t x) const {
    return static_cast<Word>(weight(exp_fast((logit(x) - law.most) * law.inv_t)));
  }
  // Place of the target in a running sum over the lanes' values; what lies before it leaves it.
  __device__ static int scan(Word value, Word& target) {
    const int lane = threadIdx.x % 32;
    Word upto = value;
    for (int offset = 1; offset < 32; offset *= 2) {
      const Word lower = __shfl_up_sync(full_warp, upto, offset);
      if (lane >= offset) upto += lower;
    }
    const unsigned beyond = __ballot_sync(full_warp, upto > target);
    const int at = beyond ? __ffs(static_cast<int>(beyond)) - 1 : 32;
    const Word before = __shfl_sync(full_warp, upto - value, at & 31);
    const Word all = __shfl_sync(full_warp, upto, 31);
    target -= at < 32 ? before : all;
    return at;
  }
  __device__ Found find(Word target) const {
    const int lane = threadIdx.x % 32;
    int64_t tile = 0;
    const int64_t bunches = (tiles + bunch - 1) / bunch;
    for (int64_t b = 0; b < bunches; b += 32) {
      const int at = scan(b + lane < bunches ? s.many[b + lane] : 0, target);
      tile = (b + (at < 32 ? at : 0)) * bunch;
      if (at < 32) break;
    }
    const int within = scan(tile + lane < tiles ? records[tile + lane].mass : 0, target);
    tile += within < 32 ? within : 0;
    const Word mass = records[tile].mass;

    const int64_t first = tile * tile_size + lane * per_lane;
    unsigned gone = 0;
    for (int i = 0; i < num_removed; ++i) {
      const int64_t x = s.removed[i] - first;
      if (0 <= x && x < per_lane) gone |= 1u << x;
    }
    const auto weight_at = [&](int i) -> Word {
      return first + i >= vocab || (gone >> i & 1u) ? 0 : weight_of(first + i);
    };
    Word mine = 0;
    for (int i = 0; i < per_lane; ++i) mine += weight_at(i);
    const Word weights = warp_total(mine);
    Word place = place_in_tile(target, mass, weights);
    const int owner = scan(mine, place) & 31;
    int at = 0;
    Word token = 0;
    if (lane == owner) {
      for (token = weight_at(0); token <= place && at + 1 < per_lane; token = weight_at(++at)) {
        place -= token;
      }
    }
    at = __shfl_sync(full_warp, at, owner);
    token = __shfl_sync(full_warp, token, owner);
    const int64_t id = tile * tile_size + owner * per_lane + at;
    return {id < vocab ? id : vocab - 1, mass - mass_without(mass, weights, token)};
  }
  __device__ void remove(const Found& found) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      records[found.id / tile_size].mass -= found.mass;
      s.many[found.id / (tile_size * bunch)] -= found.mass;
      s.removed[num_removed] = found.id;
    }
    __syncwarp();
    ++num_removed;
  }
};

// The k best tokens, by one warp: the tile with the best one names its next.
template <class T>
__device__ void write_best(const VocabSampleParams& p, int64_t n, const T* data, int64_t tiles,
                           TileRecord* records) {
  const int lane = threadIdx.x % 32;
  for (int64_t i = 0; i < p.k; ++i) {
    Word most = 0;
    for (int64_t tile = lane; tile < tiles; tile += 32) {
      most = records[tile].mass > most ? records[tile].mass : most;
    }
    most = warp_best(most);
    if (most == 0) {
      if (lane == 0) write_none(p, n, i);
      return;
    }
    const int64_t id = rank_id(most);
    if (lane == 0) write_ranked(p, n, i, id);
    if (p.replacement) continue;
    const Word next = TileView<T>(data, p.vocab, id / tile_size).best(most);
    __syncwarp();
    if (lane == 0) records[id / tile_size].mass = next;
    __syncwarp();
  }
}

template <class T>
__global__ void __launch_bounds__(threads) draw_kernel(VocabSampleParams p) {
  __shared__ Shared shared;
  const int64_t n = blockIdx.x, r = source_row(p, n), tiles = vocab_sample_tiles(p.vocab);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool leader = threadIdx.x == 0;
  auto* records = static_cast<TileRecord*>(p.workspace) + n * tiles;
  float most = minus_infinity();
  for (int64_t i = threadIdx.x; r >= 0 && i < tiles; i += threads) {
    most = fmaxf(most, records[i].most);
  }
  most = warp_max(most);
  if (lane == 0) shared.most[warp] = most;
  __syncthreads();
  for (int w = 0; w < warps; ++w) most = fmaxf(most, shared.most[w]);
  if (most == minus_infinity()) {
    if (leader) {
      p.lse[n] = minus_infinity();
      write_none(p, n, 0);
    }
    return;
  }
  const T* data = row_of<T>(p, r);
  Row<T> row{data, p.vocab, tiles, records, {most, inverse_of(p, n), 0.0f, 0}, shared, 0};
  if (row.law.inv_t == 0.0f) {
    if (leader) p.lse[n] = row.law.lse();
    if (warp == 0) write_best(p, n, data, tiles, records);
    return;
  }
  Scale scale = Scale::of(row.law.inv_t);
  const bool far = !scale.fits(most);
  if (far) scale.shift = most;
  const float exponent = scale.exponent(most);
  row.law.best = fused(most - scale.shift, scale.rate, -exponent);
  const int64_t bunches = (tiles + bunch - 1) / bunch;
  for (int64_t b = warp; b < bunches; b += warps) {
    const int64_t i = b * bunch + lane;
    for (int j = 0; far && j < bunch && b * bunch + j < tiles; ++j) {
      const TileView<T> view(data, p.vocab, b * bunch + j);
      float l[per_lane];
      view.load(l);
      const float sum = view.sum_of(l, Tile(scale, records[b * bunch + j].most));
      if (lane == j) records[i].sum = sum;
    }
    Word mass = 0;
    if (i < tiles) {
      const TileRecord& tile = records[i];
      mass = tile_mass(tile.sum, scale.exponent(tile.most) - exponent,
                       (tile.most - most) * row.law.inv_t);
      records[i].mass = mass;
    }
    mass = warp_total(mass);
    if (lane == 0) shared.many[b] = mass;
  }
  __syncthreads();
  if (warp > 0) return;
  Word total = 0;
  for (int64_t b = lane; b < bunches; b += 32) total += shared.many[b];
  row.law.total = warp_total(total);
  if (leader) p.lse[n] = row.law.lse();
  write_draws(p, n, row.law, row, leader);
}

template <class T>
int run(const VocabSampleParams& p, void* stream) {
  const int64_t parts = (vocab_sample_tiles(p.vocab) + part - 1) / part;
  const int failed = launch(tile_kernel<T>, dim3(static_cast<unsigned>(p.count * parts)),
                            dim3(threads), 0, stream, p);
  if (failed) return failed;
  return launch(draw_kernel<T>, dim3(static_cast<unsigned>(p.count)), dim3(threads), 0, stream, p);
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
