#include "common/parallel.h"
#include "tree/tree_append_.h"

namespace tokenburst::TB_ISA {
namespace {

void append_sequence(const TreeAppendParams& p, int64_t b) {
  const int64_t n = p.n_accepted[b];
  int64_t* at = p.text + b * p.text_stride + p.length[b];
  int64_t count = 0;
  bool ended = false;
  for (const int64_t most = at_most(p, b, n); count < most && !ended; ++count) {
    at[count] = decided_token(p, b, count, n);
    ended = ends_text(p, at[count]);
  }
  close_step(p, b, count, ended);
}

}  // namespace

void tree_append_(const TreeAppendParams& p) {
  parallel_for(p.batch, 64, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) append_sequence(p, b);
  });
}

}  // namespace tokenburst::TB_ISA
