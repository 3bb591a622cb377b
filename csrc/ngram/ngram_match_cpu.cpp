#include "common/parallel.h"
#include "ngram/ngram_match.h"

namespace tokenburst::TB_ISA {
namespace {

// Positions p in [0, n) with row[p] == value, to `visit` in order until it returns false. Nearly
// all tokens differ, so eight are compared before one is looked at.
template <class T, class F>
void each_equal(const T* row, int64_t n, T value, F visit) {
  int64_t p = 0;
  for (; p + 16 <= n; p += 16) {
    T differ = 1;
    for (int i = 0; i < 16; ++i) differ &= static_cast<T>(row[p + i] != value);
    if (differ) continue;
    for (int i = 0; i < 16; ++i) {
      if (row[p + i] == value && !visit(p + i)) return;
    }
  }
  for (; p < n; ++p) {
    if (row[p] == value && !visit(p)) return;
  }
}

template <class T>
void match_sequence(const NgramMatchParams& p, int64_t b) {
  const int64_t length = p.length[b], row = b * p.stride;
  const T* tokens = static_cast<const T*>(p.tokens.data) + row;
  int64_t best = 0, from = 0;
  const auto visit = [&](int64_t last) {
    const int64_t start = last + 1, n = ngram_match_at(p, row, length, start);
    if (n > best || (p.latest && n == best && n > 0)) {
      best = n;
      from = start;
    }
    return p.latest || best < p.most;
  };
  if (length > 1) each_equal(tokens, length - 1, tokens[length - 1], visit);
  const int64_t left = best > 0 ? length - from : 0, count = left < p.k ? left : p.k;
  int64_t* draft = p.draft + b * p.k;
  for (int64_t i = 0; i < p.k; ++i) draft[i] = i < count ? tokens[from + i] : -1;
  p.n_draft[b] = static_cast<int32_t>(count);
  p.match_len[b] = static_cast<int32_t>(best);
}

}  // namespace

void ngram_match(const NgramMatchParams& p) {
  parallel_for(p.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      p.tokens.wide ? match_sequence<int64_t>(p, b) : match_sequence<int32_t>(p, b);
    }
  });
}

}  // namespace tokenburst::TB_ISA
