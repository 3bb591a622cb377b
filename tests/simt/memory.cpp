// CPU tensors from an arena that knows every byte's owner: exact sizes, gaps between tensors, a
// pattern in fresh ones. Built against torch's headers and used only while the executor runs.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>

namespace {

constexpr size_t arena_bytes = size_t{1} << 30, gap = 256, alignment = 256;

struct Arena {
  char* begin = nullptr;
  unsigned char* shadow = nullptr;  // one byte for each: 1 = inside a tensor
  size_t used = gap;
  std::map<char*, size_t> live;
  std::mutex mutex;
  int pattern = 0xff;
};

// Lives as long as the process: tensors may outlive every static object.
Arena& arena() {
  static Arena& instance = *new Arena;
  return instance;
}

void release(void* p) {
  if (!p) return;
  Arena& a = arena();
  const std::lock_guard<std::mutex> lock(a.mutex);
  const auto found = a.live.find(static_cast<char*>(p));
  memset(a.shadow + (found->first - a.begin), 0, found->second);
  memset(found->first, 0xdb, found->second);
  a.live.erase(found);
  if (a.live.empty()) a.used = gap;
}

struct ArenaAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    Arena& a = arena();
    const std::lock_guard<std::mutex> lock(a.mutex);
    if (bytes == 0) return {nullptr, nullptr, &release, c10::Device(c10::DeviceType::CPU)};
    TORCH_CHECK(a.used + bytes + gap <= arena_bytes, "the executor's memory is full");
    char* p = a.begin + a.used;
    a.used += (bytes + gap + alignment - 1) / alignment * alignment;
    a.live[p] = bytes;
    memset(a.shadow + (p - a.begin), 1, bytes);
    memset(p, a.pattern, bytes);
    return {p, p, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

void* map(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TORCH_CHECK(p != MAP_FAILED, "cannot reserve the executor's memory");
  return p;
}

}  // namespace

#define SIMT_EXPORT extern "C" __attribute__((visibility("default")))

// New CPU tensors come from the arena, filled with `pattern`, until use is false again.
SIMT_EXPORT void simt_use_arena(bool use, int pattern) {
  static ArenaAllocator ours;
  static c10::Allocator* const usual = c10::GetCPUAllocator();
  Arena& a = arena();
  if (!a.begin) {
    a.begin = static_cast<char*>(map(arena_bytes));
    a.shadow = static_cast<unsigned char*>(map(arena_bytes));
  }
  a.pattern = pattern;
  c10::SetCPUAllocator(use ? &ours : usual, 200);
}

SIMT_EXPORT void simt_arena(char** begin, char** end, unsigned char** shadow) {
  Arena& a = arena();
  *begin = a.begin;
  *end = a.begin + arena_bytes;
  *shadow = a.shadow;
}
