// SIMD levels of the CPU kernels. Each cpu.cpp is compiled once per level, inside the namespace IKEM_SIMD_LEVEL,
// and its interface is declared once per level; `IKEM_DISPATCH_SIMD` calls the one in use.
//
// Inside a kernel's translation unit, keep to code of the level's own namespace (or static functions): an inline
// function shared with other translation units could be merged by the linker into its AVX-512 version.
#pragma once

namespace ikem {

// `amx` is v4 with tile registers, which kernels may use besides.
enum class SimdLevel { plain, v2, v3, v4, amx };

// The level in use: the best that the processor has, or the one that the environment variable IKEM_SIMD names.
SimdLevel simd_level();

// "plain", "v2", "v3", "v4" or "amx".
const char* simd_level_name(SimdLevel level);

// The levels that were compiled and that this processor has, worst first, separated by blanks.
const char* available_simd_levels();

// Whether kernels may multiply bfloat16 as common/bfloat16_product.h does: from the level v4 on, where the processor
// has the instruction, which no level asks for.
bool simd_multiplies_bfloat16();

// Whether they may as common/bfloat16_tiles.h does: at the level amx.
bool simd_multiplies_tiles();

}  // namespace ikem

#ifdef IKEM_PLAIN_ONLY
#define IKEM_FOR_EACH_SIMD_LEVEL(declare) declare(plain)
#define IKEM_DISPATCH_SIMD(call) return plain::call;
#else
#define IKEM_FOR_EACH_SIMD_LEVEL(declare) declare(v2) declare(v3) declare(v4)
#define IKEM_DISPATCH_SIMD(call)  \
  switch (::ikem::simd_level()) { \
    case ::ikem::SimdLevel::v4:   \
    case ::ikem::SimdLevel::amx:  \
      return v4::call;            \
    case ::ikem::SimdLevel::v3:   \
      return v3::call;            \
    default:                      \
      return v2::call;            \
  }
#endif
