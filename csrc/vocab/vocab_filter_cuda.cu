// One block per row. Every pass reads the row again, which the L2 cache holds, and applies
// guidance, biases and suppression on the way, so no copy of the row is made. Sums that decide are
// integers; the others have a fixed order.
#include "common/cuda.cuh"
#include "vocab/vocab_filter.h"

namespace tokenburst {
namespace {

constexpr int threads = 512, warps = threads / 32;
using Wide = unsigned long long;

__global__ void mark_kernel(VocabFilterParams p) {  // one block
  for (int64_t w = threadIdx.x; w < (p.vocab + 31) / 32; w += blockDim.x) p.special[w] = 0;
  __syncthreads();
  const Ints lists[] = {p.suppress, p.bias_ids, p.unranked};
  const int64_t sizes[] = {p.num_suppress, p.num_bias, p.num_unranked};
  for (int l = 0; l < 3; ++l) {
    for (int64_t i = threadIdx.x; i < sizes[l]; i += blockDim.x) {
      const int64_t id = lists[l][i];
      if (0 <= id && id < p.vocab) atomicOr(&p.special[id / 32], 1u << (id % 32));
    }
  }
}

template <class T>
struct Row {
  const VocabFilterParams& p;
  FilterRow ask;
  const T *l, *u;

  __device__ float logit(int64_t id) const {
    return filter_logit(p, ask, id, widen(l[id]), u ? widen(u[id]) : 0.0f);
  }
  // f(id, logit) for the ids of this thread that may be chosen.
  template <class F>
  __device__ void for_each(F f) const {
    for (int64_t id = threadIdx.x; id < p.vocab; id += threads) {
      const float value = logit(id);
      if (value != -filter_infinity()) f(id, value);
    }
  }
};

__device__ Wide key_of(float value, int64_t id) {
  return static_cast<Wide>(filter_word(value)) << 32 | (0xffffffffu - static_cast<unsigned>(id));
}
__device__ int64_t id_of(Wide key) { return 0xffffffffu - static_cast<unsigned>(key); }
__device__ float value_of(Wide key) {
  const auto word = static_cast<unsigned>(key >> 32);
  return word == 0 ? -filter_infinity() : filter_value(word);
}

// The two largest keys of the block, 0 = none, for every thread.
struct Two {
  Wide first, second;
  __device__ void add(Wide key) {
    if (key > first) {
      second = first;
      first = key;
    } else if (key > second) {
      second = key;
    }
  }
};
__device__ Two block_best(Two mine) {
  __shared__ Wide pool[2 * threads];
  pool[2 * threadIdx.x] = mine.first;
  pool[2 * threadIdx.x + 1] = mine.second;
  __syncthreads();
  for (int half = threads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      Two best{pool[2 * threadIdx.x], pool[2 * threadIdx.x + 1]};
      best.add(pool[2 * (threadIdx.x + half)]);
      best.add(pool[2 * (threadIdx.x + half) + 1]);
      pool[2 * threadIdx.x] = best.first;
      pool[2 * threadIdx.x + 1] = best.second;
    }
    __syncthreads();
  }
  const Two best{pool[0], pool[1]};
  __syncthreads();
  return best;
}

__device__ double block_sum(double mine) {
  __shared__ double parts[warps];
  for (int offset = 16; offset > 0; offset /= 2) mine += __shfl_xor_sync(full_warp, mine, offset);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = mine;
  __syncthreads();
  double sum = 0.0;
  for (int w = 0; w < warps; ++w) sum += parts[w];
  __syncthreads();
  return sum;
}

__device__ Wide block_total(Wide mine) {
  __shared__ Wide total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  if (mine > 0) atomicAdd(&total, mine);
  __syncthreads();
  const Wide sum = total;
  __syncthreads();
  return sum;
}

// f(id, logit, key, amount): the first key from the top that brings the sum of amounts beyond
// `limit`.
template <class T, class F>
__device__ FilterFound search(const Row<T>& row, uint64_t limit, F f) {
  __shared__ Wide bins[filter_bins], shared_above;
  __shared__ int shared_digit;
  FilterFound found{true, 0, 0};
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < filter_bins; i += threads) bins[i] = 0;
    __syncthreads();
    const uint32_t known = shift == 24 ? 0 : ~0u << (shift + 8);
    row.for_each([&](int64_t id, float value) {
      uint32_t key = 0;
      Wide amount = 0;
      f(id, value, key, amount);
      if (amount > 0 && (key & known) == (found.key & known)) {
        atomicAdd(&bins[key >> shift & 255], amount);
      }
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      uint64_t above = found.above;
      shared_digit = filter_digit(bins, limit, above);
      shared_above = above;
    }
    __syncthreads();
    const int digit = shared_digit;
    found.above = shared_above;
    __syncthreads();
    if (digit < 0) return {false, 0, 0};
    found.key |= static_cast<uint32_t>(digit) << shift;
  }
  return found;
}

template <class T>
__device__ FilterCut top_k_cut(const Row<T>& row) {
  const int64_t k = row.p.top_k.present() ? row.p.top_k[row.ask.n] : 0;
  if (k < 1) return filter_all;
  const FilterFound found = search(row, static_cast<uint64_t>(k - 1),
                                   [&](int64_t, float value, uint32_t& key, Wide& amount) {
                                     key = filter_word(filter_scaled(row.ask, value));
                                     amount = 1;
                                   });
  return found.found ? FilterCut{found.key, 0xffffffffu} : filter_all;
}

template <class T>
__device__ FilterCut top_p_cut(const Row<T>& row, float best) {
  const float top_p = row.p.top_p ? row.p.top_p[row.ask.n] : 1.0f;
  if (!(top_p > 0.0f && top_p < 1.0f)) return filter_all;
  Wide mine = 0;
  row.for_each(
      [&](int64_t, float value) { mine += filter_mass(filter_scaled(row.ask, value), best); });
  const Wide total = block_total(mine);
  const auto limit = static_cast<uint64_t>(static_cast<double>(top_p) * total);
  const FilterFound at = search(row, limit, [&](int64_t, float value, uint32_t& key, Wide& amount) {
    const float scaled = filter_scaled(row.ask, value);
    key = filter_word(scaled);
    amount = filter_mass(scaled, best);
  });
  if (!at.found) return filter_all;
  // Of ids with this word the first ones, up to the one that crosses: larger keys, lower ids.
  const FilterFound last =
      search(row, limit - at.above, [&](int64_t id, float value, uint32_t& key, Wide& amount) {
        const float scaled = filter_scaled(row.ask, value);
        key = ~static_cast<uint32_t>(id);
        amount = filter_word(scaled) == at.key ? filter_mass(scaled, best) : 0;
      });
  return {at.key, last.found ? ~last.key : 0xffffffffu};
}

template <class T>
__device__ int64_t draw(const Row<T>& row, const FilterCut& cut) {
  Two best{0, 0};
  row.for_each([&](int64_t id, float value) {
    if (!filter_keeps(cut, filter_word(filter_scaled(row.ask, value)), id)) return;
    const Philox4 random = philox(row.ask.seed, static_cast<uint32_t>(id / 4), row.ask.position,
                                  row.ask.step, row.ask.sequence);
    const float noisy = fused(value, row.ask.inverse, gumbel(random.word[id % 4]));
    best.add(key_of(filter_bounded(noisy), id));
  });
  return id_of(block_best(best).first);
}

template <class T>
__device__ void finish(const Row<T>& row, const FilterCut& cut, int64_t token) {
  const VocabFilterParams& p = row.p;
  Two mine{0, 0};
  Wide kept = 0;
  const auto keeps = [&](int64_t id, float value) {
    return filter_keeps(cut, filter_word(filter_scaled(row.ask, value)), id);
  };
  const auto counts = [&](int64_t id, float value) {  // whether an id enters the statistics
    return filter_ranked(p, id) && (!p.tempered || keeps(id, value));
  };
  row.for_each([&](int64_t id, float value) {
    kept += keeps(id, value);
    if (counts(id, value)) mine.add(key_of(p.tempered ? filter_scaled(row.ask, value) : value, id));
  });
  const Two best = block_best(mine);
  const Wide n_kept = block_total(kept);
  const float first = value_of(best.first);
  double others = 0.0, weighted = 0.0;
  row.for_each([&](int64_t id, float value) {
    if (id == token || !counts(id, value)) return;
    const float x = (p.tempered ? filter_scaled(row.ask, value) : value) - first;
    const float e = exp_fast(x);
    if (e == 0.0f) return;
    others += e;
    weighted += static_cast<double>(e) * x;
  });
  others = block_sum(others);
  weighted = block_sum(weighted);
  if (threadIdx.x != 0) return;
  float own = -filter_infinity();
  const float value = row.logit(token);
  if (counts(token, value)) own = p.tempered ? filter_scaled(row.ask, value) : value;
  p.n_kept[row.ask.n] = static_cast<int32_t>(n_kept);
  filter_finish(p, row.ask.n, {first, value_of(best.second), own, others, weighted});
}

template <class T>
__global__ void __launch_bounds__(threads) filter_kernel(VocabFilterParams p) {
  const int64_t n = blockIdx.x, r = p.rows.present() ? p.rows[n] : n;
  const float infinity = filter_infinity();
  if (threadIdx.x == 0) {
    p.token[n] = -1;
    p.gap[n] = 0.0f;
    p.n_kept[n] = p.n_nan[n] = 0;
    filter_finish(p, n, {-infinity, -infinity, -infinity, 0.0, 0.0});
  }
  if (r < 0 || r >= p.num_rows) return;  // the whole block
  const int64_t outer = r / p.row_length, inner = r % p.row_length;
  Row<T> row{p, filter_row(p, n), nullptr, nullptr};
  row.l = static_cast<const T*>(p.logits) + outer * p.outer_stride + inner * p.row_stride;
  if (p.uncond) {
    row.u = static_cast<const T*>(p.uncond) + outer * p.uncond_outer_stride +
            inner * p.uncond_row_stride;
  }
  Two mine{0, 0};
  row.for_each([&](int64_t id, float value) { mine.add(key_of(value, id)); });
  Wide nans = 0;
  for (int64_t id = threadIdx.x; id < p.vocab; id += threads) {
    const float given = widen(row.l[id]);
    nans += given != given;
  }
  nans = block_total(nans);
  if (threadIdx.x == 0) p.n_nan[n] = static_cast<int32_t>(nans);
  const Two best = block_best(mine);
  if (best.first == 0) return;
  const float top = filter_scaled(row.ask, value_of(best.first));
  const FilterCut cut = filter_stricter(top_k_cut(row), top_p_cut(row, top));
  const int64_t token = row.ask.draws ? draw(row, cut) : id_of(best.first);
  if (threadIdx.x == 0) {
    p.token[n] = token;
    p.gap[n] = value_of(best.first) - value_of(best.second);
  }
  finish(row, cut, token);
}

template <class T>
int run(const VocabFilterParams& p, void* stream) {
  if (p.special) {
    const int error = launch(mark_kernel, dim3(1), dim3(1024), 0, stream, p);
    if (error != 0) return error;
  }
  return launch(filter_kernel<T>, dim3(static_cast<unsigned>(p.count)), dim3(threads), 0, stream,
                p);
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_vocab_filter_cuda(const tokenburst::VocabFilterParams* p, void* stream) {
  switch (p->dtype) {
    case tokenburst::DType::f16:
      return tokenburst::run<__half>(*p, stream);
    case tokenburst::DType::bf16:
      return tokenburst::run<__nv_bfloat16>(*p, stream);
    default:
      return tokenburst::run<float>(*p, stream);
  }
}
