// Sizes, as kernels for CUDA and what launches them reckon with them.
#pragma once

#include <type_traits>

#include "common/scalar.h"

namespace ikem {

template <class T>
IKEM_INLINE T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
IKEM_INLINE T larger(T a, T b) {
  return a < b ? b : a;
}
template <class A, class B>
IKEM_INLINE std::common_type_t<A, B> divide_up(A a, B b) {
  return (a + b - 1) / b;
}
template <class A, class B>
IKEM_INLINE std::common_type_t<A, B> round_up(A a, B b) {
  return divide_up(a, b) * b;
}

}  // namespace ikem
