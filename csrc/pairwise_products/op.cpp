// Arguments are checked with friendly messages in ikem_ext/pairwise_products.py; the checks here are those without
// which a kernel could read astray.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "common/tensor.h"
#include "pairwise_products/kernel.h"

namespace ikem::pairwise_products {
namespace {

using Integers = std::vector<int64_t>;

template <class S>
Strided<S, 4> strided(const Tensor& tensor) {
  return {static_cast<S*>(const_cast<void*>(tensor.const_data_ptr())),
          {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)}};
}

Problem problem_of(const Tensor& x, int64_t parts) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected shape (N, K 2 C, T, V)");
  STD_TORCH_CHECK(parts > 0 && x.size(1) % (2 * parts) == 0, "parts: expected to divide half the channels of x");
  Problem problem{x.size(0), parts, x.size(1) / (2 * parts), x.size(2), x.size(3), 0};
  constexpr int64_t TILE_VALUES = 1 << 16;  // they stay in a core's own cache
  const int64_t frame_values = std::max<int64_t>(2 * problem.channels * problem.joints, 1);
  problem.tile_frames = std::clamp<int64_t>(TILE_VALUES / frame_values, 1, std::max<int64_t>(problem.frames, 1));
  return problem;
}

// Less arithmetic than this is not worth waking a thread for.
constexpr int64_t MIN_WORK_PER_THREAD = 1 << 21;

int64_t grain(const Problem& problem) {
  const int64_t work = problem.channels * problem.frames * problem.joints * problem.joints;
  return std::max<int64_t>(1, MIN_WORK_PER_THREAD / std::max<int64_t>(work, 1));
}

template <class S>
void forward_tasks(const Problem& problem, const Strided<const S, 4>& x, S* y, int64_t first, int64_t last) {
  IKEM_DISPATCH_SIMD(forward<S>(problem, x, y, first, last))
}
template <class S>
void backward_tasks(const Problem& problem, const Strided<const S, 4>& x, const S* grad_y, const Strided<S, 4>& grad_x,
                    int64_t first,
                    int64_t last){IKEM_DISPATCH_SIMD(backward<S>(problem, x, grad_y, grad_x, first, last))}

Tensor pairwise_products(const Tensor& x, int64_t parts) {
  const Problem problem = problem_of(x, parts);
  Tensor y = torch::stable::new_empty(x, Integers{problem.clips, parts, problem.joints, problem.joints});
  dispatch_floating(x, "x", [&](auto scalar) {
    using S = decltype(scalar);
    auto* const to = static_cast<S*>(y.mutable_data_ptr());
    torch::stable::parallel_for(0, problem.clips * parts, grain(problem), [&](int64_t first, int64_t last) {
      forward_tasks<S>(problem, strided<const S>(x), to, first, last);
    });
  });
  return y;
}

Tensor pairwise_products_backward(const Tensor& given_grad_y, const Tensor& x, int64_t parts) {
  const Problem problem = problem_of(x, parts);
  const Integers expected{problem.clips, parts, problem.joints, problem.joints};
  const auto sizes = given_grad_y.sizes();
  STD_TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), expected.begin(), expected.end()) &&
                      given_grad_y.scalar_type() == x.scalar_type(),
                  "grad_y: expected the shape and dtype of the output");
  const Tensor grad_y = torch::stable::contiguous(given_grad_y);
  const auto x_sizes = x.sizes();
  Tensor grad_x = empty_features(x, Integers(x_sizes.begin(), x_sizes.end()));
  dispatch_floating(x, "x", [&](auto scalar) {
    using S = decltype(scalar);
    const auto* const given = static_cast<const S*>(grad_y.const_data_ptr());
    torch::stable::parallel_for(0, problem.clips * parts, grain(problem), [&](int64_t first, int64_t last) {
      backward_tasks<S>(problem, strided<const S>(x), given, strided<S>(grad_x), first, last);
    });
  });
  return grad_x;
}

}  // namespace
}  // namespace ikem::pairwise_products

STABLE_TORCH_LIBRARY_FRAGMENT(ikem_ext, library) {
  library.def("pairwise_products(Tensor x, int parts) -> Tensor");
  library.def("pairwise_products_backward(Tensor grad_y, Tensor x, int parts) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CPU, library) {
  library.impl("pairwise_products", TORCH_BOX(&ikem::pairwise_products::pairwise_products));
  library.impl("pairwise_products_backward", TORCH_BOX(&ikem::pairwise_products::pairwise_products_backward));
}
