// The exponential of numbers that are not positive, in a form that compilers vectorise.
#pragma once

#include <cmath>

#include "common/scalar.h"

namespace ikem::contrast {

// Within 2 units in the last place; numbers below -87 count as -87, and those that are positive by rounding (a fused
// multiply-add keeps digits that the maximum lost) as 0.
IKEM_INLINE float exp_nonpositive(float x) {
  // x = n log(2) + r with |r| <= log(2) / 2. Adding 1.5 * 2^23 rounds to an integer, which stands in the low bits.
  const float rounding = 12582912.0f;
  x = x < -87.0f ? -87.0f : x > 0.0f ? 0.0f : x;
  const float shifted = x * 1.44269504f + rounding;
  const float n = shifted - rounding;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  // exp(r) = 1 + r + r^2 p(r), p interpolated at Chebyshev nodes: 1.1e-8 off at most.
  const float p = (((1.392621314e-3f * r + 8.363203146e-3f) * r + 4.166655615e-2f) * r + 1.666657627e-1f) * r + 0.5f;
  const float power = float_from_bits((bits_from_float(shifted) + 127u) << 23);
  return ((p * r) * r + r + 1.0f) * power;
}

IKEM_INLINE double exp_nonpositive(double x) { return std::exp(x > 0 ? 0 : x); }

}  // namespace ikem::contrast
