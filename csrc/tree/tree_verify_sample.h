#pragma once
// Stochastic verification: a path of drafted tokens and the token after it, distributed as if the
// target had written them one by one.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

enum class VerifyMode : int32_t { walk, rrs, rrs_wr, kseq, block, lossy_typical, lossy_grouped };

struct TreeVerifySampleParams {
  VerifyMode mode;
  DType dtype, draft_dtype;
  int64_t batch, nodes, vocab, num_draws, num_eos;
  int64_t draft_rows, draft_width;  // R, and K of sparse rows
  Ints tokens;                      // [batch, nodes]
  Ints parent;                      // [batch, nodes], parent[i] < i, -1 at the root
  Ints n_nodes;                     // [batch], 0 = sequence takes no part
  const void* logits;               // node i of sequence b at b * batch_stride + i * node_stride
  int64_t batch_stride, node_stride;
  Ints rng;                  // [batch, 3]: seed, sequence, position of the root
  const float* temperature;  // [batch], as all below may be nullptr or absent; 0 = greedy
  Ints top_k;                // [batch], 0 = off
  const float* top_p;        // [batch], 1 = off
  const float* min_p;        // [batch], 0 = off
  const float* penalty;      // [batch], 1 = off
  const int32_t* seen;       // [batch, ceil(vocab / 32)] bits, tokens under the penalty
  const void* draft_logits;  // row r of sequence b at b * draft_batch_stride + r * draft_stride
  int64_t draft_batch_stride, draft_stride;
  const float* draft_temperature;  // [batch]
  Ints draft_ids;                  // [batch, draft_rows, draft_width], instead of draft_logits
  const float* draft_probs;        // the same shape
  Ints draft_row;                  // [batch, num_draws], -1 = certain; absent: the parent's index
  Ints draws;                      // [batch, num_draws] nodes in draw order; absent: every node
  Ints eos;                        // [num_eos]
  float epsilon, delta;            // of lossy_typical
  int64_t group_size;              // of lossy_grouped, as the next
  float group_delta;
  uint32_t* marked;     // [batch, ceil(vocab / 32)], workspace where there is a penalty
  int64_t* tried;       // [batch, max(nodes, num_draws)], workspace
  int32_t* path;        // [batch, nodes], -1 past the accepted nodes
  int32_t* n_accepted;  // [batch]
  int64_t* next_token;  // [batch], -1 if n_nodes is 0 or the last row holds no number
  int32_t* n_nan;       // [batch], NaN logits met
};

}  // namespace tokenburst

TB_KERNEL(tree_verify_sample, tokenburst::TreeVerifySampleParams);
