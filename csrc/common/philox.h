#pragma once
// Philox4x32-10 (Salmon et al., SC 2011): 128 random bits from a counter and a key, so a draw
// depends on nothing but what names it. The key is the seed, the last counter the sequence. No two
// uses share a counter, so draft noise never meets the numbers that judge the draft:
//
//   counter 0                     1          2              use
//   token / 4                     position   step           vocab_stats: Gumbel noise of a token
//   3 * 2^28 + token / 4          node       step           ngram_draft: Gumbel noise of a token
//   2^30 + draw                   position   step           vocab_sample: a drafted token
//   2^31                          position   0              tree_verify_sample, walk: a token
//   2^31 + 1                      position   root position  other modes: the token after the path
//   2^31 + 2 + draw               position   root position  other modes: whether a draw is accepted
//   2^32 - 1                      position   step           unmask: random order, chance, noise
#include "common/math.h"

namespace tokenburst {
namespace {

struct Philox4 {
  uint32_t word[4];
};

TB_HD Philox4 philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t b = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t n0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(b);
    c3 = static_cast<uint32_t>(a);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

constexpr uint32_t drafting = 1u << 30, verdicts = 1u << 31;

// In [0, 1), 53 bits.
TB_HD double uniform(const Philox4& random) {
  return ((random.word[0] >> 5) * 67108864.0 + (random.word[1] >> 6)) * 0x1p-53;
}

// -ln U of a 32-bit word, U = 1 - (word + 1/2) / 2^32. A large Gumbel value is a small result here,
// so the small end is formed from the word itself and keeps its relative precision: Gumbel values
// reach 22.8, not 16.6.
TB_INLINE float exponential(uint32_t word) {
  const float v = (static_cast<float>(word) + 0.5f) * 2.3283064365386963e-10f;
  if (word < 0x80000000u) {
    const float y = 1.0f - v;
    return -(log_fast(y) -
             ((y - 1.0f) + v) / y);  // log1p(-v) with the rounding of 1 - v given back
  }
  const float u = (static_cast<float>(~word) + 0.5f) * 2.3283064365386963e-10f;
  return -log_fast(u);
}

// Standard Gumbel noise; the largest value it can take is max_gumbel.
TB_INLINE float gumbel(uint32_t word) { return -log_fast(exponential(word)); }
constexpr float max_gumbel = 22.9f;

}  // namespace
}  // namespace tokenburst
