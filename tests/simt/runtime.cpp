// Blocks one after another, one fiber per thread of a block. A fiber runs until it waits or ends;
// whatever waits for other threads (barriers, warp collectives) is decided here, so a thread that
// never comes is seen.
#include "runtime.h"

#include <dlfcn.h>
#include <link.h>
#include <simt.h>
#include <sys/mman.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <string>

#ifndef __x86_64__
#include <ucontext.h>
#endif

extern "C" void* __tls_get_addr(size_t*);

namespace simt {

Block block;
Fiber fibers[max_threads];
Fiber* current = nullptr;
Warp warps[max_threads / warp_size];

namespace {

enum Order { forward, reverse, shuffled };

int warp_now;
Order order = forward;
uint64_t random_state;
unsigned char poison = 0xff;
std::string failure;
void (*body)(void*);
void* context;

struct {
  int arrived, count;
  Barrier kind;
  Where where;
  int result;
} gate;

uint32_t draw() {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<uint32_t>(random_state >> 33);
}

// --- switching -----------------------------------------------------------------------------------

#ifdef __x86_64__
void* host_stack_pointer;
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.hidden simt_switch
.globl simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret
.size simt_switch, .-simt_switch
)");

void start_stack(Fiber& fiber, void (*entry)()) {
  // Tops at different distances from a page, or all stacks would share a few cache sets.
  const size_t stagger = fiber.id * 832 % 16384;
  void** top = reinterpret_cast<void**>(fiber.stack + stack_bytes - stagger);
  *--top = nullptr;  // entry's return address; it never returns
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
}
void to_fiber(Fiber* from, Fiber* to) {
  current = to;
  simt_switch(from ? &from->stack_pointer : &host_stack_pointer, to->stack_pointer);
}
void to_host(Fiber* from) {
  current = nullptr;
  simt_switch(&from->stack_pointer, host_stack_pointer);
}
#else
ucontext_t host_context, contexts[max_threads];

void start_stack(Fiber& fiber, void (*entry)()) {
  ucontext_t& c = contexts[fiber.id];
  getcontext(&c);
  c.uc_stack.ss_sp = fiber.stack;
  c.uc_stack.ss_size = stack_bytes;
  c.uc_link = nullptr;
  makecontext(&c, entry, 0);
}
void to_fiber(Fiber* from, Fiber* to) {
  current = to;
  swapcontext(from ? &contexts[from->id] : &host_context, &contexts[to->id]);
}
void to_host(Fiber* from) {
  current = nullptr;
  swapcontext(&contexts[from->id], &host_context);
}
#endif

// --- scheduling ----------------------------------------------------------------------------------

int pick_lane(unsigned ready) {
  if (order == forward) return __builtin_ctz(ready);
  if (order == reverse) return 31 - __builtin_clz(ready);
  const int turn = draw() % warp_size;
  const unsigned rotated = ready >> turn | (turn ? ready << (warp_size - turn) : 0);
  return (__builtin_ctz(rotated) + turn) % warp_size;
}

Fiber* pick() {
  const int n = (block.threads + warp_size - 1) / warp_size;
  int w = warp_now;
  if (order == shuffled) w = draw() % n;
  for (int tried = 0; tried < n; ++tried) {
    if (warps[w].ready) {
      warp_now = w;
      return &fibers[w * warp_size + pick_lane(warps[w].ready)];
    }
    w = order == reverse ? (w + n - 1) % n : (w + 1) % n;
  }
  return nullptr;
}

void resume_others();

// "0-3, 7": thread ids that wait in the same place.
std::string waiting_threads(const char* in, Where where) {
  std::string text;
  for (int i = 0; i < block.threads; ++i) {
    auto same = [&](int t) {
      const Fiber& f = fibers[t];
      return t < block.threads && f.state == State::waiting && f.waits_in == in &&
             f.waits.line == where.line && f.waits.file == where.file;
    };
    if (!same(i)) continue;
    const int first = i;
    while (same(i + 1)) ++i;
    text += (text.empty() ? "" : ", ") + std::to_string(first);
    if (i > first) text += "-" + std::to_string(i);
  }
  return text;
}

[[noreturn]] void deadlock() {
  std::string text = "deadlock: every thread that has not ended waits:";
  std::string told;
  for (int i = 0; i < block.threads; ++i) {
    const Fiber& f = fibers[i];
    if (f.state != State::waiting) continue;
    const std::string place =
        std::string(f.waits_in) + " at " + f.waits.file + ":" + std::to_string(f.waits.line);
    if (told.find(place) != std::string::npos) continue;
    told += place;
    text += " threads " + waiting_threads(f.waits_in, f.waits) + " in " + place + ";";
  }
  text += unfinished_named_barriers();
  // The thread that saw it may have ended; then one that waits is named.
  for (int i = 0; current->state != State::waiting; ++i) current = &fibers[i];
  fail(current->waits, "%s", text.c_str());
}

void resume_others() {
  Fiber* self = current;
  Fiber* next = pick();
  if (!next) deadlock();
  if (next != self) to_fiber(self, next);
}

void run_fiber() {
  body(context);
  Fiber& self = *current;
  Warp& warp = warp_of(self);
  self.state = State::done;
  warp.alive &= ~(1u << lane_of(self));
  warp.ready &= warp.alive;
  --block.alive;
  if (gate.arrived > 0) {
    fail(gate.where, "divergent barrier: this thread ended while threads %s wait in a barrier",
         waiting_threads("a barrier", gate.where).c_str());
  }
  settle(warp);
  if (block.alive == 0) {
    end_named_barriers();
    to_host(&self);
  }
  resume_others();
}

// --- grids ---------------------------------------------------------------------------------------

char* map(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    perror("the executor cannot map memory");
    abort();
  }
  return static_cast<char*>(p);
}

void map_memory() {
  if (block.stacks.begin) return;
  const size_t stacks = stack_bytes * max_threads;
  block.stacks.begin = map(stacks);
  block.stacks.end = block.stacks.begin + stacks;
  for (int i = 0; i < max_threads; ++i) {
    fibers[i].id = i;
    fibers[i].stack = block.stacks.begin + i * stack_bytes;
    mprotect(fibers[i].stack, 4096, PROT_NONE);  // an overflow ends the process, not another thread
  }
  // 16-byte aligned as TB_DYNAMIC_SHARED promises, and no more.
  if (!block.dynamic.begin) block.dynamic.begin = map(max_shared + 4096) + 16;
}

// The thread-local segment of this library: the kernels' static shared variables, nothing else.
int find_fixed(dl_phdr_info* info, size_t, void*) {
  const auto here = reinterpret_cast<uintptr_t>(&block);
  bool mine = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& h = info->dlpi_phdr[i];
    const uintptr_t begin = info->dlpi_addr + h.p_vaddr;
    mine |= h.p_type == PT_LOAD && begin <= here && here < begin + h.p_memsz;
  }
  if (!mine) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
    size_t index[2] = {info->dlpi_tls_modid, 0};
    block.fixed.begin = static_cast<char*>(__tls_get_addr(index));
    block.fixed.end = block.fixed.begin + info->dlpi_phdr[i].p_memsz;
  }
  return 1;
}

void start_block() {
  memset(block.fixed.begin, poison, block.fixed.end - block.fixed.begin);
  memset(block.dynamic.begin, poison, block.dynamic.end - block.dynamic.begin);
  block.alive = block.threads;
  block.first_epoch = ++block.epoch;
  start_block_checks();
  start_named_barriers();
  gate = {};
  for (int w = 0; w * warp_size < block.threads; ++w) {
    const int lanes = std::min(warp_size, block.threads - w * warp_size);
    warps[w].alive = warps[w].ready = lanes == warp_size ? 0xffffffffu : (1u << lanes) - 1;
    warps[w].pending.clear();
  }
  for (int i = 0; i < block.threads; ++i) {
    Fiber& f = fibers[i];
    f.state = State::ready;
    f.thread = {i % block.size.x, i / block.size.x % block.size.y,
                i / (block.size.x * block.size.y)};
    f.clock = 1;
    memset(f.seen + i / warp_size * warp_size, 0, warp_size * sizeof *f.seen);
    f.seen[i] = 1;
    f.copies.clear();
    start_stack(f, run_fiber);
  }
  warp_now = order == reverse ? (block.threads - 1) / warp_size : 0;
}

}  // namespace

void release_memory() {
  if (block.stacks.begin) munmap(block.stacks.begin, stack_bytes * max_threads);
  block.stacks = {};
}

void make_ready(Fiber& fiber) {
  fiber.state = State::ready;
  warp_of(fiber).ready |= 1u << lane_of(fiber);
}

void wait(const char* in, Where where) {
  Fiber& self = *current;
  self.state = State::waiting;
  self.waits = where;
  self.waits_in = in;
  warp_of(self).ready &= ~(1u << lane_of(self));
  resume_others();
}

void may_lose_turn() {
  if (order == shuffled && draw() % 4 == 0) resume_others();
}

void end_grid(const std::string& message) {
  failure = message;
  if (getenv("TB_SIMT_BREAK")) raise(SIGTRAP);
  Fiber* self = current;
  current = nullptr;
  to_host(self);
  __builtin_unreachable();
}

uint3 thread_idx() { return current->thread; }
uint3 block_idx() { return block.index; }
dim3 block_dim() { return block.size; }
dim3 grid_dim() { return block.grid; }
void* dynamic_shared() { return block.dynamic.begin; }

int barrier(Barrier kind, int predicate, Where where) {
  if (gate.arrived == 0) {
    gate.kind = kind;
    gate.where = where;
    gate.count = 0;
  } else if (gate.kind != kind || gate.where.line != where.line || gate.where.file != where.file) {
    fail(where, "divergent barrier: threads %s wait in another one, at %s:%d",
         waiting_threads("a barrier", gate.where).c_str(), gate.where.file, gate.where.line);
  }
  if (block.alive < block.threads) {
    fail(where, "divergent barrier: %d threads of the block have already ended",
         block.threads - block.alive);
  }
  ++gate.arrived;
  gate.count += predicate != 0;
  if (gate.arrived < block.alive) {
    wait("a barrier", where);
    return gate.result;
  }
  switch (kind) {
    case Barrier::sync:
      gate.result = 0;
      break;
    case Barrier::count:
      gate.result = gate.count;
      break;
    case Barrier::all:
      gate.result = gate.count == gate.arrived;
      break;
    case Barrier::any:
      gate.result = gate.count > 0;
      break;
  }
  gate.arrived = 0;
  ++block.epoch;
  const int result = gate.result;
  for (int i = 0; i < block.threads; ++i) make_ready(fibers[i]);
  // Go on with the first thread of the order, not with the last one to arrive.
  resume_others();
  return result;
}

void yield() { resume_others(); }

// Lanes run one at a time, so the others may or may not be here: only the calling lane is sure.
unsigned active_mask() { return 1u << lane_of(*current); }

void atomic_access(const void* p, int bytes, Where where) {
  may_lose_turn();
  if (reinterpret_cast<uintptr_t>(p) % bytes) {
    fail(where, "misaligned atomic: %p is not a multiple of %d", p, bytes);
  }
  check_access(p, bytes, Access::atomic, where, nullptr);
}

void read_only_access(const void* p, int bytes, Where where) {
  check_access(p, bytes, Access::read_only, where, nullptr);
}

unsigned shared_address(const void* p, Where where) {
  if (block.dynamic.touches(p)) return static_cast<const char*>(p) - block.dynamic.begin + 0x10000;
  if (block.fixed.touches(p)) return static_cast<const char*>(p) - block.fixed.begin;
  fail(where, "%p is no address of shared memory", p);
}

void copy_async(void* shared, const void* global, bool fill, Where where) {
  char* to = static_cast<char*>(shared);
  if (reinterpret_cast<uintptr_t>(to) % 16 || (fill && reinterpret_cast<uintptr_t>(global) % 16)) {
    fail(where, "misaligned cp.async: shared %p and global %p must be multiples of 16", shared,
         global);
  }
  if (!block.dynamic.holds(to, 16) && !block.fixed.holds(to, 16)) {
    fail(where, "cp.async writes outside shared memory, at %p", shared);
  }
  Copy copy{to, static_cast<const char*>(global), {}, where};
  if (fill) {
    check_access(global, 16, Access::read_only, where, nullptr);
    memcpy(copy.data, global, 16);
  }
  check_access(to, 16, Access::write, where, nullptr);
  check_in_flight(to, true, where);
  memset(to, poison, 16);  // what a thread that does not wait would see
  auto& groups = current->copies;
  if (groups.empty()) groups.emplace_back();
  groups.back().push_back(copy);
}

void copy_async_commit() {
  auto& groups = current->copies;
  if (groups.empty()) groups.emplace_back();
  groups.emplace_back();  // the next group, open
}

void copy_async_wait(int pending) {
  auto& groups = current->copies;
  const int closed = static_cast<int>(groups.size()) - 1;
  if (closed <= pending) return;
  for (int g = 0; g < closed - pending; ++g) {
    for (const Copy& copy : groups[g]) {
      check_in_flight(copy.shared, false, copy.where);
      check_access(copy.shared, 16, Access::write, copy.where, nullptr);
      memcpy(copy.shared, copy.data, 16);
    }
  }
  groups.erase(groups.begin(), groups.begin() + (closed - pending));
}

int run_grid(dim3 grid, dim3 size, size_t shared, void (*run_body)(void*), void* run_context,
             const void* kernel, size_t context_bytes) {
  failure.clear();
  const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  const uint64_t threads = static_cast<uint64_t>(size.x) * size.y * size.z;
  if (blocks == 0) return 0;
  if (threads == 0 || threads > max_threads || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535 || shared > max_shared) {
    failure = "invalid launch: grid (" + std::to_string(grid.x) + "," + std::to_string(grid.y) +
              "," + std::to_string(grid.z) + "), " + std::to_string(threads) + " threads, " +
              std::to_string(shared) + " bytes of dynamic shared memory";
    return cudaErrorInvalidConfiguration;
  }
  map_memory();
  dl_iterate_phdr(find_fixed, nullptr);
  body = run_body;
  context = run_context;
  block.kernel = kernel;
  block.grid = grid;
  block.size = size;
  block.threads = static_cast<int>(threads);
  block.dynamic.end = block.dynamic.begin + shared;
  block.grid_epoch = block.epoch + 1;
  start_checks(run_context, context_bytes);

  std::vector<uint64_t> sequence(blocks);
  for (uint64_t i = 0; i < blocks; ++i) sequence[i] = order == reverse ? blocks - 1 - i : i;
  if (order == shuffled) {
    for (uint64_t i = blocks - 1; i > 0; --i) std::swap(sequence[i], sequence[draw() % (i + 1)]);
  }
  for (uint64_t i : sequence) {
    block.index = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                   static_cast<unsigned>(i / (static_cast<uint64_t>(grid.x) * grid.y))};
    start_block();
    to_fiber(nullptr, pick());
    if (!failure.empty()) return -1;
  }
  return 0;
}

}  // namespace simt

#define SIMT_EXPORT extern "C" __attribute__((visibility("default")))

const char* cudaGetErrorString(cudaError_t) { return simt::failure.c_str(); }

// order: 0 forward, 1 reverse, 2 shuffled by the seed; poison fills shared memory before each
// block.
SIMT_EXPORT void simt_schedule(int order, uint64_t seed, int poison) {
  simt::order = static_cast<simt::Order>(order);
  simt::random_state = seed;
  simt::poison = static_cast<unsigned char>(poison);
}
