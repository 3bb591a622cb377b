// One thread per entry. The first entry of a bucket learns all entries of that bucket in order,
// the other threads have nothing to do; buckets share no memory, so the order of threads does not
// matter.
#include "common/cuda.cuh"
#include "ngram/ngram_update_.h"

namespace tokenburst {
namespace {

constexpr int threads = 64;

__global__ void hash_kernel(NgramUpdateParams p, int64_t entries) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (e < entries) p.contexts[e] = ngram_entry(p, e);
}

__global__ void learn_kernel(NgramUpdateParams p, int64_t entries) {
  const int64_t mine = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (mine >= entries || p.contexts[mine] == 0) return;
  const int64_t bucket = ngram_bucket(p.contexts[mine], p.slots);
  for (int64_t e = 0; e < entries; ++e) {
    const uint64_t hash = p.contexts[e];
    if (hash == 0 || ngram_bucket(hash, p.slots) != bucket) continue;
    if (e < mine) return;
    ngram_learn(p, e, hash);
  }
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_ngram_update__cuda(const tokenburst::NgramUpdateParams* p, void* stream) {
  const int64_t entries = p->batch * p->text.nodes * (p->most - p->least + 1);
  const dim3 grid((entries + tokenburst::threads - 1) / tokenburst::threads),
      block(tokenburst::threads);
  const int error =
      tokenburst::launch(tokenburst::hash_kernel, grid, block, 0, stream, *p, entries);
  if (error != 0) return error;
  return tokenburst::launch(tokenburst::learn_kernel, grid, block, 0, stream, *p, entries);
}
