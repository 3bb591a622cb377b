#pragma once
// Counts that both halves of the SparseD pattern agree on.
#include "common/types.h"

namespace tokenburst {

// Blocks of one sequence: [0, split) hold the prompt, [split, blocks) what is being generated. The
// block across the boundary belongs to the prompt, unless it is the last one.
struct SparsedParts {
  int64_t rows;  // real rows
  int64_t blocks, split;
};

// Wild lengths are clamped: a GPU has nobody to complain to.
TB_HD SparsedParts sparsed_parts(const Ints& kv_len, const Ints& prompt_len, int64_t b,
                                 int64_t length, int64_t block) {
  const int64_t given = kv_len.present() ? kv_len[b] : length;
  const int64_t rows = given < 0 ? 0 : given > length ? length : given;
  const int64_t wanted = prompt_len.present() ? prompt_len[b] : 0;
  const int64_t prompt = wanted < 0 ? 0 : wanted > rows ? rows : wanted;
  const int64_t blocks = (rows + block - 1) / block, split = (prompt + block - 1) / block;
  return {rows, blocks, split < blocks ? split : blocks > 0 ? blocks - 1 : 0};
}

// Of n candidates: max(1, int(n * keep) + 1) by the published product in double, at most n.
TB_HD int64_t sparsed_kept(int64_t n, double keep) {
  const int64_t count = static_cast<int64_t>(static_cast<double>(n) * keep) + 1;
  return count < n ? count : n;
}

}  // namespace tokenburst
