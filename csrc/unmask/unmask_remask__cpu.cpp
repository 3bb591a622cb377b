// All keys first, then the smallest one that is chosen; x is written last.
#include "unmask/order_cpu.h"
#include "unmask/unmask_remask_.h"

namespace tokenburst::TB_ISA {
namespace {

uint64_t least_chosen(const UnmaskRemaskParams& p, int64_t b, const uint64_t* keys) {
  const int64_t k = p.top_k.present() ? p.top_k[b] : 0;
  uint64_t least = below_key(p, b);
  if (count_from(keys, p.candidates, least) < k) {
    least = count_from(keys, p.candidates, 1) <= k ? 1 : kth_largest(keys, p.candidates, k);
  }
  if (!p.most.present() || count_from(keys, p.candidates, least) <= p.most[b]) return least;
  return p.most[b] < 1 ? ~0ull : kth_largest(keys, p.candidates, p.most[b]);
}

void remask_sequence(const UnmaskRemaskParams& p, int64_t b) {
  const int64_t row = b * p.candidates;
  auto* keys =
      static_cast<uint64_t*>(scratch(p.candidates * sizeof(uint64_t) + p.length * sizeof(int32_t)));
  auto* owner = reinterpret_cast<int32_t*>(keys + p.candidates);
  for (int64_t i = p.candidates - 1; i >= 0; --i) {  // backwards: the first one stays
    const int64_t position = decided_position(p, b, i);
    if (position >= 0) owner[position] = static_cast<int32_t>(i);
  }
  for (int64_t i = 0; i < p.candidates; ++i) {
    const int64_t position = decided_position(p, b, i);
    const bool takes_part = position >= 0 && owner[position] == i;
    keys[i] = takes_part ? remask_key(p, b, i, position) : 0;
    p.remasked[row + i] = takes_part && chanced(p, b, i, position);
  }
  const uint64_t least = least_chosen(p, b, keys);
  int32_t count = 0;
  for (int64_t i = 0; i < p.candidates; ++i) {
    p.remasked[row + i] |= keys[i] >= least;
    count += p.remasked[row + i];
    for (int64_t j = 0; p.remasked[row + i] && j < p.span; ++j) {
      write_x(p, b, p.position[row + i] + j, p.mask_id);
    }
  }
  p.n_remasked[b] = count;
}

}  // namespace

void unmask_remask_(const UnmaskRemaskParams& p) {
  parallel_for(p.batch, 8, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) remask_sequence(p, b);
  });
}

}  // namespace tokenburst::TB_ISA
