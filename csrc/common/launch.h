#pragma once
// From a front door to its kernel. TB_KERNEL declares the builds of one op; TB_LAUNCH runs the
// right one.
#include "common/isa.h"

#define TB_KERNEL(op, Params)      \
  namespace tokenburst::portable { \
  void op(const Params& p);        \
  }                                \
  namespace tokenburst::avx2 {     \
  void op(const Params& p);        \
  }                                \
  extern "C" int tokenburst_##op##_cuda(const Params* p, void* stream)

#ifdef TB_HAVE_AVX2
#define TB_CPU_LAUNCH(op, params) (isa() == Isa::avx2 ? avx2::op(params) : portable::op(params))
#else
#define TB_CPU_LAUNCH(op, params) portable::op(params)
#endif

#define TB_LAUNCH(op, params, device)      \
  do {                                     \
    if ((device) == cpu_device) {          \
      TB_CPU_LAUNCH(op, params);           \
    } else {                               \
      cuda_launch(#op, &(params), device); \
    }                                      \
  } while (false)

namespace tokenburst {

// Where an op runs: a CUDA index, the CPU, or the CUDA kernels executed on the host (for tests).
constexpr int cpu_device = -1, executor_device = -2;

// Calls tokenburst_<op>_cuda of the library that serves this device, on torch's current stream;
// throws a sentence when the library is not loaded or the launch fails.
void cuda_launch(const char* op, const void* params, int device);

// Opens the CUDA library and checks that it was built with this module; returns "" or why it cannot
// be used.
const char* load_cuda(const char* path);
bool cuda_has(const char* op);

// For tests: opens a build of the CUDA kernels that runs on the host (tests/simt), and from then on
// calls with CPU tensors go to it as calls with CUDA tensors go to the GPU; nullptr ends that.
const char* set_executor(const char* path);
bool executor_is_set();

}  // namespace tokenburst
