#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <sstream>
#include <string>

#include "arithmetic/kernel.h"
#include "common/check.h"

namespace ikem::arithmetic {
namespace {

using torch::headeronly::ScalarType;

Kind kind_of(ScalarType dtype) {
  check_value(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16,
              "dtype: expected float32, float64 or bfloat16");
  return dtype == ScalarType::Float ? Kind::float32 : dtype == ScalarType::Double ? Kind::float64 : Kind::bfloat16;
}

using Kernel = int64_t (*)(Kind, int64_t);

bool is_available(const std::string& simd_level) {
  std::istringstream available(available_simd_levels());
  for (std::string level; available >> level;) {
    if (level == simd_level) {
      return true;
    }
  }
  return false;
}

Kernel kernel_of(const std::string& simd_level) {
  check_value(is_available(simd_level), "simd_level: expected of ", available_simd_levels(), ", got ", simd_level);
#define IKEM_RETURN_IF(name)     \
  if (simd_level == #name) {     \
    return &name::multiply_adds; \
  }
  IKEM_FOR_EACH_SIMD_LEVEL(IKEM_RETURN_IF)
#undef IKEM_RETURN_IF
#ifndef IKEM_PLAIN_ONLY
  if (simd_level == "amx") {  // of bfloat16 alone
    return [](Kind kind, int64_t rounds) {
      return kind == Kind::bfloat16 ? v4::multiply_adds(Kind::tiles, rounds) : int64_t{0};
    };
  }
#endif
  return nullptr;
}

// One task for each of PyTorch's threads.
int64_t multiply_adds(std::string simd_level, ScalarType dtype, int64_t rounds) {
  const Kernel kernel = kernel_of(simd_level);
  const Kind kind = kind_of(dtype);
  check_value(rounds > 0, "rounds: expected at least 1, got ", rounds);
  const int64_t threads = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (; first < last; ++first) {
      kernel(kind, rounds);
    }
  });
  return threads * kernel(kind, 1) * rounds;
}

}  // namespace
}  // namespace ikem::arithmetic

STABLE_TORCH_LIBRARY_FRAGMENT(ikem_ext, library) {
  library.def("multiply_adds(str simd_level, ScalarType dtype, int rounds) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CompositeExplicitAutograd, library) {
  library.impl("multiply_adds", TORCH_BOX(&ikem::arithmetic::multiply_adds));
}
