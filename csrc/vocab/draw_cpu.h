#pragma once
// Gumbel-max over the ids of a row. A logit l can only win with a random word below a limit that
// follows from the best score so far, so logarithms are taken for the few words that reach it, and
// no word is formed where even the largest noise would not do. Neither changes what is drawn.
#include <cmath>

#include "common/simd.h"

namespace tokenburst::TB_ISA {
namespace {

struct Draw {
  static constexpr float largest = 3.402823466e38f;

  bool active;
  float inv_t;
  uint64_t seed;
  uint32_t sequence, step, position;
  float score, logit;
  int64_t token;  // -1 = none yet

  void clear() {
    score = logit = -infinity;
    token = -1;
  }
  // How far the noise must lift a logit of at most `most`, less far more than any rounding.
  double gap(float most) const {
    const double scaled = static_cast<double>(most) * inv_t;
    return score - scaled - 1e-3 - 1e-6 * (std::fabs(score) + std::fabs(scaled));
  }
  bool hopeless(float most) const { return gap(most) > max_gumbel; }
  // No larger word lifts it so far.
  uint32_t limit(float most) const {
    if (token < 0) return 0xffffffffu;
    const double words = -std::expm1(-std::exp(-gap(most))) * 4294967296.0 + 1.0;
    return words < 4294967295.0 ? static_cast<uint32_t>(words) : 0xffffffffu;
  }
  Philox4 words(int64_t id) const {
    return philox(seed, static_cast<uint32_t>(id / 4), position, step, sequence);
  }
  // Whether this id is the best so far; of equal scores the lower id is, in whatever order they
  // come.
  bool offer(int64_t id, float value, uint32_t word) {
    if (value == -infinity) return false;
    const float noisy = tokenburst::fused(value, inv_t, gumbel(word));
    const float bounded = noisy > largest ? largest : noisy < -largest ? -largest : noisy;
    if (!(bounded > score || (bounded == score && id < token))) return false;
    score = bounded;
    logit = value;
    token = id;
    return true;
  }
  // The 32 ids from first_id, a multiple of 32: those of the mask, none above `most`.
  // value(i) is the logit of first_id + i.
  template <class F>
  void scan(int64_t first_id, uint32_t mask, float most, uint32_t& within, F value) {
    unsigned groups = 0;  // of four ids that share a counter
    if (__builtin_popcount(mask) > 4) {
      groups = philox_within(seed, static_cast<uint32_t>(first_id / 4), position, step, sequence,
                             within);
    } else {
      for (uint32_t m = mask; m; m &= m - 1) groups |= 1u << (__builtin_ctz(m) / 4);
    }
    for (; groups; groups &= groups - 1) {
      const int lane = __builtin_ctz(groups);
      uint32_t own = mask >> (4 * lane) & 15u;
      if (own == 0) continue;
      const Philox4 drawn = words(first_id + 4 * lane);
      for (; own; own &= own - 1) {
        const int j = __builtin_ctz(own);
        if (drawn.word[j] > within) continue;
        const int64_t i = 4 * lane + j;
        if (offer(first_id + i, value(i), drawn.word[j])) within = limit(most);
      }
    }
  }
};

}  // namespace
}  // namespace tokenburst::TB_ISA
