// A block of a row is read twice while it is in the first cache level: for the largest logit of
// each of 64 lanes, and again where one of them exceeds the k-th best so far. At a row's first
// block the k-th best of the lanes stands in for that: k logits reach it, and few others do, so
// that little is ever inserted.
#include "common/parallel.h"
#include "common/simd.h"
#include "vocab/top_cpu.h"
#include "vocab/vocab_top.h"

namespace tokenburst::TB_ISA {
namespace {

constexpr int64_t block = 2048;
constexpr int64_t chunk = vocab_top_cpu_chunk;
constexpr int vectors = 8, lanes = 8 * vectors;
static_assert(chunk % block == 0 && lanes >= vocab_top_max_k);

// Largest logit of each lane, NaN left out; n is a multiple of 8.
template <class T>
void lane_maxima(const T* l, int64_t n, F32x8 (&most)[vectors]) {
  for (F32x8& m : most) m = F32x8::splat(-infinity);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) most[v] = max(F32x8::load(l + i + 8 * v), most[v]);
  }
  for (int v = 0; i < n; i += 8, ++v) most[v] = max(F32x8::load(l + i), most[v]);
}

// The k-th best of the lanes, which at least k logits reach; -inf where fewer lanes hold a number.
float kth_best(const F32x8 (&most)[vectors], int32_t k) {
  float maxima[lanes], values[vocab_top_max_k];
  int32_t ids[vocab_top_max_k];
  for (int v = 0; v < vectors; ++v) most[v].store(maxima + 8 * v);
  Top top{values, ids, 0, k, -infinity};
  top.scan(maxima, lanes, 0);
  return top.floor;
}

// Offers what exceeds the list's worst; n is a multiple of 8.
template <class T>
void scan(Top& top, const T* l, int64_t n, int64_t first_id) {
  for (int64_t i = 0; i < n; i += 8) {
    unsigned above = greater(F32x8::load(l + i), F32x8::splat(top.floor));
    for (; above; above &= above - 1) {
      const int lane = __builtin_ctz(above);
      top.offer(widen(l[i + lane]), first_id + i + lane);
    }
  }
}

// The same for a list that is empty, where at least `capacity` logits reach `bound`.
template <class T>
void scan_from(Top& top, float bound, const T* l, int64_t n, int64_t first_id) {
  const F32x8 least = F32x8::splat(bound);
  for (int64_t i = 0; i < n; i += 8) {
    unsigned reached = ~greater(least, F32x8::load(l + i)) & 0xffu;  // or NaN
    for (; reached; reached &= reached - 1) {
      const int lane = __builtin_ctz(reached);
      const float logit = widen(l[i + lane]);
      if (logit >= bound) top.offer(logit, first_id + i + lane);
    }
  }
}

template <class T>
void add_block(Top& top, const T* l, int64_t n, int64_t first_id) {
  const int64_t whole = n / 8 * 8;
  F32x8 most[vectors];
  lane_maxima(l, whole, most);
  if (top.size == 0) {
    const float bound = kth_best(most, top.capacity);
    if (bound > -infinity) {
      scan_from(top, bound, l, whole, first_id);
    } else {
      scan(top, l, whole, first_id);
    }
  } else {
    F32x8 best = most[0];
    for (int v = 1; v < vectors; ++v) best = max(best, most[v]);
    if (greater(best, F32x8::splat(top.floor))) scan(top, l, whole, first_id);
  }
  for (int64_t i = whole; i < n; ++i) top.offer(widen(l[i]), first_id + i);
}

void write_row(const VocabTopParams& p, int64_t row, const Top& top) {
  for (int64_t i = 0; i < p.k; ++i) {
    p.ids[row * p.k + i] = i < top.size ? top.ids[i] : -1;
    p.values[row * p.k + i] = i < top.size ? top.values[i] : -infinity;
  }
}

// What a chunk leaves behind: how many, values, ids.
struct Part {
  int32_t* size;
  float* values;
  int32_t* ids;
  Part(const VocabTopParams& p, int64_t index)
      : size(reinterpret_cast<int32_t*>(static_cast<uint8_t*>(p.workspace) +
                                        index * vocab_top_cpu_part(p.k))),
        values(reinterpret_cast<float*>(size + 1)),
        ids(size + 1 + p.k) {}
};

// Chunks [begin, end), numbered (row, chunk). The best so far carries over from chunk to chunk of a
// row, and the last one here writes it down.
template <class T>
void sweep(const VocabTopParams& p, int64_t begin, int64_t end) {
  const int64_t chunks = vocab_chunks(p.vocab, chunk);
  float values[vocab_top_max_k];
  int32_t ids[vocab_top_max_k];
  Top top{values, ids, 0, static_cast<int32_t>(p.k), -infinity};
  for (int64_t index = begin; index < end; ++index) {
    const int64_t row = index / chunks, c = index % chunks;
    if (c == 0 || index == begin) top.clear();
    if (vocab_top_reads(p, row)) {
      const T* l = static_cast<const T*>(p.logits) + row / p.row_length * p.outer_stride +
                   row % p.row_length * p.row_stride;
      const int64_t stop = (c + 1) * chunk < p.vocab ? (c + 1) * chunk : p.vocab;
      for (int64_t first = c * chunk; first < stop; first += block) {
        add_block(top, l + first, stop - first < block ? stop - first : block, first);
      }
    }
    if (chunks == 1) {
      write_row(p, row, top);
      continue;
    }
    const Part part(p, index);
    const bool last = c + 1 == chunks || index + 1 == end;
    *part.size = last ? top.size : 0;
    for (int32_t i = 0; i < *part.size; ++i) {
      part.values[i] = values[i];
      part.ids[i] = ids[i];
    }
  }
}

// Chunks in ascending order, so that of equal values the lower ids come first.
void merge(const VocabTopParams& p, int64_t row) {
  const int64_t chunks = vocab_chunks(p.vocab, chunk);
  float values[vocab_top_max_k];
  int32_t ids[vocab_top_max_k];
  Top top{values, ids, 0, static_cast<int32_t>(p.k), -infinity};
  for (int64_t c = 0; c < chunks; ++c) {
    const Part part(p, row * chunks + c);
    for (int32_t i = 0; i < *part.size && part.values[i] > top.floor; ++i) {
      top.insert(part.values[i], part.ids[i]);
    }
  }
  write_row(p, row, top);
}

}  // namespace

void vocab_top(const VocabTopParams& p) {
  const int64_t rows = p.batch * p.row_length, chunks = vocab_chunks(p.vocab, chunk);
  const int64_t size = p.vocab < chunk ? p.vocab : chunk;
  parallel_for(rows * chunks, 65536 / size + 1, [&](int64_t begin, int64_t end) {
    switch (p.dtype) {
      case DType::f32:
        return sweep<float>(p, begin, end);
      case DType::f16:
        return sweep<Half>(p, begin, end);
      case DType::bf16:
        return sweep<BFloat>(p, begin, end);
    }
  });
  if (chunks == 1) return;
  parallel_for(rows, 256, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) merge(p, row);
  });
}

}  // namespace tokenburst::TB_ISA
