// `_C`: importing it registers the ops. What it offers to Python is about the build, never about
// tensors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/isa.h"
#include "common/launch.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.attr("version") = TB_VERSION;
  m.attr("build_id") = TB_BUILD_ID;
  m.def(
      "isa", [] { return tokenburst::isa_name(tokenburst::isa()); },
      "Instruction set of the CPU kernels in use: 'avx2' or 'portable'.");
  m.def(
      "set_isa", [](const char* name) { tokenburst::set_isa(name); }, py::arg("name"),
      "Choose the instruction set of the CPU kernels; RuntimeError if this CPU lacks it.");
  m.def(
      "load_cuda", [](const char* path) { return tokenburst::load_cuda(path); }, py::arg("path"),
      "Open the CUDA kernels; returns '' or the reason why they cannot be used.");
  m.def(
      "cuda_has", [](const char* op) { return tokenburst::cuda_has(op); }, py::arg("op"),
      "Whether the loaded CUDA library has a kernel for this op.");
  m.def(
      "set_executor",
      [](const std::optional<std::string>& path) {
        return tokenburst::set_executor(path ? path->c_str() : nullptr);
      },
      py::arg("path"),
      "For tests: run calls with CPU tensors on CUDA kernels built for the host (tests/simt); None "
      "ends it. Returns '' or the reason why the library cannot be used.");
}
