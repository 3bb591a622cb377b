#pragma once
// The sums of a row's tiles, in which a draw looks for its tile. A tile is 512 neighbouring ids.
// Its sum of e^(l / T) is formed in float32 against a power of two of its own, so a row is read
// once, wherever its best logit turns out to lie. Every device adds in the same order: column j of
// 32 takes the ids j, j + 32, ... of the tile one after the other, then columns are added pairwise.
#include "common/weights.h"
#include "vocab/vocab_sample.h"

namespace tokenburst {
namespace {

constexpr int tile_columns = 32;

// e^(l / T) = 2^y with y = (l - shift) rate. Only where y does not fit a float beside its fraction
// is the row shifted by its best logit.
struct Scale {
  float rate, shift;
  TB_HD static Scale of(float inv_t) {
    const float rate = inv_t * 1.442695041f, largest = 3.402823466e38f;
    return {rate < largest ? rate : largest, 0.0f};
  }
  TB_HD bool fits(float most) const {
    const float y = most * rate;
    return -0x1p20f < y && y < 0x1p20f;
  }
  TB_HD float exponent(float most) const {  // -infinity: too small or too large to count
    const float y = (most - shift) * rate;
    return -0x1p21f < y && y < 0x1p21f ? nearbyintf(y) : from_bits(0xff800000u);
  }
};

// What the sum over a tile needs of its best logit. Whatever lies 2^-100 below it counts 2^-100.
struct Tile {
  float rate, shift;
  float exponent;  // of the power of two; -infinity: the tile does not count
  float least;     // of l - shift
  float magic;     // a sum with it rounds to an integer beside 2^exponent
  bool wide;       // 2^-100 is further away than floats reach: only -infinity counts nothing
  TB_HD Tile(Scale scale, float most) : rate(scale.rate), shift(scale.shift) {
    exponent = scale.exponent(most);
    magic = counts() ? 12582912.0f - exponent : 12582912.0f;
    least = counts() ? (exponent - 100.0f) / rate : 0.0f;
    wide = !(least > -1e38f);
  }
  TB_HD bool counts() const { return exponent > -0x1p22f; }
  TB_HD float term(float l) const {  // of a cleaned logit
    const float lowest = from_bits(0xff800000u), above = l - shift;
    if (wide && l == lowest) return 0.0f;
    const float x = above > least ? above : least;
    const float t = fused(x, rate, magic), f = fused(x, rate, magic - t);
    float p = 1.326472731e-3f;
    p = fused(p, f, 9.671512991e-3f);
    p = fused(p, f, 5.550733581e-2f);
    p = fused(p, f, 2.402224243e-1f);
    p = fused(p, f, 6.931470037e-1f);
    p = fused(p, f, 1.0f);
    return from_bits(to_bits(p) + (to_bits(t) << 23));
  }
};

// The mass of a tile: its sum, whose power of two lies `below` that of the row, in units of 2^-40
// of the row's. A tile has none where its best token, `distance` of l / T below the row's, weighs
// nothing, so a tile with a mass has a token with a weight.
TB_HD uint64_t tile_mass(float sum, float below, float distance) {
  if (!(below > -44.0f)) return 0;
  if (below < -38.0f && weight(exp_fast(distance)) == 0.0) return 0;
  const auto scale = static_cast<double>(uint64_t{1} << static_cast<int>(44.0f + below));
  return static_cast<uint64_t>(rint(static_cast<double>(sum) * (scale * 0x1p-4)));
}

// The place in the weights of a tile that belongs to a place in its mass.
TB_HD uint64_t place_in_tile(uint64_t place, uint64_t mass, uint64_t weights) {
  const double share = static_cast<double>(weights) / static_cast<double>(mass);
  const auto at = static_cast<uint64_t>(static_cast<double>(place) * share);
  return at < weights ? at : weights - 1;
}

// What is left of a tile's mass without a token.
TB_HD uint64_t mass_without(uint64_t mass, uint64_t weights, uint64_t token) {
  if (token >= weights) return 0;
  const double share = static_cast<double>(weights - token) / static_cast<double>(weights);
  const auto rest = static_cast<uint64_t>(rint(static_cast<double>(mass) * share));
  return rest < mass ? rest : mass;
}

}  // namespace
}  // namespace tokenburst
