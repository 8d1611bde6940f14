// What the processor's arithmetic can do at most: multiply-adds on registers, with no memory to wait for. Benchmarks
// measure operations against it.
#pragma once

#include <cstdint>

#include "common/simd.h"

namespace ikem::arithmetic {

enum class Kind { float32, float64, bfloat16, tiles };  // tiles: of bfloat16

// Multiplies and adds on the calling thread, `rounds` times on all accumulators. Returns how many multiplications and
// additions that was; 0 if the processor has no instruction for it. Tiles are for where `simd_multiplies_tiles()`.
#define IKEM_DECLARE(level)                         \
  namespace level {                                 \
  int64_t multiply_adds(Kind kind, int64_t rounds); \
  }
IKEM_FOR_EACH_SIMD_LEVEL(IKEM_DECLARE)
#undef IKEM_DECLARE

}  // namespace ikem::arithmetic
