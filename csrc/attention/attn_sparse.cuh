#pragma once
// What the kernels of attn_sparse share: which queries a block of threads has, and the walk over
// the keys they selected. All threads walk a row of the bitmask alike, 32 keys at a time.
#include "attention/attention.cuh"
#include "attention/attn_sparse.h"

namespace tokenburst {
namespace {

constexpr int kv_tile = 32;

// The query rows of one block of threads. Lengths fit in 32 bits: the front door sees to that.
struct Place {
  int b, head, kv_head;
  int q_block, first, end;  // query rows [first, end)
  int keys;                 // of the sequence, clamped to the tensor
};

__device__ Place place_of(const AttnSparseParams& p, int rows) {
  Place at;
  const int tiles = (static_cast<int>(p.q_length) + rows - 1) / rows;
  const int heads = static_cast<int>(p.heads), row = blockIdx.x / tiles;
  at.first = static_cast<int>(blockIdx.x % tiles) * rows;
  at.end = min(at.first + rows, static_cast<int>(p.q_length));
  at.q_block = at.first / static_cast<int>(p.block);
  at.b = row / heads, at.head = row % heads;
  at.kv_head = at.head / (heads / static_cast<int>(p.kv_heads));
  const int64_t keys = p.kv_len.present() ? p.kv_len[at.b] : p.kv_length;
  at.keys = static_cast<int>(keys < 0 ? 0 : keys > p.kv_length ? p.kv_length : keys);
  return at;
}

// The tiles of selected keys in ascending order, the same for every thread. The word after the one
// in use is read ahead.
class Tiles {
 public:
  __device__ Tiles(const AttnSparseParams& p, const Place& at) : word_(-1), next_(0), left_(0) {
    bits_ = p.bits + at.b * p.bits_stride[0] + at.head * p.bits_stride[1] + at.q_block * p.words;
    ahead_ = p.words > 0 ? __ldg(bits_) : 0u;
  }

  __device__ int next(const AttnSparseParams& p, const Place& at) {  // first key, -1 = no more
    const int block = static_cast<int>(p.block);
    if ((next_ & (block - 1)) == 0 || next_ >= at.keys) {
      while (left_ == 0) {
        if (++word_ >= p.words) return -1;
        left_ = ahead_;
        ahead_ = word_ + 1 < p.words ? __ldg(bits_ + word_ + 1) : 0u;
      }
      next_ = (32 * word_ + __ffs(static_cast<int>(left_)) - 1) * block;
      left_ &= left_ - 1;
      if (next_ >= at.keys) return -1;  // blocks past the keys count for nothing
    }
    const int start = next_;
    next_ += kv_tile;
    return start;
  }

 private:
  const int32_t* bits_;
  int word_, next_;
  uint32_t left_, ahead_;
};

template <class T>
__device__ T* out_row(const AttnSparseParams& p, const Place& at, int row) {
  return static_cast<T*>(p.out) + ((at.b * p.q_length + row) * p.heads + at.head) * p.dim;
}

__device__ float& lse_of(const AttnSparseParams& p, const Place& at, int row) {
  return p.lse[(at.b * p.heads + at.head) * p.q_length + row];
}

}  // namespace
}  // namespace tokenburst
