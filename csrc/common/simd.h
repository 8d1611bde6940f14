// SIMD levels of the CPU kernels. Each cpu.cpp is compiled once per level, inside the namespace IKEM_SIMD_LEVEL,
// and its interface is declared once per level; `IKEM_DISPATCH_SIMD` calls the one in use.
//
// Inside a kernel's translation unit, keep to code of the level's own namespace (or static functions): an inline
// function shared with other translation units could be merged by the linker into its AVX-512 version.
#pragma once

namespace ikem {

enum class SimdLevel { plain, v2, v3, v4 };

// The level in use: the best that the processor has, or the one that the environment variable IKEM_SIMD names.
SimdLevel simd_level();

// "plain", "v2", "v3" or "v4".
const char* simd_level_name(SimdLevel level);

// The levels that were compiled and that this processor has, worst first, separated by blanks.
const char* available_simd_levels();

// Whether kernels may multiply bfloat16 as common/bfloat16_product.h does: at the level v4, where the processor has the
// instruction, which no level asks for.
bool simd_multiplies_bfloat16();

}  // namespace ikem

#ifdef IKEM_PLAIN_ONLY
#define IKEM_FOR_EACH_SIMD_LEVEL(declare) declare(plain)
#define IKEM_DISPATCH_SIMD(call) return plain::call;
#else
#define IKEM_FOR_EACH_SIMD_LEVEL(declare) declare(v2) declare(v3) declare(v4)
#define IKEM_DISPATCH_SIMD(call)  \
  switch (::ikem::simd_level()) { \
    case ::ikem::SimdLevel::v4:   \
      return v4::call;            \
    case ::ikem::SimdLevel::v3:   \
      return v3::call;            \
    default:                      \
      return v2::call;            \
  }
#endif
