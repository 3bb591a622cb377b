#pragma once
// Ranks without sorting, on the CPU: 64-bit keys, larger is better, 0 takes no part.
#include <cstdint>

#include "common/parallel.h"

namespace tokenburst::TB_ISA {
namespace {

int64_t count_from(const uint64_t* keys, int64_t n, uint64_t least) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += keys[i] >= least;
  return count;
}

// Key of rank k, 1 <= k <= number of keys that are not 0.
uint64_t kth_largest(const uint64_t* keys, int64_t n, int64_t k) {
  uint64_t found = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t trial = found | 1ull << bit;
    const int64_t count = count_from(keys, n, trial);
    if (count >= k) found = trial;
    if (count == k) break;  // no other key lies between
  }
  return found;
}

}  // namespace
}  // namespace tokenburst::TB_ISA
