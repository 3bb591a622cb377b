#pragma once
// The best values of a row while it is swept, on the CPU.
#include "common/simd.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr float largest = 3.402823466e38f;  // what +inf counts as

// The best values so far, best first. Ids arrive ascending, so an equal value stays behind.
struct Top {
  float* values;
  int32_t* ids;
  int32_t size, capacity;
  float floor;  // a value must exceed it to enter

  void clear() {
    size = 0;
    floor = -infinity;
  }
  void insert(float value, int32_t id) {
    int32_t at = size < capacity ? size++ : capacity - 1;
    for (; at > 0 && values[at - 1] < value; --at) {
      values[at] = values[at - 1];
      ids[at] = ids[at - 1];
    }
    values[at] = value;
    ids[at] = id;
    if (size == capacity) floor = values[capacity - 1];
  }
  void offer(float logit, int64_t id) {
    const float value = logit > largest ? largest : logit;
    if (value > floor) insert(value, static_cast<int32_t>(id));
  }
  // n is a multiple of 16, and nothing is NaN.
  template <class T>
  void scan(const T* l, int64_t n, int64_t first_id) {
    for (int64_t i = 0; i < n; i += 16) {
      const F32x8 low = F32x8::load(l + i), high = F32x8::load(l + i + 8);
      unsigned above = greater(max(low, high), F32x8::splat(floor));
      if (!above) continue;
      above = greater(low, F32x8::splat(floor)) | greater(high, F32x8::splat(floor)) << 8;
      for (; above; above &= above - 1) {
        const int lane = __builtin_ctz(above);
        offer(widen(l[i + lane]), first_id + i + lane);
      }
    }
  }
};

}  // namespace
}  // namespace tokenburst::TB_ISA
