// What the kernels of this family offer: rows of similarities in, sums and weights out, and nothing of torch.
// The products that make the similarities are left to PyTorch's matrix multiplication (see op.cpp).
#pragma once

#include <cstdint>

#include "common/scalar.h"
#include "common/simd.h"

namespace ikem::contrast {

// A sum of exponentials on its way: sum over x of exp(x - max).
template <class C>
struct ExpSum {
  C max;
  C sum;
};

// The largest entries of a row so far, largest first and of equal ones the lower index first.
template <class C>
struct Nearest {
  C* values;
  int64_t* indices;
  int64_t capacity;
  int64_t count;
};

#define IKEM_DECLARE_CONTRAST(level)                                                                                   \
  namespace level {                                                                                                    \
  /* out[row, column] = data[row * row_stride + column * column_stride], out contiguous */                             \
  template <class S>                                                                                                   \
  void widen_matrix(const S* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,           \
                    Compute<S>* out);                                                                                  \
  /* Adds exp(scale * s[i]), or exp(scale * s[i] * t[i]), to the total. */                                             \
  template <class C>                                                                                                   \
  void add_exponentials(const C* s, int64_t size, C scale, ExpSum<C>& total);                                          \
  template <class C>                                                                                                   \
  void add_exponentials(const C* s, const C* t, int64_t size, C scale, ExpSum<C>& total);                              \
  /* The same, and s[i] becomes exp(scale * s[i] - total.max). Returns what earlier weights shrink by. */              \
  template <class C>                                                                                                   \
  C weigh(C* s, int64_t size, C scale, ExpSum<C>& total);                                                              \
  /* Takes in the entries s[i] of indices first + i. */                                                                \
  template <class C>                                                                                                   \
  void add_nearest(const C* s, int64_t size, int64_t first, Nearest<C>& nearest);                                      \
  /* grad[i] = weight * exp(scale * s[i] - log_sum) */                                                                 \
  template <class C>                                                                                                   \
  void exponential_gradient(const C* s, int64_t size, C scale, C log_sum, C weight, C* grad);                          \
  /* With e = weight * exp(scale * s[i] * t[i] - log_sum): grad_s[i] += e * t[i], grad_t[i] += e * s[i];               \
     grad_t may be null. */                                                                                            \
  template <class C>                                                                                                   \
  void add_product_gradient(const C* s, const C* t, int64_t size, C scale, C log_sum, C weight, C* grad_s, C* grad_t); \
  }
IKEM_FOR_EACH_SIMD_LEVEL(IKEM_DECLARE_CONTRAST)
#undef IKEM_DECLARE_CONTRAST

}  // namespace ikem::contrast
