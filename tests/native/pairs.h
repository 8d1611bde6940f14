// Whether kernels that were built like this program may multiply bfloat16 as common/bfloat16_product.h does.
#pragma once

namespace {

bool multiplies_pairs() {
#ifdef __AVX512BW__
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace
