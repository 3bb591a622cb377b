#pragma once
// What the front doors of the SparseD pattern ask of lengths that can be read on the host.
#include "attention/sparsed.h"
#include "common/check.h"

namespace tokenburst {

inline void check_block(const Check& check, int64_t block) {
  check.that(block == 32 || block == 64 || block == 128, "block", "32, 64 or 128", block);
}

inline void check_parts(const Check& check, const Ints& kv_len, const Ints& prompt_len,
                        int64_t batch, int64_t length) {
  if (!check.on_cpu()) return;
  for (int64_t b = 0; b < batch; ++b) {
    const auto up_to = [&](const char* name, int64_t most) {
      return "0 <= " + std::string(name) + " <= " + std::to_string(most) + " in sequence " +
             std::to_string(b);
    };
    const int64_t rows = kv_len.present() ? kv_len[b] : length;
    check.that(0 <= rows && rows <= length, "kv_len", up_to("kv_len", length), rows);
    const int64_t prompt = prompt_len.present() ? prompt_len[b] : 0;
    check.that(0 <= prompt && prompt <= rows, "prompt_len", up_to("prompt_len", rows), prompt);
  }
}

}  // namespace tokenburst
