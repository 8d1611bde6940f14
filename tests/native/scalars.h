// The scalar types by their places in DTYPES of tests/operation_checks.py.
#pragma once

#include "common/scalar.h"

// Calls f(S{}) with the scalar type.
template <class F>
auto dispatch(int dtype, F f) {
  switch (dtype) {
    case 0:
      return f(float{});
    case 1:
      return f(double{});
    case 2:
      return f(ikem::BFloat16{});
    default:
      return f(ikem::Half{});
  }
}
