# Pybind11Wheel: the headers of the pybind11 wheel; its own CMake helpers are not needed (and their LTO is slow).
execute_process(
  COMMAND ${Python_EXECUTABLE} -c "import pybind11; print(pybind11.get_include(), end='')"
  OUTPUT_VARIABLE PYBIND11_INCLUDE RESULT_VARIABLE PYBIND11_MISSING ERROR_QUIET)
if(PYBIND11_MISSING)
  message(FATAL_ERROR "pybind11 was not found by ${Python_EXECUTABLE}")
endif()
add_library(Pybind11Wheel INTERFACE)
target_include_directories(Pybind11Wheel SYSTEM INTERFACE ${PYBIND11_INCLUDE})
target_link_libraries(Pybind11Wheel INTERFACE Python::Module)
set(Pybind11Wheel_FOUND TRUE)
