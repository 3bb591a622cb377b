#pragma once
// Threads and scratch memory for CPU kernels. Torch-free on purpose: only parallel.cpp knows whose
// threads these are.
#include <cstddef>
#include <cstdint>

namespace tokenburst {

using ParallelBody = void (*)(void* context, int64_t begin, int64_t end);
void parallel_for(int64_t n, int64_t grain, ParallelBody body, void* context);

// f(begin, end) over [0, n) in ranges of at least `grain`. Results must not depend on how the
// ranges fall.
template <class F>
inline void parallel_for(int64_t n, int64_t grain, F f) {
  parallel_for(
      n, grain,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<F*>(context))(begin, end); },
      &f);
}

// Threads that parallel_for may use.
int64_t thread_count();

// Lets another thread run: for one that waits for a moment.
void give_way();

// 64-byte aligned memory of the calling thread, valid until its next call; it grows and is kept.
void* scratch(size_t bytes);

}  // namespace tokenburst
