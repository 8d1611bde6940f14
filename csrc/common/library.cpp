// The facts of the operations library itself; the operations are registered by each family's op.cpp.
#include <torch/csrc/stable/library.h>

#include <string>

#include "common/simd.h"

namespace {

std::string simd_level() { return ikem::simd_level_name(ikem::simd_level()); }

std::string available_simd_levels() { return ikem::available_simd_levels(); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ikem_ext, library) {
  library.def("simd_level() -> str");
  library.def("available_simd_levels() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CompositeExplicitAutograd, library) {
  library.impl("simd_level", TORCH_BOX(&simd_level));
  library.impl("available_simd_levels", TORCH_BOX(&available_simd_levels));
}
