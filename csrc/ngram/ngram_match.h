#pragma once
// Prompt lookup: what followed the last tokens of a sequence when they stood in it before.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

struct NgramMatchParams {
  int64_t batch, capacity, k;
  int64_t most, least;  // tokens that have to agree: as many as possible up to `most`
  bool whole;           // the draft is k tokens of before the final n-gram, or none
  bool latest;          // of equally long matches the last one, otherwise the first one
  Ints tokens;          // [batch, capacity], rows `stride` apart
  int64_t stride;
  Ints length;         // [batch], real tokens of each row
  int64_t* draft;      // [batch, k], -1 behind the last one
  int32_t* n_draft;    // [batch]
  int32_t* match_len;  // [batch], tokens that agreed, 0 = no match
};

namespace {

// Agreeing tokens that count for a match which ends just before position `start`, 0 = none: the
// longest common suffix of tokens[.. start) and tokens[.. length), cut where the rules say.
TB_HD int64_t ngram_match_at(const NgramMatchParams& p, int64_t row, int64_t length,
                             int64_t start) {
  int64_t limit = start < p.most ? start : p.most;
  if (p.whole) {
    if (start + p.k > length) return 0;
    const int64_t before = length - start - 1;  // start < length - n
    limit = before < limit ? before : limit;
  }
  int64_t n = 0;
  while (n < limit && p.tokens[row + start - 1 - n] == p.tokens[row + length - 1 - n]) ++n;
  return n >= p.least ? n : 0;
}

}  // namespace
}  // namespace tokenburst

TB_KERNEL(ngram_match, tokenburst::NgramMatchParams);
