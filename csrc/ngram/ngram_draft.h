#pragma once
// STAND, drafting: a tree template is filled with draws from what followed each context before.
#include "common/launch.h"
#include "common/philox.h"
#include "ngram/ngram.h"

namespace tokenburst {

// First counter of the noise: beyond that of other draws, which are counted by token too.
constexpr uint32_t ngram_noise = 3u << 28;

// The CUDA kernel keeps four bytes per node in shared memory.
constexpr int64_t ngram_draft_max_cuda_nodes = 4096;

struct NgramDraftParams {
  int64_t batch, slots, width;
  int64_t most, least;
  const int64_t* key;        // [slots]
  const int32_t* ids;        // [slots, width]
  const float* probs;        // [slots, width]
  NgramText text;            // start: position of the root
  Ints parent;               // [nodes], parent[i] < i, -1 at the root
  Ints rank;                 // [nodes], which draw of its parent node i is; [0] is not read
  const float* temperature;  // [batch], may be null: 1; 0 = most probable first
  Ints rng;                  // [batch, 3] seed, sequence, step; may be absent: as temperature 0
  int64_t* tokens;           // [batch, nodes], -1 = none
  int64_t* drawn;            // [batch, nodes, width], what follows node i in draw order, -1 = none
  float* drawn_probs;        // [batch, nodes, width], their probabilities; they sum to 1, or to 0
};

namespace {

// Fills the row of node i from the longest known context, in draw order: Gumbel noise on the
// logarithms, which draws one after the other without replacement.
TB_HD void ngram_draw(const NgramDraftParams& p, int64_t b, int64_t i, const uint64_t* contexts,
                      int64_t* drawn, float* drawn_probs) {
  int64_t slot = -1;
  for (int64_t n = p.most; n >= p.least && slot < 0; --n) {
    slot = ngram_find(p.key, p.slots, contexts[n - 1]);
  }
  const float temperature = p.temperature ? p.temperature[b] : 1.0f;
  const bool random = p.rng.present() && temperature > 0.0f;
  const float inverse = temperature > 0.0f ? 1.0f / temperature : 1.0f;
  float score[ngram_max_width], weight[ngram_max_width], total = 0.0f, top = 0.0f;
  int32_t id[ngram_max_width];
  int found = 0;
  for (int64_t w = 0; slot >= 0 && w < p.width; ++w) {
    const float prob = p.probs[slot * p.width + w];
    const int32_t token = p.ids[slot * p.width + w];
    if (!(prob > 1e-30f) || prob > 1.0f || token < 0) continue;
    const float heat = log_fast(prob) * inverse;
    top = found == 0 || heat > top ? heat : top;
    float noise = 0.0f;
    if (random) {
      const uint32_t named = static_cast<uint32_t>(token);
      const Philox4 words = philox(
          static_cast<uint64_t>(p.rng[3 * b]), ngram_noise + named / 4, static_cast<uint32_t>(i),
          static_cast<uint32_t>(p.rng[3 * b + 2]), static_cast<uint32_t>(p.rng[3 * b + 1]));
      noise = gumbel(words.word[named % 4]);
    }
    int at = found++;
    const float mine = heat + noise;
    for (; at > 0 && (mine > score[at - 1] || (mine == score[at - 1] && token < id[at - 1]));
         --at) {
      score[at] = score[at - 1];
      weight[at] = weight[at - 1];
      id[at] = id[at - 1];
    }
    score[at] = mine;
    weight[at] = heat;
    id[at] = token;
  }
  for (int w = 0; w < found; ++w) {
    weight[w] = exp_fast(weight[w] - top);
    total += weight[w];
  }
  for (int w = 0; w < p.width; ++w) {
    drawn[w] = w < found ? id[w] : -1;
    drawn_probs[w] = w < found ? weight[w] / total : 0.0f;
  }
}

}  // namespace
}  // namespace tokenburst

TB_KERNEL(ngram_draft, tokenburst::NgramDraftParams);
