// Two kernels. The first gives each chunk of a row to one block: every thread sums e^x and e^x x of
// its logits against a base of its own and keeps its largest logit, from which the chunk's top-k
// follows (top_cuda.cuh). The second kernel merges the chunks of a row. Which thread sums what, and
// in which order, follows from V alone.
#include "common/cuda.cuh"
#include "common/philox.h"
#include "vocab/top_cuda.cuh"
#include "vocab/vocab_stats.h"

namespace tokenburst {
namespace {

constexpr float log2e = 1.442695041f;
constexpr float headroom = 16.0f;  // how far logits may rise above the base of the sums

struct Part {  // as vocab_stats_cuda_part counts it; kept keys follow
  float base, sum, weighted;
  int n_nan;
  Key draw;
};
__device__ Part* part_of(const VocabStatsParams& p, int64_t index) {
  return reinterpret_cast<Part*>(static_cast<uint8_t*>(p.workspace) +
                                 index * vocab_stats_cuda_part(p.k));
}
__device__ Key* keys_of(Part* part) { return reinterpret_cast<Key*>(part + 1); }

__device__ int64_t source_row(const VocabStatsParams& p, int64_t n) {  // -1 = none
  if (!p.rows.present()) return n;
  const int64_t r = p.rows[n];
  return r < p.num_rows ? r : -1;
}
template <class T>
__device__ const T* row_of(const VocabStatsParams& p, int64_t r) {
  return static_cast<const T*>(p.logits) + r / p.row_length * p.outer_stride +
         r % p.row_length * p.row_stride;
}

struct Sums {
  float base, sum, weighted;
  __device__ void rise_to(float higher) {
    const float scale = exp2_approx((base - higher) * log2e);  // 0 from -inf
    weighted = scale > 0.0f ? scale * fused(base - higher, sum, weighted) : 0.0f;
    sum = scale > 0.0f ? scale * sum : 0.0f;
    base = higher;
  }
};

struct Own {  // what one thread knows of its logits
  Sums sums;
  float best;
  int best_at, n_nan;
};

// The plain sweep leaves NaN in the sums where a logit is NaN or +inf; the careful one cleans
// first.
template <bool careful, class T>
__device__ Own sweep(const Chunk<T>& chunk) {
  Own own{{minus_infinity(), 0.0f, 0.0f}, minus_infinity(), 0, 0};
  chunk.for_each([&](int at, float (&l)[width]) {
    if (careful) {
#pragma unroll
      for (int j = 0; j < width; ++j) {
        own.n_nan += l[j] != l[j];
        l[j] = chunk.clean(l[j], at + j);
      }
    }
    float most = l[0];
#pragma unroll
    for (int j = 1; j < width; ++j) most = fmaxf(most, l[j]);
    if (most > own.best) {
      own.best = most;
#pragma unroll
      for (int j = width - 1; j >= 0; --j) own.best_at = l[j] == most ? at + j : own.best_at;
    }
    if (most > own.sums.base + headroom) own.sums.rise_to(most);
    const float base = own.sums.base == minus_infinity() ? 0.0f : own.sums.base;
#pragma unroll
    for (int j = 0; j < width; ++j) {
      const float x = l[j] - base, e = exp2_approx(x * log2e);
      own.sums.sum += e;
      own.sums.weighted = fused(e, fmaxf(x, -88.0f), own.sums.weighted);
    }
  });
  return own;
}

// Gumbel-max over the thread's logits; returns its best score. The warp's best so far tells,
// without a logarithm, which words cannot win; that changes what is computed, never what comes out.
template <class T>
__device__ Key draw(const Chunk<T>& chunk, float inv_t, const VocabStatsParams& p, int64_t n) {
  const auto seed = static_cast<uint64_t>(p.rng[n * 4]);
  const auto sequence = static_cast<uint32_t>(p.rng[n * 4 + 1]);
  const auto step = static_cast<uint32_t>(p.rng[n * 4 + 2]);
  const auto position = static_cast<uint32_t>(p.rng[n * 4 + 3]);
  float score = minus_infinity(), bar = minus_infinity();
  int token_at = 0;
  chunk.for_each([&](int at, float (&l)[width]) {
#pragma unroll
    for (int j = 0; j < width; ++j) l[j] = chunk.clean(l[j], at + j);
#pragma unroll
    for (int half = 0; half < width; half += 4) {
      const float most = fmaxf(fmaxf(l[half], l[half + 1]), fmaxf(l[half + 2], l[half + 3]));
      const float slack = 1e-2f + 1e-6f * (fabsf(most * inv_t) + fabsf(bar));
      const bool hopeless =
          most == minus_infinity() || fused(most, inv_t, max_gumbel + slack) < bar;
      if (!hopeless) {
        const auto counter = static_cast<uint32_t>((chunk.first_id + at + half) / 4);
        const Philox4 random = philox(seed, counter, position, step, sequence);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          // -ln U >= v, so a Gumbel value is at most -ln v.
          const float v = static_cast<float>(random.word[j]) * 2.3283064365386963e-10f;
          const float reach = exp2_approx((fused(l[half + j], inv_t, -bar) + slack) * log2e);
          if (v > reach || l[half + j] == minus_infinity()) continue;
          const float noisy = fused(l[half + j], inv_t, gumbel(random.word[j]));
          const float bounded = fmaxf(fminf(noisy, largest), -largest);
          if (bounded > score) {
            score = bounded;
            token_at = at + half + j;
          }
        }
      }
    }
    bar = unordered(__reduce_max_sync(full_warp, ordered(score)));
  });
  return score == minus_infinity() ? 0 : key_of(score, chunk.first_id + token_at);
}

template <class T>
__global__ void __launch_bounds__(threads, 2) chunk_kernel(VocabStatsParams p) {
  __shared__ unsigned mask[mask_words];
  __shared__ float warp_base[warps], warp_sums[warps][2];
  __shared__ int warp_nan[warps];
  __shared__ Key warp_draw[warps];
  __shared__ Found found;
  TB_DYNAMIC_SHARED(Key, pool);  // of best_of_chunk

  const int64_t size = vocab_cuda_chunk(p.vocab);
  const int64_t splits = vocab_chunks(p.vocab, size);
  const int64_t n = blockIdx.x / splits, split = blockIdx.x % splits, r = source_row(p, n);
  if (r < 0) return;  // the whole block
  const int kept = static_cast<int>(vocab_stats_kept(p.k));
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;

  Chunk<T> chunk;
  chunk.first_id = split * size;
  chunk.logits = row_of<T>(p, r) + chunk.first_id;
  chunk.length =
      static_cast<int>(p.vocab - chunk.first_id < size ? p.vocab - chunk.first_id : size);
  chunk.aligned = reinterpret_cast<uintptr_t>(chunk.logits) % 16 == 0;
  chunk.suppress = nullptr;
  if (p.num_suppress > 0) {
    for (int w = thread; w < mask_words; w += threads) mask[w] = 0;
    __syncthreads();
    int here = 0;
    for (int64_t i = thread; i < p.num_suppress; i += threads) {
      const int64_t at = p.suppress[i] - chunk.first_id;
      if (at < 0 || at >= chunk.length) continue;
      atomicOr(&mask[at / 32], 1u << (at % 32));
      here = 1;
    }
    if (__syncthreads_or(here)) chunk.suppress = mask;
  }

  Own own = chunk.suppress ? sweep<true>(chunk) : sweep<false>(chunk);
  if (!(fabsf(own.sums.weighted) <= largest && own.sums.sum <= largest)) own = sweep<true>(chunk);

  // Sums: one base for the block, then butterflies, then the warps in order.
  float base = warp_max(own.sums.base);
  if (lane == 0) warp_base[warp] = base;
  __syncthreads();
  for (int w = 0; w < warps; ++w) base = fmaxf(base, warp_base[w]);
  if (own.sums.base > minus_infinity()) own.sums.rise_to(base);
  const float sum = warp_sum(own.sums.sum), weighted = warp_sum(own.sums.weighted);
  const int n_nan = __reduce_add_sync(full_warp, own.n_nan);
  if (lane == 0) {
    warp_sums[warp][0] = sum;
    warp_sums[warp][1] = weighted;
    warp_nan[warp] = n_nan;
  }

  const float temperature = p.temperature ? p.temperature[n] : 0.0f;
  Key drawn = 0;
  if (temperature > 0.0f) drawn = draw(chunk, fminf(1.0f / temperature, largest), p, n);
  drawn = warp_best(drawn);
  if (lane == 0) warp_draw[warp] = drawn;

  const Key mine =
      own.best == minus_infinity() ? 0 : key_of(own.best, chunk.first_id + own.best_at);
  Part* part = part_of(p, blockIdx.x);
  best_of_chunk(chunk, mine, kept, pool, found, keys_of(part));

  if (thread == 0) {
    Part all{base, 0.0f, 0.0f, 0, 0};
    for (int w = 0; w < warps; ++w) {
      all.sum += warp_sums[w][0];
      all.weighted += warp_sums[w][1];
      all.n_nan += warp_nan[w];
      all.draw = warp_draw[w] > all.draw ? warp_draw[w] : all.draw;
    }
    *part = all;
  }
}

__device__ double warp_sum_double(double x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(full_warp, x, offset);
  return x;
}

template <class T>
__global__ void __launch_bounds__(merge_threads) merge_kernel(VocabStatsParams p) {
  __shared__ Key top[vocab_stats_max_k], staged[max_staged];
  const int64_t n = blockIdx.x, r = source_row(p, n);
  const int64_t splits = vocab_chunks(p.vocab, vocab_cuda_chunk(p.vocab));
  const int64_t kept = vocab_stats_kept(p.k);
  const int thread = threadIdx.x;

  for (int i = thread; i < vocab_stats_max_k; i += merge_threads) top[i] = 0;
  merge_lists(
      r < 0 ? 0 : static_cast<int>(splits), static_cast<int>(kept),
      [&](int64_t c) { return keys_of(part_of(p, n * splits + c)); }, staged, top);
  __syncthreads();
  for (int64_t i = thread; i < p.k; i += merge_threads) {
    p.ids[n * p.k + i] = top[i] ? id_of(top[i]) : -1;
    p.values[n * p.k + i] = top[i] ? value_of(top[i]) : minus_infinity();
  }
  if (thread >= 32) return;

  float base = minus_infinity();
  Key drawn = 0;
  int n_nan = 0;
  for (int64_t c = thread; r >= 0 && c < splits; c += 32) {
    const Part* part = part_of(p, n * splits + c);
    base = fmaxf(base, part->base);
    drawn = part->draw > drawn ? part->draw : drawn;
    n_nan += part->n_nan;
  }
  base = warp_max(base);
  drawn = warp_best(drawn);
  n_nan = __reduce_add_sync(full_warp, n_nan);
  double sum = 0.0, weighted = 0.0;
  for (int64_t c = thread; r >= 0 && c < splits; c += 32) {
    const Part* part = part_of(p, n * splits + c);
    if (part->base == minus_infinity()) continue;
    const double shift = static_cast<double>(part->base) - base, scale = exp(shift);
    sum += scale * part->sum;
    if (scale > 0.0) weighted += scale * (part->weighted + shift * part->sum);
  }
  sum = warp_sum_double(sum);
  weighted = warp_sum_double(weighted);

  // Lanes 0, 1 and 2 form the probability of the chosen, the best and the second token.
  const bool none = top[0] == 0;
  const int64_t token = none ? -1 : id_of(drawn ? drawn : top[0]);
  float logit = minus_infinity();
  if (!none && thread == 0) logit = fminf(widen(row_of<T>(p, r)[token]), largest);
  if (thread == 1 || thread == 2) logit = top[thread - 1] ? value_of(top[thread - 1]) : logit;
  const double p_lane =
      logit == minus_infinity() ? 0.0 : exp(static_cast<double>(logit) - base) / sum;
  const double first = __shfl_sync(full_warp, p_lane, 1);
  const double second = __shfl_sync(full_warp, p_lane, 2);
  if (thread != 0) return;

  const double log_sum = log(sum), entropy = log_sum - weighted / sum;
  p.n_nan[n] = n_nan;
  p.token[n] = token;
  p.lse[n] = none ? minus_infinity() : static_cast<float>(base + log_sum);
  p.confidence[n] = static_cast<float>(p_lane);
  p.margin[n] = static_cast<float>(first - second);
  p.entropy[n] = entropy > 0.0 ? static_cast<float>(entropy) : 0.0f;
}

template <class T>
int run(const VocabStatsParams& p, void* stream) {
  const int64_t size = vocab_cuda_chunk(p.vocab), kept = vocab_stats_kept(p.k);
  const int64_t blocks = p.count * vocab_chunks(p.vocab, size);
  const size_t pool = best_of_chunk_shared(p.vocab, kept);
  const int error =
      launch(chunk_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(threads), pool, stream, p);
  if (error != 0) return error;
  return launch(merge_kernel<T>, dim3(static_cast<unsigned>(p.count)), dim3(merge_threads), 0,
                stream, p);
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_vocab_stats_cuda(const tokenburst::VocabStatsParams* p, void* stream) {
  switch (p->dtype) {
    case tokenburst::DType::f16:
      return tokenburst::run<__half>(*p, stream);
    case tokenburst::DType::bf16:
      return tokenburst::run<__nv_bfloat16>(*p, stream);
    default:
      return tokenburst::run<float>(*p, stream);
  }
}
