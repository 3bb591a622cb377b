# TorchStable: the stable ABI of the torch that the build's Python imports. The target version fixes the oldest torch
# that the wheel runs on; leaving it unset would pull in symbols of the newest.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
    "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0], end='')"
  OUTPUT_VARIABLE TORCH_ROOT RESULT_VARIABLE TORCH_MISSING ERROR_QUIET)
if(TORCH_MISSING)
  message(FATAL_ERROR "torch was not found by ${Python_EXECUTABLE}; install torch>=2.11 in the build environment")
endif()
find_library(TORCH_CPU_LIBRARY torch_cpu PATHS ${TORCH_ROOT}/lib NO_DEFAULT_PATH REQUIRED)
add_library(TorchStable INTERFACE)
target_include_directories(TorchStable SYSTEM INTERFACE ${TORCH_ROOT}/include)
target_compile_definitions(TorchStable INTERFACE TORCH_TARGET_VERSION=0x020b000000000000)
target_link_libraries(TorchStable INTERFACE ${TORCH_CPU_LIBRARY})
set(TorchStable_FOUND TRUE)
