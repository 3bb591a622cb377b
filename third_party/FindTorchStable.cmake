# TorchStable: the stable ABI of the torch that the build's Python imports. The target version fixes the oldest torch
# that the wheel runs on; leaving it unset would pull in symbols of the newest.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
    "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0], end='')"
  OUTPUT_VARIABLE TORCH_ROOT RESULT_VARIABLE TORCH_MISSING ERROR_QUIET)
if(TORCH_MISSING)
  message(FATAL_ERROR "torch was not found by ${Python_EXECUTABLE}; install torch>=2.11 in the build environment")
endif()
# Not find_library: its cache would outlive pip's build environment, and the next build would look there.
set(TORCH_CPU_LIBRARY ${TORCH_ROOT}/lib/libtorch_cpu.so)
if(NOT EXISTS ${TORCH_CPU_LIBRARY})
  message(FATAL_ERROR "${TORCH_CPU_LIBRARY} was not found")
endif()
add_library(TorchStable INTERFACE)
target_include_directories(TorchStable SYSTEM INTERFACE ${TORCH_ROOT}/include)
target_compile_definitions(TorchStable INTERFACE TORCH_TARGET_VERSION=0x020b000000000000)
target_link_libraries(TorchStable INTERFACE ${TORCH_CPU_LIBRARY})
set(TorchStable_FOUND TRUE)
