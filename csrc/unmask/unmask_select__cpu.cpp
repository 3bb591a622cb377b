// Keys first, then the smallest key that is chosen: from the threshold if it lets enough through,
// otherwise found bit by bit from the top. Nothing of x is written before all keys are known.
#include "common/parallel.h"
#include "unmask/unmask_select_.h"

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

uint64_t least_chosen(const UnmaskSelectParams& p, int64_t b, const uint64_t* keys) {
  if (p.commit_all && p.commit_all[b]) return 1;
  const uint64_t threshold = threshold_key(p, b);
  const int64_t k = wanted(p, b);
  if (count_from(keys, p.candidates, threshold) >= k) return threshold;
  if (count_from(keys, p.candidates, 1) <= k) return 1;
  return kth_largest(keys, p.candidates, k);
}

void select_sequence(const UnmaskSelectParams& p, int64_t b) {
  const int64_t row = b * p.candidates;
  auto* keys =
      static_cast<uint64_t*>(scratch(p.candidates * sizeof(uint64_t) + p.length * sizeof(int32_t)));
  auto* owner = reinterpret_cast<int32_t*>(keys + p.candidates);
  for (int64_t i = p.candidates - 1; i >= 0; --i) {  // backwards: the first one stays
    const int64_t position = masked_position(p, b, i);
    if (position >= 0) owner[position] = static_cast<int32_t>(i);
  }
  int32_t masks = 0, chosen = 0;
  for (int64_t i = 0; i < p.candidates; ++i) {
    const int64_t position = masked_position(p, b, i);
    const bool takes_part = position >= 0 && owner[position] == i;
    keys[i] = takes_part ? key_of(p, b, i, position) : 0;
    masks += takes_part;
  }
  const uint64_t least = least_chosen(p, b, keys);
  for (int64_t i = 0; i < p.candidates; ++i) {
    const bool commit = keys[i] >= least;
    p.committed[row + i] = commit;
    chosen += commit;
    if (commit) write_x(p, b, p.position[row + i], p.token[row + i]);
  }
  p.n_committed[b] = chosen;
  p.n_left[b] = masks - chosen;
}

}  // namespace

void unmask_select_(const UnmaskSelectParams& p) {
  parallel_for(p.batch, 8, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) select_sequence(p, b);
  });
}

}  // namespace tokenburst::TB_ISA
