// What the kernels of this family offer: pointers, sizes and strides, and nothing of torch.
#pragma once

#include <cstdint>

#include "common/scalar.h"
#include "common/simd.h"
#include "common/strided.h"

namespace ikem::pairwise_products {

// y[n,k,v,w] = sum over c, t of a[n,k,c,t,v] b[n,k,c,t,w], a and b being the two halves of x (N, K 2 C, T, V).
struct Problem {
  int64_t clips, parts, channels, frames, joints;
  int64_t tile_frames;  // that are worked on at once
};

// A task is a part of a clip: (N, K). y and its gradient are contiguous.
#define IKEM_DECLARE_PAIRWISE_PRODUCTS(level)                                                                       \
  namespace level {                                                                                                 \
  template <class S>                                                                                                \
  void forward(const Problem& problem, const Strided<const S, 4>& x, S* y, int64_t first_task, int64_t last_task);  \
  template <class S>                                                                                                \
  void backward(const Problem& problem, const Strided<const S, 4>& x, const S* grad_y, const Strided<S, 4>& grad_x, \
                int64_t first_task, int64_t last_task);                                                             \
  }
IKEM_FOR_EACH_SIMD_LEVEL(IKEM_DECLARE_PAIRWISE_PRODUCTS)
#undef IKEM_DECLARE_PAIRWISE_PRODUCTS

}  // namespace ikem::pairwise_products
