#include "common/launch.h"

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <atomic>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

namespace tokenburst {
namespace {

struct CudaLibrary {
  void* handle = nullptr;
  std::string why_not =
      "it has not been loaded (no GPU is visible to torch, or this build has no CUDA kernels)";
  std::map<std::string, void*> kernels;
  std::mutex mutex;
};

CudaLibrary& library() {
  static CudaLibrary instance;
  return instance;
}

CudaLibrary& executor() {
  static CudaLibrary instance;
  return instance;
}
std::atomic<bool> executor_set{false};  // asked at every call of an op

void* find_kernel(CudaLibrary& lib, const char* op) {
  const std::lock_guard<std::mutex> lock(lib.mutex);
  if (!lib.handle) return nullptr;
  void*& kernel = lib.kernels[op];
  if (!kernel) kernel = dlsym(lib.handle, ("tokenburst_" + std::string(op) + "_cuda").c_str());
  return kernel;
}

using StreamGetter = int (*)(int32_t, void**);

// Found in the libtorch_cuda that torch has already loaded, so that this module also loads beside a
// CPU-only torch; null where torch has none.
StreamGetter stream_getter() {
  void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
  void* symbol = torch_cuda ? dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream") : nullptr;
  return reinterpret_cast<StreamGetter>(symbol);
}

void* current_stream(int device) {
  static const StreamGetter getter = stream_getter();
  void* stream = nullptr;
  if (!getter || getter(device, &stream) != 0) {
    throw std::runtime_error("tokenburst: torch gave no CUDA stream for device " +
                             std::to_string(device));
  }
  return stream;
}

// Opens a library into `lib` if it was built with this module.
const char* open_library(CudaLibrary& lib, const char* path) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    lib.why_not = dlerror();
    return lib.why_not.c_str();
  }
  using Id = const char* (*)();
  const auto id = reinterpret_cast<Id>(dlsym(handle, "tokenburst_cuda_build_id"));
  const std::string got = id ? id() : "no build id";
  if (got != TB_BUILD_ID) {
    dlclose(handle);
    lib.why_not =
        std::string(path) + " belongs to another build: expected " TB_BUILD_ID ", got " + got;
    return lib.why_not.c_str();
  }
  if (&lib == &library() && !stream_getter()) {  // the executor needs no GPU
    dlclose(handle);
    lib.why_not = "this torch offers no CUDA stream (its libtorch_cuda.so is missing or too old)";
    return lib.why_not.c_str();
  }
  lib.handle = handle;
  lib.why_not.clear();
  return "";
}

}  // namespace

const char* load_cuda(const char* path) {
  CudaLibrary& lib = library();
  const std::lock_guard<std::mutex> lock(lib.mutex);
  return lib.handle ? "" : open_library(lib, path);
}

const char* set_executor(const char* path) {
  CudaLibrary& lib = executor();
  const std::lock_guard<std::mutex> lock(lib.mutex);
  lib.kernels.clear();
  lib.handle = nullptr;  // stays open: a caller may come back to it
  const char* why_not = path ? open_library(lib, path) : "";
  executor_set = lib.handle != nullptr;
  return why_not;
}

bool executor_is_set() { return executor_set.load(std::memory_order_relaxed); }

bool cuda_has(const char* op) { return find_kernel(library(), op) != nullptr; }

void cuda_launch(const char* op, const void* params, int device) {
  CudaLibrary& lib = device == executor_device ? executor() : library();
  void* kernel = find_kernel(lib, op);
  if (!kernel) {
    const std::string why = lib.why_not;
    throw std::runtime_error(std::string(op) + ": the CUDA kernels cannot be used: " +
                             (why.empty() ? "this op is missing from the library" : why));
  }
  using Launch = int (*)(const void*, void*);
  const auto launch = reinterpret_cast<Launch>(kernel);
  int error;
  if (device == executor_device) {
    error = launch(params, nullptr);
  } else {
    const torch::stable::accelerator::DeviceGuard guard(device);
    error = launch(params, current_stream(device));
  }
  if (error == 0) return;
  using ErrorText = const char* (*)(int);
  const auto text = reinterpret_cast<ErrorText>(dlsym(lib.handle, "tokenburst_cuda_error"));
  throw std::runtime_error(std::string(op) +
                           ": CUDA launch failed: " + (text ? text(error) : std::to_string(error)));
}

}  // namespace tokenburst
