// One block per sequence runs the rules of verify.h in step; its threads share every pass over a
// row. Nothing of a row is kept: a weight is formed from its logit whenever it is asked for.
// Passes over a row are calls, so that the rules' registers do not narrow their loops.
#include "common/cuda.cuh"
#include "tree/verify.h"

namespace tokenburst {
namespace {

using Word = unsigned long long;

constexpr int max_warps = 16;
constexpr int max_tiles = 1024;  // of a row, for the inverse of its cumulative masses
constexpr int digit_bits = 11, digits = 1 << digit_bits;

__device__ float minus_infinity() { return from_bits(0xff800000u); }

struct Shared {
  Law law;
  Word reduced[max_warps];
  Word tile[max_tiles];
  Word mass[digits];
  unsigned number[digits];
  Word found;
};

struct Add {
  __device__ static Word of(Word a, Word b) { return a + b; }
};
struct Larger {
  __device__ static Word of(Word a, Word b) { return a > b ? a : b; }
};
struct Smaller {
  __device__ static Word of(Word a, Word b) { return a < b ? a : b; }
};

template <class T>
class Rows {
 public:
  __device__ Rows(const TreeVerifySampleParams& params, int64_t sequence, Shared& shared)
      : p(params), b(sequence), s(shared) {
    words = (p.vocab + 31) / 32;
    marked = p.penalty ? p.marked + b * words : nullptr;
  }

  __device__ static float load(DType dtype, const void* data, int64_t i) {  // of a draft row
    if (dtype == DType::f16) return widen(static_cast<const __half*>(data)[i]);
    if (dtype == DType::bf16) return widen(static_cast<const __nv_bfloat16*>(data)[i]);
    return static_cast<const float*>(data)[i];
  }

  __device__ Law& law() { return s.law; }
  __device__ int64_t* tried() { return p.tried + b * tried_length(p); }
  __device__ bool leader() const { return threadIdx.x == 0; }
  template <class F>
  __device__ void update(F f) {
    __syncthreads();
    if (leader()) f();
    __syncthreads();
  }
  __device__ uint64_t total() const { return total_; }
  __device__ int64_t best() const { return best_; }
  __device__ int& n_nan() { return n_nan_; }

  __device__ void start_path() {
    if (!marked) return;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < words; i += blockDim.x) {
      marked[i] = p.seen ? static_cast<uint32_t>(p.seen[b * words + i]) : 0;
    }
    __syncthreads();
  }
  __device__ void mark(int64_t token) {
    if (marked) update([&] { marked[token / 32] |= 1u << (token % 32); });
  }

  __device__ __noinline__ bool open(int64_t node) {
    logits = static_cast<const T*>(p.logits) + b * p.batch_stride + node * p.node_stride;
    Word most = 0, nans = 0;
    for (int64_t x = threadIdx.x; x < p.vocab; x += blockDim.x) {
      const float raw = widen(logits[x]);
      nans += raw != raw;
      const float l = logit(x);
      const Word key = l == minus_infinity() ? 0 : rank_key(l, static_cast<uint32_t>(x));
      most = Larger::of(most, key);
    }
    most = reduce<Larger>(most);
    n_nan_ += static_cast<int>(reduce<Add>(nans));
    if (most == 0) return false;
    best_ = id_of(most);
    most_ = logit(best_);
    const float t = p.temperature ? p.temperature[b] : 1.0f;
    greedy = !(t > 0.0f);
    if (greedy) {
      total_ = static_cast<uint64_t>(weight_unit);
      return true;
    }
    inv_t = inverse_temperature(t);
    least = 0;
    least = cut();
    total_ = over_row([&](int64_t x) { return static_cast<Word>(weight(x)); });
    return true;
  }
  __device__ __noinline__ double weight(int64_t x) const {
    if (greedy) return x == best_ ? weight_unit : 0.0;
    const float l = logit(x);
    if (rank_key(l, static_cast<uint32_t>(x)) < least) return 0.0;
    return tokenburst::weight(exp_fast((l - most_) * inv_t));
  }
  __device__ __noinline__ int64_t entropy() {
    const auto total = static_cast<double>(total_);
    return static_cast<int64_t>(
        over_row([&](int64_t x) { return static_cast<Word>(entropy_term(weight(x), total)); }));
  }
  __device__ __noinline__ uint64_t sum() {
    return over_row([&](int64_t x) { return left(x); });
  }

  __device__ static bool bound_capped(double, int, double&, double&) { return false; }

  // The token in whose share of the law `target` falls, tokens in the order of their ids: first the
  // tile, whose sum one warp forms, then the token.
  __device__ __noinline__ int64_t find(uint64_t target) {
    const int64_t size = ((p.vocab + max_tiles - 1) / max_tiles + 31) / 32 * 32;
    const int tiles = static_cast<int>((p.vocab + size - 1) / size);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int i = warp; i < tiles; i += blockDim.x / 32) {
      Word sum = 0;
      const int64_t end = (i + 1) * size < p.vocab ? (i + 1) * size : p.vocab;
      for (int64_t x = i * size + lane; x < end; x += 32) sum += left(x);
      for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(full_warp, sum, offset);
      if (lane == 0) s.tile[i] = sum;
    }
    __syncthreads();
    Word before = 0;
    int at = 0;
    while (at < tiles && before + s.tile[at] <= target) before += s.tile[at++];
    if (warp == 0) {
      Word found = static_cast<Word>(best_);
      for (int64_t first = at * size; at < tiles && first < (at + 1) * size; first += 32) {
        const int64_t x = first + lane;
        Word upto = x < p.vocab ? left(x) : 0;
        for (int offset = 1; offset < 32; offset *= 2) {
          const Word lower = __shfl_up_sync(full_warp, upto, offset);
          if (lane >= offset) upto += lower;
        }
        const unsigned beyond = __ballot_sync(full_warp, before + upto > target);
        if (beyond) {
          found = static_cast<Word>(first + __ffs(static_cast<int>(beyond)) - 1);
          break;
        }
        before += __shfl_sync(full_warp, upto, 31);
      }
      if (lane == 0) s.found = found;
    }
    __syncthreads();
    const auto found = static_cast<int64_t>(s.found);
    __syncthreads();
    return found;
  }

  __device__ int64_t find_plain(uint64_t target) { return find(target); }

  __device__ __noinline__ void open_draft(Draft& draft) {
    const int64_t row = b * p.draft_batch_stride + draft.row * p.draft_stride;
    const auto at = [&](int64_t x) {
      return clean_logit(load(p.draft_dtype, p.draft_logits, row + x));
    };
    Word most = 0;
    for (int64_t x = threadIdx.x; x < p.vocab; x += blockDim.x) {
      const float l = at(x);
      const Word key = l == minus_infinity() ? 0 : rank_key(l, static_cast<uint32_t>(x));
      most = Larger::of(most, key);
    }
    most = reduce<Larger>(most);
    if (most == 0) return;
    draft.best = id_of(most);
    draft.most = at(draft.best);
    draft.total = static_cast<double>(
        over_row([&](int64_t x) { return static_cast<Word>(draft_weight<Rows>(p, b, draft, x)); }));
  }

  // Adds to a token's masses those of its neighbours in the order of the target's probabilities.
  __device__ __noinline__ void add_group(const Draft& draft, int64_t token, double& of_target,
                                         double& of_draft) {
    const auto total = static_cast<double>(total_);
    const double mine = weight(token) / total, around = p.group_delta;
    for (int above = 1; above >= 0; --above) {
      Word at = group_key(weight(token), token);
      for (int64_t i = 0; i < (p.group_size - 1) / 2; ++i) {
        Word next = above ? ~Word{0} : 0;
        for (int64_t x = threadIdx.x; x < p.vocab; x += blockDim.x) {
          const double w = weight(x);
          if (w == 0.0) continue;
          const Word key = group_key(w, x);
          if (above && key > at) next = Smaller::of(next, key);
          if (!above && key < at) next = Larger::of(next, key);
        }
        next = above ? reduce<Smaller>(next) : reduce<Larger>(next);
        if (next == (above ? ~Word{0} : 0)) break;
        const int64_t id = group_id(next);
        const double difference = weight(id) / total - mine;
        if (!(difference < around && -difference < around)) break;
        of_target += weight(id);
        of_draft += draft_weight<Rows>(p, b, draft, id);
        at = next;
      }
    }
  }

 private:
  const TreeVerifySampleParams& p;
  int64_t b, words, best_ = -1;
  Shared& s;
  const T* logits = nullptr;
  uint32_t* marked;
  uint64_t total_ = 0, least = 0;
  float most_ = 0.0f, inv_t = 0.0f;
  bool greedy = false;
  int n_nan_ = 0;

  __device__ static int64_t id_of(Word key) { return 0xffffffffu - static_cast<unsigned>(key); }
  __device__ float logit(int64_t x) const {
    const float l = clean_logit(widen(logits[x]));
    const bool seen = marked && (marked[x / 32] >> (x % 32) & 1u);
    return seen ? penalised(l, p.penalty[b]) : l;
  }
  __device__ Word left(int64_t x) {
    return static_cast<Word>(law_weight<Rows>(p, b, s.law, tried(), x, weight(x)));
  }

  template <class Op>
  __device__ Word reduce(Word x) {  // to every thread
    for (int offset = 16; offset > 0; offset /= 2) {
      x = Op::of(x, __shfl_xor_sync(full_warp, x, offset));
    }
    if (threadIdx.x % 32 == 0) s.reduced[threadIdx.x / 32] = x;
    __syncthreads();
    x = s.reduced[0];
    for (unsigned w = 1; w < blockDim.x / 32; ++w) x = Op::of(x, s.reduced[w]);
    __syncthreads();
    return x;
  }
  template <class F>
  __device__ Word over_row(F f) {
    Word sum = 0;
    for (int64_t x = threadIdx.x; x < p.vocab; x += blockDim.x) sum += f(x);
    return reduce<Add>(sum);
  }

  // Least key that top-k, top-p and min-p keep, each applied to what the one before left.
  __device__ uint64_t cut() {
    const int64_t k = p.top_k.present() ? p.top_k[b] : 0;
    const float top_p = p.top_p ? p.top_p[b] : 1.0f, min_p = p.min_p ? p.min_p[b] : 0.0f;
    if (0 < k && k < p.vocab) least = front<false>(static_cast<double>(k));
    if (top_p < 1.0f) {
      const Word mass = over_row([&](int64_t x) { return static_cast<Word>(weight(x)); });
      least = front<true>(static_cast<double>(top_p) * static_cast<double>(mass));
    }
    if (min_p > 0.0f) {
      Word lowest = ~Word{0};
      for (int64_t x = threadIdx.x; x < p.vocab; x += blockDim.x) {
        if (weight(x) < min_p * weight_unit) continue;
        lowest = Smaller::of(lowest, rank_key(logit(x), static_cast<uint32_t>(x)));
      }
      lowest = reduce<Smaller>(lowest);
      least = lowest == ~Word{0} ? least : lowest;
    }
    return least;
  }
  // Least of the best keys, as long as those ahead measure less than `limit`, at least one. One
  // digit of the key per pass, from the highest: what lies ahead is known up to one digit.
  template <bool by_mass>
  __device__ __noinline__ uint64_t front(double limit) {
    Word prefix = 0, before = 0;
    for (int known = 64; known > 0;) {  // the lowest bit of the prefix
      const int shift = known > digit_bits ? known - digit_bits : 0;
      const Word above = known == 64 ? 0 : ~Word{0} << known;
      __syncthreads();
      for (int i = threadIdx.x; i < digits; i += blockDim.x) {
        s.mass[i] = 0;
        s.number[i] = 0;
      }
      __syncthreads();
      for (int64_t x = threadIdx.x; x < p.vocab; x += blockDim.x) {
        const double w = weight(x);
        const Word key = rank_key(logit(x), static_cast<uint32_t>(x));
        if (w == 0.0 || (key & above) != (prefix & above)) continue;
        const auto digit = static_cast<unsigned>(key >> shift) & ((1u << (known - shift)) - 1);
        atomicAdd(&s.number[digit], 1u);
        atomicAdd(&s.mass[digit], by_mass ? static_cast<Word>(w) : Word{1});
      }
      __syncthreads();
      // The lowest digit that still has a kept key: its best key follows all of the higher digits.
      int digit = -1;
      Word ahead = before;
      for (int i = digits - 1; i >= 0; --i) {
        if (s.number[i] == 0) continue;
        if (digit >= 0 && !(static_cast<double>(ahead) < limit)) break;
        digit = i;
        before = ahead;
        ahead += s.mass[i];
      }
      prefix |= static_cast<Word>(digit < 0 ? 0 : digit) << shift;
      known = shift;
    }
    return prefix;
  }
};

template <class T>
__global__ void __launch_bounds__(max_warps * 32) verify_kernel(TreeVerifySampleParams p) {
  TB_DYNAMIC_SHARED(Shared, shared);
  const int64_t b = blockIdx.x;
  for (int64_t i = threadIdx.x; i < p.nodes; i += blockDim.x) p.path[b * p.nodes + i] = -1;
  __syncthreads();
  Rows<T> rows(p, b, *shared);
  Verifier<Rows<T>>(p, b, rows).run();
}

template <class T>
int run(const TreeVerifySampleParams& p, void* stream) {
  const unsigned threads = p.vocab <= 512 ? 32 : p.vocab <= 4096 ? 128 : max_warps * 32;
  return launch(verify_kernel<T>, dim3(static_cast<unsigned>(p.batch)), dim3(threads),
                sizeof(Shared), stream, p);
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_tree_verify_sample_cuda(const tokenburst::TreeVerifySampleParams* p,
                                                 void* stream) {
  switch (p->dtype) {
    case tokenburst::DType::f16:
      return tokenburst::run<__half>(*p, stream);
    case tokenburst::DType::bf16:
      return tokenburst::run<__nv_bfloat16>(*p, stream);
    default:
      return tokenburst::run<float>(*p, stream);
  }
}
