#include "common/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace tokenburst {
namespace {

bool has_avx2() {
#ifdef TB_HAVE_AVX2
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

Isa parse(const std::string& name) {
  if (name == "portable") return Isa::portable;
  if (name == "avx2") {
    if (!has_avx2()) {
      throw std::runtime_error(
          "tokenburst: isa: expected one that this CPU and build have, got avx2");
    }
    return Isa::avx2;
  }
  throw std::runtime_error("tokenburst: isa: expected portable or avx2, got '" + name + "'");
}

Isa initial() {
  const char* asked = std::getenv("TOKENBURST_ISA");
  if (asked && *asked) {
    try {
      return parse(asked);
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(std::string(error.what()) + " from TOKENBURST_ISA");
    }
  }
  return has_avx2() ? Isa::avx2 : Isa::portable;
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> value{initial()};
  return value;
}

}  // namespace

Isa isa() { return current().load(std::memory_order_relaxed); }

const char* isa_name(Isa isa) { return isa == Isa::avx2 ? "avx2" : "portable"; }

void set_isa(const char* name) { current().store(parse(name)); }

}  // namespace tokenburst
