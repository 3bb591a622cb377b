// One warp per sequence, one lane per token: a vote finds the first one that ends the text.
#include "common/cuda.cuh"
#include "tree/tree_append_.h"

namespace tokenburst {
namespace {

__global__ void append_kernel(TreeAppendParams p) {
  const int64_t b = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t given = p.n_accepted[b], n = given < p.nodes ? given : p.nodes;
  const int64_t most = at_most(p, b, n);
  int64_t* at = p.text + b * p.text_stride + p.length[b];
  int64_t count = 0;
  bool ended = false;
  while (count < most && !ended) {
    const int64_t j = count + lane;
    const int64_t token = j < most ? decided_token(p, b, j, n) : -1;
    const unsigned ends = __ballot_sync(full_warp, j < most && ends_text(p, token));
    const int last = ends ? __ffs(static_cast<int>(ends)) - 1 : 31;
    if (j < most && lane <= last) at[j] = token;
    ended = ends != 0;
    count = count + last + 1 < most ? count + last + 1 : most;
  }
  __syncwarp();  // everybody has read the length
  if (lane == 0) close_step(p, b, count > 0 ? count : 0, ended);
}

}  // namespace
}  // namespace tokenburst

TB_EXPORT int tokenburst_tree_append__cuda(const tokenburst::TreeAppendParams* p, void* stream) {
  return tokenburst::launch(tokenburst::append_kernel, dim3(p->batch), dim3(32), 0, stream, *p);
}
