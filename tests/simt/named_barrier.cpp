// Barriers 1 to 15 of a block: they count threads, and some of these do not wait. What a thread did
// before it came is ordered before what those that waited do afterwards.
#include "runtime.h"

#include <algorithm>
#include <bitset>

namespace simt {
namespace {

constexpr int barriers = 16;  // 0 is __syncthreads, kept elsewhere
const char* const names[barriers] = {
    "",
    "named barrier 1",
    "named barrier 2",
    "named barrier 3",
    "named barrier 4",
    "named barrier 5",
    "named barrier 6",
    "named barrier 7",
    "named barrier 8",
    "named barrier 9",
    "named barrier 10",
    "named barrier 11",
    "named barrier 12",
    "named barrier 13",
    "named barrier 14",
    "named barrier 15",
};

struct NamedBarrier {
  int count, threads, last;  // came, expected, the last one that came
  Where where;               // of that one
  std::bitset<max_threads> here, waiting;
  uint32_t joined[max_threads];  // what is ordered before its completion
};
NamedBarrier named[barriers];

// Until a block's first named barrier threads know only the clocks of their own warp.
void widen_clocks() {
  block.named = true;
  for (int i = 0; i < block.threads; ++i) {
    const int begin = i / warp_size * warp_size;
    uint32_t* seen = fibers[i].seen;
    std::fill(seen, seen + begin, 0);
    std::fill(seen + begin + warp_size, seen + max_threads, 0);
  }
}

void complete(NamedBarrier& barrier) {
  for (int i = 0; i < block.threads; ++i) {
    if (!barrier.waiting[i]) continue;
    Fiber& f = fibers[i];
    for (int k = 0; k < block.threads; ++k) f.seen[k] = std::max(f.seen[k], barrier.joined[k]);
    make_ready(f);
  }
  barrier.count = 0;
}

}  // namespace

void start_named_barriers() {
  block.named = false;
  for (NamedBarrier& barrier : named) barrier.count = 0;
}

std::string unfinished_named_barriers() {
  std::string text;
  for (int id = 1; id < barriers; ++id) {
    const NamedBarrier& b = named[id];
    if (b.count == 0) continue;
    text += std::string(" ") + names[id] + " has " + std::to_string(b.count) + " of its " +
            std::to_string(b.threads) + " threads;";
  }
  return text;
}

void end_named_barriers() {
  for (const NamedBarrier& b : named) {
    if (b.count == 0) continue;
    current = &fibers[b.last];
    fail(b.where, "the block ended with incomplete barriers:%s",
         unfinished_named_barriers().c_str());
  }
}

void named_barrier(bool waits, int id, int threads, Where where) {
  if (id < 1 || id >= barriers) {
    fail(where, "named barrier %d: ids are 1 to 15, 0 is __syncthreads", id);
  }
  if (threads <= 0 || threads % warp_size) {
    fail(where, "%s of %d threads, no positive multiple of the warp size", names[id], threads);
  }
  if (threads > block.threads) {
    fail(where, "%s of %d threads in a block of %d", names[id], threads, block.threads);
  }
  if (!waits) may_lose_turn();
  if (!block.named) widen_clocks();
  Fiber& self = *current;
  NamedBarrier& b = named[id];
  if (b.count == 0) {
    b.threads = threads;
    b.here.reset();
    b.waiting.reset();
    std::fill(b.joined, b.joined + block.threads, 0);
  } else if (b.threads != threads) {
    fail(where, "%s of %d threads, but thread %d came to it with %d, at %s:%d", names[id], threads,
         b.last, b.threads, b.where.file, b.where.line);
  } else if (b.here[self.id]) {
    fail(where, "%s: this thread comes again, but it has only %d of its %d threads", names[id],
         b.count, threads);
  }
  ++b.count;
  b.last = self.id;
  b.where = where;
  b.here[self.id] = true;
  b.waiting[self.id] = waits;
  for (int k = 0; k < block.threads; ++k) b.joined[k] = std::max(b.joined[k], self.seen[k]);
  self.seen[self.id] = ++self.clock;  // what follows is not ordered by this barrier
  const bool last = b.count == threads;
  if (last) complete(b);
  if (!waits) return;
  // Go on with the first thread of the order, not with the last one to arrive.
  if (last) {
    yield();
  } else {
    wait(names[id], where);
  }
}

}  // namespace simt
