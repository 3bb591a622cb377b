#include "common/parallel.h"

#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <new>
#include <thread>

namespace tokenburst {
namespace {

struct Arena {
  void* data = nullptr;
  size_t size = 0;
  ~Arena() { std::free(data); }
};

}  // namespace

void parallel_for(int64_t n, int64_t grain, ParallelBody body, void* context) {
  if (n <= grain) {
    if (n > 0) body(context, 0, n);
    return;
  }
  torch::stable::parallel_for(0, n, grain,
                              [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

int64_t thread_count() { return torch::stable::get_num_threads(); }

void give_way() { std::this_thread::yield(); }

void* scratch(size_t bytes) {
  thread_local Arena arena;
  if (bytes > arena.size) {
    std::free(arena.data);
    arena.size = 0;
    const size_t rounded = (bytes + 63) / 64 * 64;
    arena.data = std::aligned_alloc(64, rounded);
    if (!arena.data) throw std::bad_alloc();
    arena.size = rounded;
  }
  return arena.data;
}

}  // namespace tokenburst
