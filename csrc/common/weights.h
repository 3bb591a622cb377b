#pragma once
// Probabilities as integers: a token whose scaled logit lies x below the row's best weighs
// round(e^x 2^40). Sums of integers have no order, so masses, cuts, acceptance tests and draws are
// the same for every device, thread count and instruction set. What weighs less than half a unit is
// impossible; all in all a row of V tokens is within V 2^-41 of its softmax.
#include "common/philox.h"

namespace tokenburst {
namespace {

constexpr int64_t max_weighed_vocab = int64_t{1} << 22;  // a row's total stays below 2^63
constexpr double weight_unit = 0x1p40;                   // of the best token

TB_HD double weight(float e) { return rint(static_cast<double>(e) * weight_unit); }

TB_HD float inverse_temperature(float t) {  // of t > 0
  const float inverse = 1.0f / t, largest = 3.402823466e38f;
  return inverse > largest ? largest : inverse;
}

// NaN counts as -inf, +inf as the largest float.
TB_HD float clean_logit(float l) {
  const float largest = 3.402823466e38f;
  return l != l ? from_bits(0xff800000u) : l > largest ? largest : l;
}

// Larger keys are better tokens: by value, then by lower id.
TB_HD uint64_t rank_key(float l, uint32_t id) {
  const uint32_t bits = to_bits(l + 0.0f);  // -0 as +0
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - id);
}

TB_HD int64_t rank_id(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

// In [0, total): the high word of random * total.
TB_HD uint64_t scale_random(uint64_t random, uint64_t total) {
  const uint64_t a = random >> 32, b = random & 0xffffffffu;
  const uint64_t c = total >> 32, d = total & 0xffffffffu;
  const uint64_t middle = a * d + (b * d >> 32), low = b * c + (middle & 0xffffffffu);
  return a * c + (middle >> 32) + (low >> 32);
}
TB_HD uint64_t random_below(uint64_t total, const Philox4& random) {
  return scale_random(static_cast<uint64_t>(random.word[0]) << 32 | random.word[1], total);
}

}  // namespace
}  // namespace tokenburst
