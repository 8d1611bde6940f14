# SIMD_LEVELS: the levels that CPU kernels are compiled for, each from the same source in a namespace of its own.
# The best level that the processor has is chosen when the library is loaded (csrc/common/simd.cpp).
set(SIMD_LEVELS plain)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang"
   AND NOT CMAKE_OSX_ARCHITECTURES MATCHES "arm64")
  set(SIMD_LEVELS v2 v3 v4)
endif()
message(STATUS "SIMD levels: ${SIMD_LEVELS}")

# Adds the sources to the target once per SIMD level.
function(add_kernels target)
  foreach(level ${SIMD_LEVELS})
    set(kernels ${target}_kernels_${level})
    add_library(${kernels} OBJECT ${ARGN})
    target_include_directories(${kernels} PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
    target_compile_definitions(${kernels} PRIVATE IKEM_SIMD_LEVEL=${level}
                                                  $<$<STREQUAL:${level},plain>:IKEM_PLAIN_ONLY>)
    if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
      target_compile_options(${kernels} PRIVATE -O3 -Wall -Wextra -fno-math-errno -fno-trapping-math
                                                -fopenmp-simd)
      if(NOT level STREQUAL plain)
        target_compile_options(${kernels} PRIVATE -march=x86-64-${level})
      endif()
      if(level STREQUAL v4)
        target_compile_options(${kernels} PRIVATE -mprefer-vector-width=512)
      endif()
    endif()
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${kernels}>)
  endforeach()
endfunction()
