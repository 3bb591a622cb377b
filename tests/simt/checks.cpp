// What a kernel may touch, and when. Kernels are compiled with -fsanitize=thread and a few of
// -fsanitize=undefined, so the compiler calls in before every access; these are the answers, no
// sanitizer's runtime is linked.
//
// For every byte of shared memory and of tensors it is known who wrote it last and two who read it.
// An access is ordered before another one if a block barrier or the end of a grid lies between, or
// if it reached the other thread through __syncwarp and named barriers. Shuffles and votes order
// nothing, as on the device. What one block writes and another touches in the same grid is a race
// unless both are atomic or atomics of both lie between.
#include "runtime.h"

#include <link.h>
#include <sys/mman.h>

#include <cstdlib>

#include <string>

namespace simt {
namespace {

struct Stamp {  // of an access; zero = none
  uint64_t epoch : 32, clock : 20, thread : 10, atomic : 1, valid : 1;
};

struct Cell {
  Stamp write, read[2];
  const char* file;  // of the write; line 0: code address
  int line;
  uint32_t in_flight;  // epoch in which an asynchronous copy into it began; 0 = none
};

constexpr size_t fixed_bytes = 64 * 1024;
Cell cells[fixed_bytes + max_shared];  // touched where a kernel touches shared memory

Cell* arena_cells;
uint32_t released, acquired;  // epochs up to which other blocks' accesses are ordered by atomics

Range arena, own_library, arguments;
const unsigned char* arena_shadow;
constexpr uint64_t patience = uint64_t{1} << 27;
uint64_t accesses_in_a_row;
const Fiber* watched;

// Before the current access, whatever the order of threads and blocks.
bool ordered(Stamp s, bool global) {
  if (!s.valid || s.epoch < block.grid_epoch) return true;
  if (s.epoch < block.first_epoch) return !global || s.epoch <= acquired;  // another block
  const int thread = static_cast<int>(s.thread);
  return s.epoch < block.epoch || thread == current->id ||
         ((block.named || thread / warp_size == current->id / warp_size) &&
          current->seen[thread] >= s.clock);
}

Stamp now(bool atomic) {
  return {block.epoch, current->clock, static_cast<uint64_t>(current->id), atomic, true};
}

struct Place {
  Where where;
  const void* code;
};

[[noreturn]] void refuse(Place place, const std::string& text) {
  if (place.code) fail_at(place.code, "%s", text.c_str());
  fail(place.where, "%s", text.c_str());
}

std::string where_of(const Cell& cell) {
  if (cell.line) return std::string(cell.file) + ":" + std::to_string(cell.line);
  return source_of(cell.file);
}

std::string describe(const void* p, size_t bytes) {
  const char* c = static_cast<const char*>(p);
  const std::string size = std::to_string(bytes) + " bytes at ";
  if (block.dynamic.touches(p)) {
    return size + "dynamic shared memory + " + std::to_string(c - block.dynamic.begin);
  }
  if (block.fixed.touches(p)) {
    return size + "static shared memory + " + std::to_string(c - block.fixed.begin);
  }
  char address[32];
  snprintf(address, sizeof address, "%p", p);
  return size + address;
}

std::string author_of(Stamp s) {
  const std::string thread = "thread " + std::to_string(s.thread);
  return s.epoch < block.first_epoch ? thread + " of another block" : thread;
}

void check_cells(Cell* cell, const void* p, size_t bytes, Access access, Place place, bool global) {
  const bool atomic = access == Access::atomic;
  const bool writes = atomic || access == Access::write;
  for (size_t i = 0; i < bytes; ++i, ++cell) {
    if (!global && cell->in_flight >= block.first_epoch) {
      refuse(place, "missing cp_async_wait: " + describe(p, bytes) +
                        " are still being filled by the copy started at " + where_of(*cell));
    }
    if (!ordered(cell->write, global) && !(atomic && cell->write.atomic)) {
      refuse(place, std::string("race: ") + (writes ? "writes " : "reads ") + describe(p, bytes) +
                        ", which " + author_of(cell->write) +
                        " wrote with no barrier between, at " + where_of(*cell));
    }
    if (!global && access != Access::write && cell->write.epoch < block.first_epoch) {
      refuse(place, "uninitialised: reads " + describe(p, bytes) +
                        ", which no thread of this block has written");
    }
    if (!writes) {
      Stamp& first = cell->read[0];
      (ordered(first, global) ? first : cell->read[1]) = now(false);
      continue;
    }
    for (Stamp read : cell->read) {
      if (ordered(read, global)) continue;
      refuse(place, "race: writes " + describe(p, bytes) + ", which " + author_of(read) +
                        " read with no barrier between");
    }
    cell->write = now(atomic);
    cell->file = place.code ? static_cast<const char*>(place.code) : place.where.file;
    cell->line = place.code ? 0 : place.where.line;
  }
}

Cell* cell_of(const void* p) {
  const char* c = static_cast<const char*>(p);
  if (block.dynamic.touches(p)) return cells + fixed_bytes + (c - block.dynamic.begin);
  return cells + (c - block.fixed.begin);
}

bool addressable(const void* p, size_t bytes) {
  const unsigned char* shadow = arena_shadow + (static_cast<const char*>(p) - arena.begin);
  for (size_t i = 0; i < bytes; ++i) {
    if (!shadow[i]) return false;
  }
  return true;
}

int find_library(dl_phdr_info* info, size_t, void*) {
  Range found;
  const char* here = reinterpret_cast<const char*>(&block);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& h = info->dlpi_phdr[i];
    if (h.p_type != PT_LOAD) continue;
    char* begin = reinterpret_cast<char*>(info->dlpi_addr + h.p_vaddr);
    if (!found.begin || begin < found.begin) found.begin = begin;
    if (begin + h.p_memsz > found.end) found.end = begin + h.p_memsz;
  }
  if (!found.touches(here)) return 0;
  own_library = found;
  return 1;
}

// How far the nearest tensor is.
std::string neighbour_of(const void* p) {
  const char* c = static_cast<const char*>(p);
  const unsigned char* shadow = arena_shadow + (c - arena.begin);
  for (int away = 1; away < 256; ++away) {
    if (c - away >= arena.begin && shadow[-away]) {
      return " (" + std::to_string(away - 1) + " bytes past the end of one)";
    }
    if (c + away < arena.end && shadow[away]) {
      return " (" + std::to_string(away) + " bytes before the start of one)";
    }
  }
  return "";
}

bool near_shared(const void* p) {
  const char* c = static_cast<const char*>(p);
  auto near = [c](Range r) { return r.begin && r.begin - 4096 <= c && c < r.end + max_shared; };
  return near(block.dynamic) || near(block.fixed);
}

}  // namespace

void start_checks(const void* context, size_t bytes) {
  char* begin = const_cast<char*>(static_cast<const char*>(context));
  arguments = {begin, begin + bytes};
  dl_iterate_phdr(find_library, nullptr);
  released = acquired = 0;
}

void start_block_checks() { acquired = 0; }

#ifdef SIMT_CHECKED

void check_access(const void* p, size_t bytes, Access access, Where where, const void* code) {
  if (!current) return;  // the launcher, not a kernel
  if (block.stacks.touches(p)) {
    const char* c = static_cast<const char*>(p);
    if (current->stack <= c && c + bytes <= current->stack + stack_bytes) return;
    refuse({where, code}, "touches another thread's local memory");
  }
  if (watched != current) {
    watched = current;
    accesses_in_a_row = 0;
  } else if (++accesses_in_a_row > patience) {
    refuse({where, code}, "endless loop: 2^27 accesses without a barrier or a collective");
  }
  const Place place{where, code};
  const char* verb = access == Access::read || access == Access::read_only ? "reads " : "writes ";
  if (block.dynamic.holds(p, bytes) || block.fixed.holds(p, bytes)) {
    if (access == Access::read_only) {
      refuse(place, "reads shared memory through the read-only path of global memory");
    }
    check_cells(cell_of(p), p, bytes, access, place, false);
    return;
  }
  if (arena.holds(p, bytes)) {
    if (addressable(p, bytes)) {
      // An atomic orders what other blocks did before theirs, as a ticket counter needs it.
      if (access == Access::atomic) {
        acquired = released;
        released = block.epoch;
      }
      check_cells(arena_cells + (static_cast<const char*>(p) - arena.begin), p, bytes, access,
                  place, true);
      return;
    }
    refuse(place, std::string("out of bounds: ") + verb + describe(p, bytes) +
                      ", outside every tensor" + neighbour_of(p));
  }
  const bool reads = access == Access::read || access == Access::read_only;
  if (reads && (own_library.holds(p, bytes) || arguments.holds(p, bytes))) return;
  if (near_shared(p)) {
    refuse(place, std::string("out of bounds: ") + verb + describe(p, bytes) +
                      ", outside the block's shared memory (" +
                      std::to_string(block.dynamic.end - block.dynamic.begin) + " dynamic and " +
                      std::to_string(block.fixed.end - block.fixed.begin) + " static bytes)");
  }
  refuse(place, std::string("out of bounds: ") + verb + describe(p, bytes) +
                    ", no memory of the executor (make tensors inside executor.running)");
}

void check_in_flight(const void* p, bool in_flight, Where) {
  Cell* cell = cell_of(p);
  for (int i = 0; i < 16; ++i) cell[i].in_flight = in_flight ? block.epoch : 0;
}

}  // namespace simt

using simt::Access;

namespace {
inline void seen(const void* p, size_t bytes, Access access, const void* code) {
  simt::check_access(p, bytes, access, {}, code);
}

struct SourceLocation {  // the first field of every -fsanitize=undefined record
  const char* file;
  unsigned line, column;
};
void undefined(const SourceLocation& at, const char* what) {
  if (simt::current) simt::fail({at.file, static_cast<int>(at.line)}, "%s", what);
}
}  // namespace

#define SIMT_ACCESS(name, bytes, access)                         \
  extern "C" void __tsan_##name(void* p) {                       \
    seen(p, bytes, Access::access, __builtin_return_address(0)); \
  }
SIMT_ACCESS(read1, 1, read)
SIMT_ACCESS(read2, 2, read)
SIMT_ACCESS(read4, 4, read)
SIMT_ACCESS(read8, 8, read)
SIMT_ACCESS(read16, 16, read)
SIMT_ACCESS(write1, 1, write)
SIMT_ACCESS(write2, 2, write)
SIMT_ACCESS(write4, 4, write)
SIMT_ACCESS(write8, 8, write)
SIMT_ACCESS(write16, 16, write)
SIMT_ACCESS(volatile_read1, 1, read)
SIMT_ACCESS(volatile_read2, 2, read)
SIMT_ACCESS(volatile_read4, 4, read)
SIMT_ACCESS(volatile_read8, 8, read)
SIMT_ACCESS(volatile_write1, 1, write)
SIMT_ACCESS(volatile_write2, 2, write)
SIMT_ACCESS(volatile_write4, 4, write)
SIMT_ACCESS(volatile_write8, 8, write)
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_read_range(void* p, size_t bytes) {
  seen(p, bytes, Access::read, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t bytes) {
  seen(p, bytes, Access::write, __builtin_return_address(0));
}
void __ubsan_handle_type_mismatch_v1(SourceLocation* at, uintptr_t p) {
  char text[128];
  snprintf(text, sizeof text, "misaligned access: %p does not suit the type read or written there",
           reinterpret_cast<void*>(p));
  undefined(*at, p ? text : "access through a null pointer");
}
void __ubsan_handle_out_of_bounds(SourceLocation* at, size_t index) {
  char text[128];
  snprintf(text, sizeof text, "out of bounds: index %zd of an array", static_cast<ssize_t>(index));
  undefined(*at, text);
}
void __ubsan_handle_shift_out_of_bounds(SourceLocation* at, size_t, size_t) {
  undefined(*at, "shift by a negative number of bits, or by as many as the type has or more");
}
void __ubsan_handle_divrem_overflow(SourceLocation* at, size_t, size_t) {
  undefined(*at, "integer division by zero, or of the smallest number by -1");
}
}

namespace simt {

void copy_bytes(void* to, const void* from, size_t bytes) {
  const void* code = __builtin_return_address(0);
  seen(from, bytes, Access::read, code);
  seen(to, bytes, Access::write, code);
  memmove(to, from, bytes);
}

#else

void check_access(const void*, size_t, Access, Where, const void*) {}
void check_in_flight(const void*, bool, Where) {}

#endif

}  // namespace simt

// Where tensors may be; memory.cpp hands it out. Null ends it and gives the checks' memory back.
extern "C" __attribute__((visibility("default"))) void simt_watch(char* begin, char* end,
                                                                  const unsigned char* shadow) {
#ifdef SIMT_CHECKED
  using simt::arena_cells;
  using simt::Cell;
  if (arena_cells) munmap(arena_cells, (simt::arena.end - simt::arena.begin) * sizeof(Cell));
  arena_cells = nullptr;
  if (begin) {
    void* cells = mmap(nullptr, (end - begin) * sizeof(Cell), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cells == MAP_FAILED) {
      perror("the executor cannot reserve address space for its checks");
      abort();
    }
    arena_cells = static_cast<Cell*>(cells);
  }
#endif
  if (!begin) simt::release_memory();
  simt::arena = {begin, end};
  simt::arena_shadow = shadow;
}
