#pragma once
// The k best logits of each row, and nothing else: what greedy verification asks of them.
#include "common/launch.h"
#include "common/types.h"
#include "vocab/chunks.h"

namespace tokenburst {

struct VocabTopParams {
  DType dtype;
  int64_t batch, row_length;  // rows of all sequences: batch * row_length
  int64_t vocab, k;
  const void* logits;  // row i of sequence b at b * outer_stride + i * row_stride
  int64_t outer_stride, row_stride;
  Ints count;       // [batch], rows of each sequence that are read, the first ones; absent: all
  void* workspace;  // of vocab_top_cpu_workspace or vocab_top_cuda_workspace bytes, may be none
  int64_t* ids;     // [batch, row_length, k], -1 past the last one
  float* values;    // [batch, row_length, k], -inf past the last one
};

namespace {  // one copy per translation unit, see common/math.h

constexpr int64_t vocab_top_max_k = 64;

TB_HD bool vocab_top_reads(const VocabTopParams& p, int64_t row) {
  return !p.count.present() || row % p.row_length < p.count[row / p.row_length];
}

// On the CPU a chunk that is not all of its row leaves the number of its best values, these, and
// their ids.
constexpr int64_t vocab_top_cpu_chunk = 16384;
constexpr int64_t vocab_top_cpu_part(int64_t k) { return (1 + 2 * k) * 4; }
constexpr int64_t vocab_top_cpu_workspace(int64_t rows, int64_t vocab, int64_t k) {
  const int64_t chunks = vocab_chunks(vocab, vocab_top_cpu_chunk);
  return chunks > 1 ? rows * chunks * vocab_top_cpu_part(k) : 0;
}

// On the GPU a chunk leaves its k best keys of 8 bytes.
constexpr int64_t vocab_top_cuda_workspace(int64_t rows, int64_t vocab, int64_t k) {
  return rows * vocab_chunks(vocab, vocab_cuda_chunk(vocab)) * k * 8;
}

}  // namespace
}  // namespace tokenburst

TB_KERNEL(vocab_top, tokenburst::VocabTopParams);
