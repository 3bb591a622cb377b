#pragma once
// Which build of the CPU kernels runs. AVX-512 or NEON would be one more name here, one more list
// in CMake.
namespace tokenburst {

enum class Isa { portable, avx2 };

Isa isa();  // best one this CPU has, or what TOKENBURST_ISA / set_isa asked for
const char* isa_name(Isa isa);
void set_isa(const char* name);  // throws std::runtime_error if this CPU or build lacks it

}  // namespace tokenburst
