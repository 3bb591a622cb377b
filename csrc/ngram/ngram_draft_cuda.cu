// One block per sequence, one thread per node, one round per level: a node takes its token from
// its parent's row, which the round before has drawn, and draws its own.
#include "common/cuda.cuh"
#include "ngram/ngram_draft.h"

namespace tokenburst {
namespace {

__device__ inline int64_t parent_of(const NgramDraftParams& p, int64_t i) {
  const int64_t up = p.parent[i];
  return i > 0 && 0 <= up && up < i ? up : -1;  // a template that is wrong there ends there
}

__global__ void draft_kernel(NgramDraftParams p) {
  TB_DYNAMIC_SHARED(int32_t, level);  // [nodes]
  const int nodes = static_cast<int>(p.text.nodes);
  const int64_t b = blockIdx.x, row = b * nodes, start = p.text.start[b];
  const bool in_text = 0 <= start && start < p.text.capacity;

  int mine = 0;  // deepest level of this thread's nodes
  for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
    int depth = 0;
    int64_t top = i;
    for (int64_t up = parent_of(p, i); up >= 0; up = parent_of(p, up)) {
      ++depth;
      top = up;
    }
    level[i] = top == 0 ? depth : -1;  // -1: below a node that hangs nowhere
    mine = depth > mine ? depth : mine;
    if (top != 0) {
      const uint64_t none[ngram_max_context] = {};
      p.tokens[row + i] = -1;
      ngram_draw(p, b, i, none, p.drawn + (row + i) * p.width, p.drawn_probs + (row + i) * p.width);
    }
  }

  for (int round = 0; __syncthreads_or(mine >= round); ++round) {
    for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
      if (level[i] != round) continue;
      int64_t token = -1;
      if (i == 0) {
        if (in_text) token = p.text.text[b * p.text.stride + start];
      } else if (0 <= p.rank[i] && p.rank[i] < p.width) {
        token = p.drawn[(row + parent_of(p, i)) * p.width + p.rank[i]];
      }
      p.tokens[row + i] = token;
      bool opens = false;
      for (int child = i + 1; token >= 0 && child < nodes && !opens; ++child) {
        opens = parent_of(p, child) == i;
      }
      uint64_t contexts[ngram_max_context] = {};
      if (opens) {
        ngram_contexts(
            p.text, b, i, p.most, [&](int64_t j) { return p.tokens[row + j]; },
            [&](int64_t j) { return parent_of(p, j); }, contexts);
      }
      ngram_draw(p, b, i, contexts, p.drawn + (row + i) * p.width,
                 p.drawn_probs + (row + i) * p.width);
    }
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_ngram_draft_cuda(const tokenburst::NgramDraftParams* p, void* stream) {
  const int64_t rounded = (p->text.nodes + 31) / 32 * 32;
  const int threads = rounded < 256 ? static_cast<int>(rounded) : 256;
  return tokenburst::launch(tokenburst::draft_kernel, dim3(p->batch), dim3(threads),
                            p->text.nodes * sizeof(int32_t), stream, *p);
}
