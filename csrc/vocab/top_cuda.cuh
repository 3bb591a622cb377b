#pragma once
// The best logits of a row on the GPU: how one block reads a chunk, and ranks without sorting. The
// k-th best of the threads' maxima bounds the chunk's top-k from below and at most k threads hold
// anything above it, so only those look again.
#include "common/cuda.cuh"
#include "vocab/chunks.h"

namespace tokenburst {
namespace {

using Key = unsigned long long;  // of a logit or score: larger is better, 0 = none

constexpr int threads = 256, warps = threads / 32;
constexpr int width = 8;                       // logits of one vector
constexpr int most_per_thread = 64;            // logits of one thread in the largest chunk
constexpr int mask_words = 64 * threads / 32;  // bits for the ids of the largest chunk
constexpr float largest = 3.402823466e38f;
static_assert(vocab_cuda_chunk(1 << 30) == most_per_thread * threads, "sizes of shared memory");

__device__ float minus_infinity() { return from_bits(0xff800000u); }

// Equal floats give equal words, larger ones larger words; -0 counts as +0.
__device__ unsigned ordered(float x) {
  const unsigned bits = to_bits(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float unordered(unsigned word) {
  return from_bits(word & 0x80000000u ? word & 0x7fffffffu : ~word);
}
__device__ Key key_of(float value, int64_t id) {
  return static_cast<Key>(ordered(value)) << 32 | (0xffffffffu - static_cast<unsigned>(id));
}
__device__ float value_of(Key key) { return unordered(static_cast<unsigned>(key >> 32)); }
__device__ int64_t id_of(Key key) { return 0xffffffffu - static_cast<unsigned>(key); }

// Highest key of the warp, in every lane.
__device__ Key warp_best(Key key) {
  const unsigned high = __reduce_max_sync(full_warp, static_cast<unsigned>(key >> 32));
  const unsigned low = __reduce_max_sync(
      full_warp, static_cast<unsigned>(key >> 32) == high ? static_cast<unsigned>(key) : 0u);
  return static_cast<Key>(high) << 32 | low;
}

template <class T>
struct Vector {
  Pack<T> pack[width * sizeof(T) / 16];
  __device__ float operator[](int i) const {
    return widen(pack[i / Pack<T>::size].value[i % Pack<T>::size]);
  }
};

// The logits of one chunk and who reads which: vector i of thread t starts at (i * threads + t) *
// width.
template <class T>
struct Chunk {
  const T* logits;
  int64_t first_id;
  int length;
  bool aligned;              // to 16 bytes
  const unsigned* suppress;  // one bit per id, nullptr if none is suppressed here

  __device__ int offset(int i) const {
    return (i * threads + static_cast<int>(threadIdx.x)) * width;
  }
  __device__ int vectors() const {  // per thread, the same for all threads
    return (length + threads * width - 1) / (threads * width);
  }
  __device__ Vector<T> load(int i) const {
    const int at = offset(i);
    Vector<T> v;
    if (aligned && at + width <= length) {
#pragma unroll
      for (int j = 0; j < width; j += Pack<T>::size) {
        v.pack[j / Pack<T>::size] = Pack<T>::load(logits + at + j);
      }
    } else {
#pragma unroll
      for (int j = 0; j < width; ++j) {
        v.pack[j / Pack<T>::size].value[j % Pack<T>::size] =
            at + j < length ? logits[at + j] : narrow<T>(minus_infinity());
      }
    }
    return v;
  }
  // What the contract makes of a logit: -inf for NaN and suppressed ids, the largest float for
  // +inf.
  __device__ float clean(float logit, int at) const {
    if (suppress && (suppress[at / 32] >> (at % 32) & 1u)) return minus_infinity();
    return logit != logit ? minus_infinity() : fminf(logit, largest);
  }
  // f(offset, logits[width]) for the vectors of this thread, several loads in flight.
  template <class F>
  __device__ void for_each(F f) const {
    constexpr int batch = 64 / (width * static_cast<int>(sizeof(T)));
    const int count = vectors();
    for (int i = 0; i < count; i += batch) {
      Vector<T> v[batch];
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        if (i + b < count) v[b] = load(i + b);
      }
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        if (i + b >= count) break;
        float x[width];
#pragma unroll
        for (int j = 0; j < width; ++j) x[j] = v[b][j];
        f(offset(i + b), x);
      }
    }
  }
};

// Room that best_of_chunk needs: the best keys of each warp, then whatever passed the bound.
inline size_t best_of_chunk_shared(int64_t vocab, int64_t kept) {
  const int64_t most = kept * (vocab_cuda_chunk(vocab) / threads);  // keys that can pass the bound
  const int64_t lists = warps * (kept < 32 ? kept : 32);
  return sizeof(Key) * static_cast<size_t>(most > lists ? most : lists);
}

struct Found {  // shared
  Key bound;
  int count;
};

// Writes the `kept` best keys of a chunk, best first, 0 = none. Every thread of the block calls it
// with the best of its own logits.
template <class T>
__device__ void best_of_chunk(const Chunk<T>& chunk, Key mine, int kept, Key* pool, Found& found,
                              Key* keys) {
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  if (thread == 0) found = {1, 0};

  // The best `rounds` of each warp's maxima, and among these the kept-th best.
  const int rounds = kept < 32 ? kept : 32;
  Key left = mine;
  for (int i = 0; i < rounds; ++i) {
    const Key best = warp_best(left);
    if (left == best) left = 0;
    if (lane == 0) pool[warp * rounds + i] = best;
  }
  __syncthreads();
  if (thread < warps * rounds && pool[thread] > 0) {
    const Key key = pool[thread];
    int rank = 0;
    for (int i = 0; i < warps * rounds && rank < kept; ++i) rank += pool[i] > key;
    if (rank == kept - 1) found.bound = key;
  }
  __syncthreads();
  if (mine >= found.bound) {  // at most `kept` threads
    const Key at_least = found.bound;
    chunk.for_each([&](int at, float (&l)[width]) {
#pragma unroll
      for (int j = 0; j < width; ++j) {
        const float value = chunk.clean(l[j], at + j);
        const Key key = value == minus_infinity() ? 0 : key_of(value, chunk.first_id + at + j);
        if (key >= at_least) pool[atomicAdd(&found.count, 1)] = key;
      }
    });
  }
  __syncthreads();
  const int count = found.count;
  for (int i = thread; i < count; i += threads) {  // keys are distinct, so their ranks are too
    const Key key = pool[i];
    int rank = 0;
    for (int j = 0; j < count && rank < kept; ++j) rank += pool[j] > key;
    if (rank < kept) keys[rank] = key;
  }
  for (int i = count + thread; i < kept; i += threads) keys[i] = 0;
}

constexpr int merge_threads = 128;
constexpr int max_staged = 1024;  // keys of one row that are merged in shared memory

// The best keys of a row in `top`, best first, from the ordered lists of its chunks. Every thread
// of a block of merge_threads calls it; `top` starts as zeros and is complete after a barrier.
template <class ListOf>
__device__ void merge_lists(int chunks, int kept, ListOf list_of, Key* staged, Key* top) {
  const int num_keys = chunks * kept;
  const bool in_shared = num_keys <= max_staged;
  for (int i = threadIdx.x; in_shared && i < num_keys; i += merge_threads) {
    staged[i] = list_of(i / kept)[i % kept];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < num_keys; i += merge_threads) {
    const Key key = (in_shared ? staged + i / kept * kept : list_of(i / kept))[i % kept];
    if (key == 0) continue;
    int rank = 0;
    for (int c = 0; c < chunks && rank < kept; ++c) {
      const Key* list = in_shared ? staged + c * kept : list_of(c);
      for (int j = 0; j < kept && list[j] > key; ++j) ++rank;
    }
    if (rank < kept) top[rank] = key;
  }
}

}  // namespace
}  // namespace tokenburst
