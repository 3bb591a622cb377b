#pragma once
// State of the running block, shared by the scheduler (runtime.cpp) and the checks (checks.cpp).
#include <cuda_runtime.h>

#include <cstdarg>
#include <string>
#include <vector>

namespace simt {

constexpr int warp_size = 32, max_threads = 1024;
constexpr size_t stack_bytes = 64 * 1024, max_shared = 227 * 1024;

enum class State : uint8_t { ready, waiting, done };

struct Copy {
  char* shared;
  const char* source;
  char data[16];
  Where where;
};

struct Fiber {
  void* stack_pointer;
  State state;
  int id;
  uint3 thread;
  Where waits;  // of a waiting fiber: where, and in what
  const char* waits_in;
  uint32_t clock;  // counts this thread's __syncwarp calls and named barriers
  // Clocks of the block's threads that are ordered before now; only its own warp's are kept
  // while no thread has come to a named barrier.
  uint32_t seen[max_threads];
  std::vector<std::vector<Copy>> copies;  // asynchronous copies in flight; the last group is open
  char* stack;                            // lowest address
};

// A warp collective that some lanes of its mask have reached.
struct Pending {
  unsigned mask, arrived;
  int kind;
  Where where;
};

struct Warp {
  unsigned alive, ready;
  void* argument[warp_size];
  std::vector<Pending> pending;
};

struct Range {
  char *begin = nullptr, *end = nullptr;
  bool holds(const void* p, size_t bytes) const {
    return begin <= p && static_cast<const char*>(p) + bytes <= end;
  }
  bool touches(const void* p) const { return begin <= p && p < end; }
};

struct Block {
  dim3 grid, size;
  uint3 index;
  const void* kernel = nullptr;
  int threads = 0, alive = 0;
  uint32_t epoch =
      0;  // counts block barriers, never restarts; an access in an older epoch is ordered
  uint32_t grid_epoch = 0;   // of the grid's start
  uint32_t first_epoch = 0;  // of this block: shared memory written before it is uninitialised
  bool named = false;        // some thread has come to a named barrier
  Range dynamic, fixed, stacks;
};

extern Block block;
extern Fiber fibers[max_threads];
extern Warp warps[max_threads / warp_size];
extern Fiber* current;  // null while the host runs

inline Warp& warp_of(const Fiber& fiber) { return warps[fiber.id / warp_size]; }
inline int lane_of(const Fiber& fiber) { return fiber.id % warp_size; }

// runtime.cpp
void make_ready(Fiber& fiber);
void wait(const char* in, Where where);  // until make_ready; others run meanwhile
void may_lose_turn();                    // others run first, at random, in shuffled order
[[noreturn]] void end_grid(const std::string& message);
// The stacks: their guard pages are many mappings, of which a process has a limited number.
void release_memory();

// warp.cpp: completes what only waited for lanes that have ended
void settle(Warp& warp);

// named_barrier.cpp
void start_named_barriers();
std::string unfinished_named_barriers();  // how many threads each has
void end_named_barriers();                // of the block; fails if one is incomplete

// report.cpp
// Ends the grid with a message that names kernel, block, thread and line.
[[noreturn]] void fail(Where where, const char* format, ...) __attribute__((format(printf, 2, 3)));
[[noreturn]] void fail_at(const void* address, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

// "file:line" of code in this library, inlined callers included.
std::string source_of(const void* code);

// checks.cpp
enum class Access { read, write, atomic, read_only };
void check_access(const void* p, size_t bytes, Access access, Where where, const void* code);
void check_in_flight(const void* p, bool in_flight, Where where);  // 16 bytes of shared memory
void start_checks(const void* context, size_t bytes);              // of a grid with these arguments
void start_block_checks();

}  // namespace simt
