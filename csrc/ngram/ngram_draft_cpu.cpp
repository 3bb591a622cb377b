#include "common/parallel.h"
#include "ngram/ngram_draft.h"

namespace tokenburst::TB_ISA {
namespace {

void draft_sequence(const NgramDraftParams& p, int64_t b, const bool* has_child) {
  const int64_t nodes = p.text.nodes, root = p.text.start[b];
  int64_t* tokens = p.tokens + b * nodes;
  int64_t* drawn = p.drawn + b * nodes * p.width;
  float* drawn_probs = p.drawn_probs + b * nodes * p.width;
  uint64_t contexts[ngram_max_context];
  for (int64_t i = 0; i < nodes; ++i) {
    if (i == 0) {
      tokens[0] = root < p.text.capacity ? p.text.text[b * p.text.stride + root] : -1;
    } else {
      tokens[i] = p.rank[i] < p.width ? drawn[p.parent[i] * p.width + p.rank[i]] : -1;
    }
    const bool opens = has_child[i] && tokens[i] >= 0;
    for (int64_t n = 0; n < p.most; ++n) contexts[n] = 0;
    if (opens) {
      ngram_contexts(
          p.text, b, i, p.most, [&](int64_t j) { return tokens[j]; },
          [&](int64_t j) { return p.parent[j]; }, contexts);
    }
    ngram_draw(p, b, i, contexts, drawn + i * p.width, drawn_probs + i * p.width);
  }
}

}  // namespace

void ngram_draft(const NgramDraftParams& p) {
  parallel_for(p.batch, 4, [&](int64_t begin, int64_t end) {
    bool* has_child = static_cast<bool*>(scratch(p.text.nodes));
    for (int64_t i = 0; i < p.text.nodes; ++i) has_child[i] = false;
    for (int64_t i = 1; i < p.text.nodes; ++i) has_child[p.parent[i]] = true;
    for (int64_t b = begin; b < end; ++b) draft_sequence(p, b, has_child);
  });
}

}  // namespace tokenburst::TB_ISA
