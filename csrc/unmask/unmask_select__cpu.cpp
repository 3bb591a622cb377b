// Keys first, then the smallest key that is chosen: from the threshold if it lets enough through,
// otherwise found bit by bit from the top. Nothing of x is written before all keys are known.
#include "unmask/order_cpu.h"
#include "unmask/unmask_select_.h"

namespace tokenburst::TB_ISA {
namespace {

Prefix prefix_from(const UnmaskSelectParams& p, const uint64_t* keys, uint64_t least) {
  Prefix prefix{0, ~0ull, 0};
  for (int64_t i = 0; i < p.candidates; ++i) {
    if (keys[i] < least) continue;
    ++prefix.count;
    prefix.worst = keys[i] < prefix.worst ? keys[i] : prefix.worst;
    prefix.cost += p.budget ? cost_of(keys[i]) : 0;
  }
  return prefix;
}

// Smallest key from which on factor or budget admit everything.
uint64_t least_admitted(const UnmaskSelectParams& p, int64_t b, const uint64_t* keys) {
  if (!searches(p)) return ~0ull;
  uint64_t found = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t trial = found | ((1ull << bit) - 1);
    if (trial > 0 && !admits(p, b, prefix_from(p, keys, trial))) found |= 1ull << bit;
  }
  return found > 0 ? found : 1;
}

uint64_t least_counted(const UnmaskSelectParams& p, int64_t b, const uint64_t* keys) {
  if (p.commit_all && p.commit_all[b]) return 1;
  const uint64_t threshold = threshold_key(p, b);
  const int64_t k = wanted(p, b);
  if (count_from(keys, p.candidates, threshold) >= k) return threshold;
  if (count_from(keys, p.candidates, 1) <= k) return 1;
  return kth_largest(keys, p.candidates, k);
}

uint64_t least_chosen(const UnmaskSelectParams& p, int64_t b, const uint64_t* keys) {
  const uint64_t counted = least_counted(p, b, keys), admitted = least_admitted(p, b, keys);
  const uint64_t least = counted < admitted ? counted : admitted;
  if (!p.most.present() || count_from(keys, p.candidates, least) <= p.most[b]) return least;
  return p.most[b] < 1 ? ~0ull : kth_largest(keys, p.candidates, p.most[b]);
}

void select_sequence(const UnmaskSelectParams& p, int64_t b) {
  const int64_t row = b * p.candidates;
  auto* keys =
      static_cast<uint64_t*>(scratch(p.candidates * sizeof(uint64_t) + p.length * sizeof(int32_t)));
  auto* owner = reinterpret_cast<int32_t*>(keys + p.candidates);
  for (int64_t i = 0; p.near && i < p.length; ++i) owner[i] = nobody;
  for (int64_t i = p.candidates - 1; i >= 0; --i) {  // backwards: the first one stays
    const int64_t position = open_position(p, b, i);
    if (position >= 0) owner[position] = static_cast<int32_t>(i);
  }
  int32_t masks = 0, chosen = 0, edited = 0;
  for (int64_t i = 0; i < p.candidates; ++i) {
    const int64_t position = open_position(p, b, i);
    const bool takes_part = position >= 0 && owner[position] == i;
    const bool masked = takes_part && x_at(p, b, position) == p.mask_id;
    keys[i] = masked ? key_of(p, b, i, position) : 0;
    masks += masked;
    p.committed[row + i] = takes_part && !masked && edits(p, b, i, position);
    edited += p.committed[row + i];
  }
  const uint64_t least = least_chosen(p, b, keys), sure = threshold_key(p, b);
  for (int64_t i = 0; p.near && i < p.candidates; ++i) {
    if (keys[i] >= sure) owner[p.position[row + i]] = anchor;
  }
  for (int64_t i = 0; i < p.candidates; ++i) {
    const bool commit = keys[i] >= least || (keys[i] > 0 && beside_the_order(p, b, i, owner));
    if (commit || p.committed[row + i]) write_x(p, b, p.position[row + i], p.token[row + i]);
    chosen += commit;
    p.committed[row + i] |= commit;
  }
  p.n_committed[b] = chosen;
  p.n_left[b] = masks - chosen;
  p.n_edited[b] = edited;
}

}  // namespace

void unmask_select_(const UnmaskSelectParams& p) {
  parallel_for(p.batch, 8, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) select_sequence(p, b);
  });
}

}  // namespace tokenburst::TB_ISA
