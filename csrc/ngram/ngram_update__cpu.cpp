// One thread, in order: contexts of one bucket may evict each other.
#include "ngram/ngram_update_.h"

namespace tokenburst::TB_ISA {

void ngram_update_(const NgramUpdateParams& p) {
  const int64_t entries = p.batch * p.text.nodes * (p.most - p.least + 1);
  for (int64_t e = 0; e < entries; ++e) {
    const uint64_t hash = ngram_entry(p, e);
    if (hash != 0) ngram_learn(p, e, hash);
  }
}

}  // namespace tokenburst::TB_ISA
