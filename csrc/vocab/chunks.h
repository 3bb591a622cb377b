#pragma once
// How ops that sweep a row cut it into chunks. V alone decides, neither the batch nor the number of
// threads, so a row gives the same bits in any company.
#include <cstdint>

#include "common/types.h"

namespace tokenburst {
namespace {  // one copy per translation unit, see common/math.h

TB_HD constexpr int64_t vocab_cuda_chunk(int64_t vocab) { return vocab <= 65536 ? 8192 : 16384; }
TB_HD constexpr int64_t vocab_chunks(int64_t vocab, int64_t chunk) {
  return (vocab + chunk - 1) / chunk;
}

static_assert(vocab_chunks(1, vocab_cuda_chunk(1)) == 1);
static_assert(vocab_chunks(32000, vocab_cuda_chunk(32000)) == 4);
static_assert(vocab_chunks(65536, vocab_cuda_chunk(65536)) == 8);
static_assert(vocab_chunks(65537, vocab_cuda_chunk(65537)) == 5);
static_assert(vocab_chunks(128256, vocab_cuda_chunk(128256)) == 8);

}  // namespace
}  // namespace tokenburst
