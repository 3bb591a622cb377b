// The k-th largest mass of a row is found bit by bit; what lies above it is kept, and of what
// equals it the lowest indices.
#include "attention/attn_select_blocks.h"
#include "common/parallel.h"

namespace tokenburst::TB_ISA {
namespace {

// Marks the `keep` largest of order[from, to) whose index lies in [first, last); all compete.
void mark(const uint32_t* order, int64_t from, int64_t to, int64_t keep, int64_t first,
          int64_t last, uint32_t* bits) {
  uint32_t least = 0;  // order of the keep-th largest
  for (uint32_t bit = 1u << 31; bit > 0; bit >>= 1) {
    const uint32_t higher = least | bit;
    int32_t count = 0;
    for (int64_t j = from; j < to; ++j) count += order[j] >= higher;
    if (count >= keep) least = higher;
  }
  int64_t equal = keep;
  for (int64_t j = from; j < to; ++j) equal -= order[j] > least;
  for (int64_t j = from; j < to; ++j) {
    const bool tied = order[j] == least && equal > 0;
    equal -= tied;
    if ((order[j] > least || tied) && first <= j && j < last) bits[j / 32] |= 1u << j % 32;
  }
}

}  // namespace

void attn_select_blocks(const AttnSelectBlocksParams& p) {
  const int64_t rows = p.batch * p.heads * p.blocks;
  parallel_for(rows, (1 << 12) / p.blocks + 1, [&](int64_t begin, int64_t end) {
    auto* order = static_cast<uint32_t*>(scratch(p.blocks * sizeof(uint32_t)));
    for (int64_t row = begin; row < end; ++row) {
      auto* bits = reinterpret_cast<uint32_t*>(p.bits) + row * p.words;
      for (int64_t w = 0; w < p.words; ++w) bits[w] = 0;
      const SparsedParts parts =
          sparsed_parts(p.kv_len, p.prompt_len, row / (p.heads * p.blocks), p.length, p.block);
      if (row % p.blocks >= parts.blocks) continue;  // only padding asks
      const auto part = [&](const float* mass, int64_t from, int64_t first, int64_t last) {
        for (int64_t j = from; j < parts.blocks; ++j) {
          order[j] = mass_order(mass[row * p.blocks + j]);
        }
        const int64_t kept = sparsed_kept(parts.blocks - from, p.keep);
        mark(order, from, parts.blocks, kept, first, last, bits);
      };
      part(p.prefix, 0, 0, parts.split);  // generated blocks compete, then go
      part(p.generation, parts.split, parts.split, parts.blocks);
    }
  });
}

}  // namespace tokenburst::TB_ISA
