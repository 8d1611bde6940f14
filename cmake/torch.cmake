# Defines the target `torch_stable`: headers and libraries of the installed PyTorch, for code that keeps to the
# stable ABI. find_package(Torch) is not used: it wants a CUDA toolkit for CUDA builds of PyTorch and overrides
# the CUDA architectures.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c [[
import importlib.metadata, importlib.util, pathlib, sys
spec = importlib.util.find_spec("torch")
if spec is None:
    sys.exit("PyTorch is not installed for " + sys.executable)
print(pathlib.Path(spec.origin).parent.as_posix(), importlib.metadata.version("torch"), sep=";", end="")
]]
  OUTPUT_VARIABLE torch_facts
  ERROR_VARIABLE torch_error
  RESULT_VARIABLE torch_result)
if(NOT torch_result EQUAL 0)
  message(FATAL_ERROR "PyTorch is needed to build ikem-ext: ${torch_error}")
endif()
list(GET torch_facts 0 TORCH_FOLDER)
list(GET torch_facts 1 TORCH_VERSION)
if(TORCH_VERSION VERSION_LESS 2.10)
  message(FATAL_ERROR "ikem-ext needs PyTorch 2.10 or later to build; found ${TORCH_VERSION} in ${TORCH_FOLDER}")
endif()
message(STATUS "PyTorch ${TORCH_VERSION} in ${TORCH_FOLDER}")

add_library(torch_stable INTERFACE)
target_include_directories(torch_stable SYSTEM INTERFACE ${TORCH_FOLDER}/include)
# 2.10: the oldest PyTorch that the operations may run on.
target_compile_definitions(torch_stable INTERFACE TORCH_TARGET_VERSION=0x020a000000000000)
foreach(library torch torch_cpu)
  find_library(TORCH_LIBRARY_${library} ${library} PATHS ${TORCH_FOLDER}/lib NO_DEFAULT_PATH NO_CACHE REQUIRED)
  target_link_libraries(torch_stable INTERFACE ${TORCH_LIBRARY_${library}})
endforeach()
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  # libtorch.so holds no code but depends on every part of PyTorch, libtorch_cuda.so among them: keeping the
  # dependency is what lets the CUDA operations find the current stream where PyTorch has CUDA.
  target_link_options(torch_stable INTERFACE LINKER:--no-as-needed)
endif()
