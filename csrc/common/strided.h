// Tensors as kernels see them.
#pragma once

#include <cstdint>

namespace ikem {

// A tensor in elements. Axes of size 1 that it does not have, or does not vary along, have the stride 0.
template <class S, int AXES>
struct Strided {
  S* data;
  int64_t strides[AXES];
};

}  // namespace ikem
