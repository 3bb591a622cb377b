#pragma once
// One sweep over the vocabulary per row: top-k, log-sum-exp, entropy, margin, a Gumbel-max draw and
// its probability.
#include "common/launch.h"
#include "common/types.h"
#include "vocab/chunks.h"

namespace tokenburst {

struct VocabStatsParams {
  DType dtype;
  int64_t count;                 // results, N
  int64_t num_rows, row_length;  // rows of the logits, rows per outermost index (L of [B, L, V])
  int64_t vocab, k, num_suppress;
  const void* logits;  // row r at (r / row_length) * outer_stride + (r % row_length) * row_stride
  int64_t outer_stride, row_stride;
  Ints rows;                 // [count], -1 = none; absent: row n is result n
  Ints suppress;             // [num_suppress], may be absent
  const float* temperature;  // [count], may be nullptr
  Ints rng;                  // [count, 4]: seed, sequence, step, position; with temperature
  void* workspace;           // of vocab_stats_cpu_workspace or vocab_stats_cuda_workspace bytes
  int64_t* ids;              // [count, k]
  float* values;             // [count, k]
  float* lse;                // [count], as all below
  int64_t* token;
  float* confidence;
  float* margin;
  float* entropy;
  int32_t* n_nan;
};

namespace {  // one copy per translation unit, see common/math.h

constexpr int64_t vocab_stats_max_k = 64;

// A row is summed chunk by chunk and the chunks are merged in order, so a result depends on V and
// on the row alone: neither the batch nor the number of threads enters here.
TB_HD constexpr int64_t vocab_stats_cpu_chunk() { return 8192; }

// The margin needs the two best even where k is 1.
TB_HD constexpr int64_t vocab_stats_kept(int64_t k) { return k < 2 ? 2 : k; }

// What is known of one chunk; the best `kept` values and then ids follow it.
struct VocabPart {
  double sum, weighted;  // sum of e^(l - base), sum of e^(l - base) (l - base)
  int64_t token;         // best noisy score so far, -1 = none
  float base, score, token_logit;
  int32_t n_nan, num_top, unused;
};
constexpr int64_t vocab_stats_cpu_part(int64_t k) {
  return static_cast<int64_t>(sizeof(VocabPart)) + vocab_stats_kept(k) * 8;
}
constexpr int64_t vocab_stats_cpu_mask(int64_t vocab) { return (vocab + 63) / 64 * 8; }
constexpr int64_t vocab_stats_cpu_workspace(int64_t count, int64_t vocab, int64_t k) {
  return vocab_stats_cpu_mask(vocab) +
         count * vocab_chunks(vocab, vocab_stats_cpu_chunk()) * vocab_stats_cpu_part(k);
}

// On the GPU a chunk's record is base, sum, weighted sum and NaN count in 16 bytes, the key of the
// draw, and the keys of the top values. A key orders by (value descending, id ascending).
TB_HD constexpr int64_t vocab_stats_cuda_part(int64_t k) {
  return (16 + 8 + vocab_stats_kept(k) * 8 + 15) / 16 * 16;
}
constexpr int64_t vocab_stats_cuda_workspace(int64_t count, int64_t vocab, int64_t k) {
  return count * vocab_chunks(vocab, vocab_cuda_chunk(vocab)) * vocab_stats_cuda_part(k);
}

}  // namespace
}  // namespace tokenburst

TB_KERNEL(vocab_stats, tokenburst::VocabStatsParams);
