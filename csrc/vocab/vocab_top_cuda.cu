// Two kernels: a block takes the best of one chunk of a row, then a block merges the chunks of a
// row. See top_cuda.cuh.
#include "vocab/top_cuda.cuh"
#include "vocab/vocab_top.h"

namespace tokenburst {
namespace {

__device__ Key* keys_of(const VocabTopParams& p, int64_t index) {
  return static_cast<Key*>(p.workspace) + index * p.k;
}

template <class T>
__global__ void __launch_bounds__(threads, 2) chunk_kernel(VocabTopParams p) {
  __shared__ Found found;
  TB_DYNAMIC_SHARED(Key, pool);  // of best_of_chunk
  const int64_t size = vocab_cuda_chunk(p.vocab), chunks = vocab_chunks(p.vocab, size);
  const int64_t row = blockIdx.x / chunks, c = blockIdx.x % chunks;
  if (!vocab_top_reads(p, row)) return;  // the whole block

  Chunk<T> chunk;
  chunk.first_id = c * size;
  chunk.logits = static_cast<const T*>(p.logits) + row / p.row_length * p.outer_stride +
                 row % p.row_length * p.row_stride + chunk.first_id;
  chunk.length =
      static_cast<int>(p.vocab - chunk.first_id < size ? p.vocab - chunk.first_id : size);
  chunk.aligned = reinterpret_cast<uintptr_t>(chunk.logits) % 16 == 0;
  chunk.suppress = nullptr;

  float best = minus_infinity();
  int best_at = 0;
  chunk.for_each([&](int at, float (&l)[width]) {
    float most = minus_infinity();
#pragma unroll
    for (int j = 0; j < width; ++j) {
      l[j] = chunk.clean(l[j], at + j);
      most = fmaxf(most, l[j]);
    }
    if (most > best) {
      best = most;
#pragma unroll
      for (int j = width - 1; j >= 0; --j) best_at = l[j] == most ? at + j : best_at;
    }
  });
  const Key mine = best == minus_infinity() ? 0 : key_of(best, chunk.first_id + best_at);
  best_of_chunk(chunk, mine, static_cast<int>(p.k), pool, found, keys_of(p, blockIdx.x));
}

__global__ void __launch_bounds__(merge_threads) merge_kernel(VocabTopParams p) {
  __shared__ Key top[vocab_top_max_k], staged[max_staged];
  const int64_t row = blockIdx.x;
  const auto chunks = static_cast<int>(vocab_chunks(p.vocab, vocab_cuda_chunk(p.vocab)));
  for (int i = threadIdx.x; i < vocab_top_max_k; i += merge_threads) top[i] = 0;
  merge_lists(
      vocab_top_reads(p, row) ? chunks : 0, static_cast<int>(p.k),
      [&](int64_t c) { return keys_of(p, row * chunks + c); }, staged, top);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < p.k; i += merge_threads) {
    p.ids[row * p.k + i] = top[i] ? id_of(top[i]) : -1;
    p.values[row * p.k + i] = top[i] ? value_of(top[i]) : minus_infinity();
  }
}

template <class T>
int run(const VocabTopParams& p, void* stream) {
  const int64_t rows = p.batch * p.row_length;
  const int64_t blocks = rows * vocab_chunks(p.vocab, vocab_cuda_chunk(p.vocab));
  const int error = launch(chunk_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(threads),
                           best_of_chunk_shared(p.vocab, p.k), stream, p);
  if (error != 0) return error;
  return launch(merge_kernel, dim3(static_cast<unsigned>(rows)), dim3(merge_threads), 0, stream, p);
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_vocab_top_cuda(const tokenburst::VocabTopParams* p, void* stream) {
  switch (p->dtype) {
    case tokenburst::DType::f16:
      return tokenburst::run<__half>(*p, stream);
    case tokenburst::DType::bf16:
      return tokenburst::run<__nv_bfloat16>(*p, stream);
    default:
      return tokenburst::run<float>(*p, stream);
  }
}
