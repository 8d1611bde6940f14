// Compiled twice: into the operations library, where it defines the operations and their CPU side, and, with
// IKEM_CUDA_OPERATIONS, into the CUDA library. Arguments are checked with friendly messages in
// ikem_ext/batch_norm.py; the checks here are those without which a kernel could read astray.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "batch_norm/passes.h"
#include "common/tensor.h"
#ifdef IKEM_CUDA_OPERATIONS
#include "common/cuda_stream.h"
#endif

namespace ikem::batch_norm {
namespace {

using Integers = std::vector<int64_t>;
using torch::headeronly::MemoryFormat;

Tensor empty_like_x(const Tensor& x) {
  const auto sizes = x.sizes();
  return empty_features(x, Integers(sizes.begin(), sizes.end()));
}

void require_like(const char* name, const Tensor& tensor, const Tensor& x) {
  const auto sizes = tensor.sizes();
  const auto expected = x.sizes();
  STD_TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), expected.begin(), expected.end()) &&
                      tensor.scalar_type() == x.scalar_type() && tensor.device() == x.device(),
                  name, ": expected the shape, dtype and device of x");
}

// Numbers of the channels, contiguous.
Tensor per_channel(const char* name, const Tensor& tensor, const Tensor& x) {
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == x.size(1) &&
                      tensor.scalar_type() == compute_type(x.scalar_type()) && tensor.device() == x.device(),
                  name, ": expected numbers of the channels in the type that x is computed in, on its device");
  return torch::stable::contiguous(tensor);
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(const_cast<void*>(tensor.const_data_ptr()));
}

Dropout dropout_of(const std::optional<Tensor>& seed, double p, const Tensor& x) {
  if (!seed.has_value() || p == 0) {
    return {};
  }
  STD_TORCH_CHECK(p > 0 && p < 1, "dropout: expected at least 0 and less than 1");
  STD_TORCH_CHECK(
      seed->numel() == 1 && seed->scalar_type() == ScalarType::Long && (seed->is_cpu() || seed->device() == x.device()),
      "seed: expected one int64 on the CPU or where x is");
  Dropout dropout{true, 0, static_cast<uint32_t>(std::ldexp(p, 32)), 1 / (1 - p)};
  if (seed->is_cuda()) {  // where to read it would make the CPU wait, and a CUDA graph drop the same entries each time
    dropout.seed_memory = data<uint64_t>(*seed);
  } else {
    dropout.seed = data<uint64_t>(*seed)[0];
  }
  return dropout;
}

#ifdef IKEM_CUDA_OPERATIONS

Tensor workspace(const Tensor& x, int64_t bytes) { return torch::stable::new_empty(x, {bytes}, ScalarType::Byte); }

template <class S>
void run_forward(const Tensor& x, const Forward<S>& pass, const Statistics<Compute<S>>& statistics) {
  const int32_t device = x.get_device_index();
  const Tensor memory = workspace(x, cuda::forward_bytes(pass));
  const torch::stable::accelerator::DeviceGuard guard(device);
  const char* error = cuda::forward(pass, statistics, memory.mutable_data_ptr(), current_cuda_stream(device));
  STD_TORCH_CHECK(error == nullptr, "batch_norm: ", error);
}

template <class S>
void run_backward(const Tensor& x, const Backward<S>& pass, const Parameters<S>& parameters) {
  const int32_t device = x.get_device_index();
  const Tensor memory = workspace(x, cuda::backward_bytes(pass, parameters));
  const torch::stable::accelerator::DeviceGuard guard(device);
  const char* error = cuda::backward(pass, parameters, memory.mutable_data_ptr(), current_cuda_stream(device));
  STD_TORCH_CHECK(error == nullptr, "batch_norm_backward: ", error);
}

#else

template <class S>
void forward_part(const Forward<S>& pass, int64_t first, int64_t last) {
  IKEM_DISPATCH_SIMD(forward<S>(pass, first, last))
}
template <class S>
void gradient_sums_of_chunks(const Backward<S>& pass, const Chunks& chunks, int64_t first, int64_t last,
                             Compute<S>* sums, Compute<S>* products, S* grad_residual) {
  IKEM_DISPATCH_SIMD(gradient_sums<S>(pass, chunks, first, last, sums, products, grad_residual))
}

template <class S, class C = Compute<S>>
void run_forward(const Tensor&, Forward<S> pass, const Statistics<C>& statistics) {
  const Layout& layout = pass.layout;
  if (statistics.given_mean != nullptr) {
    std::copy_n(statistics.given_mean, layout.channels, statistics.mean);
    std::copy_n(statistics.given_variance, layout.channels, statistics.variance);
  } else {
    find_moments(layout, pass.x, statistics.mean, statistics.variance);
  }
  std::vector<C> scale(static_cast<size_t>(layout.channels));
  for (size_t c = 0; c < scale.size(); ++c) {
    scale[c] = statistics.weight[c] * inverse_deviation(statistics.variance[c], statistics.eps);
  }
  pass.mean = statistics.mean;
  pass.scale = scale.data();
  torch::stable::parallel_for(0, layout.outer, grain(layout, layout.outer),
                              [&](int64_t first, int64_t last) { forward_part(pass, first, last); });
}

template <class S>
void run_backward(const Tensor&, Backward<S> pass, const Parameters<S>& parameters) {
  using C = Compute<S>;
  const Chunks chunks = choose_chunks(pass.layout);
  std::vector<C> of_gradient(static_cast<size_t>(chunks.count * pass.layout.channels)), of_product(of_gradient.size());
  torch::stable::parallel_for(0, chunks.count, grain(pass.layout, chunks.count), [&](int64_t first, int64_t last) {
    gradient_sums_of_chunks<S>(pass, chunks, first, last, of_gradient.data(), of_product.data(),
                               parameters.grad_residual);
  });
  GradientSums sums(pass.layout.channels);
  sums.add(of_gradient, of_product);
  if (parameters.grad_residual != nullptr) {  // which is the gradient behind the ReLU
    pass.grad_y = parameters.grad_residual;
    pass.y = nullptr;
    pass.through = nullptr;
  }
  finish_gradients(pass, sums, parameters);
}

#endif

std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, const Tensor& given_weight, const Tensor& given_bias,
                                              std::optional<Tensor> mean, std::optional<Tensor> variance,
                                              std::optional<Tensor> residual, std::optional<Tensor> seed,
                                              double dropout, double eps, bool relu, bool training) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected shape (N, C, T, V)");
  STD_TORCH_CHECK(mean.has_value() == variance.has_value(), "mean, variance: expected both or none");
  STD_TORCH_CHECK(training || mean.has_value(), "mean, variance: expected tensors in evaluation");
  const Tensor weight = per_channel("weight", given_weight, x);
  const Tensor bias = per_channel("bias", given_bias, x);
  if (mean.has_value()) {
    mean = per_channel("mean", *mean, x);
    variance = per_channel("variance", *variance, x);
  }
  if (residual.has_value()) {
    require_like("residual", *residual, x);
  }
  const MemoryFormat format = format_of(x);
  const Layout layout = layout_of(x);
  Tensor y = empty_like_x(x);
  Tensor used_mean = torch::stable::empty_like(weight);
  Tensor used_variance = torch::stable::empty_like(weight);
  const Tensor dense = torch::stable::contiguous(x, format);
  const std::optional<Tensor> dense_residual =
      residual.has_value() ? std::optional(torch::stable::contiguous(*residual, format)) : std::nullopt;
  dispatch_floating(x, "x", [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const Statistics<C> statistics{data<C>(weight),
                                   mean.has_value() ? data<C>(*mean) : nullptr,
                                   mean.has_value() ? data<C>(*variance) : nullptr,
                                   eps,
                                   mutable_data<C>(used_mean),
                                   mutable_data<C>(used_variance)};
    const Forward<S> pass{layout,
                          data<S>(dense),
                          dense_residual.has_value() ? data<S>(*dense_residual) : nullptr,
                          /*mean=*/nullptr,
                          /*scale=*/nullptr,
                          data<C>(bias),
                          dropout_of(seed, dropout, x),
                          relu,
                          mutable_data<S>(y)};
    run_forward(x, pass, statistics);
  });
  return {y, used_mean, used_variance};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_backward(const Tensor& grad_y, const Tensor& x,
                                                               std::optional<Tensor> y, const Tensor& given_weight,
                                                               const Tensor& given_mean, const Tensor& given_variance,
                                                               std::optional<Tensor> seed, double dropout, double eps,
                                                               bool training, bool for_residual) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected shape (N, C, T, V)");
  require_like("grad_y", grad_y, x);
  const Tensor weight = per_channel("weight", given_weight, x);
  const Tensor mean = per_channel("mean", given_mean, x);
  const Tensor variance = per_channel("variance", given_variance, x);
  const bool mask = y.has_value() && y->scalar_type() == ScalarType::Char;
  if (y.has_value()) {
    const auto sizes = y->sizes();
    const auto expected = x.sizes();
    STD_TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), expected.begin(), expected.end()) &&
                        (mask || y->scalar_type() == x.scalar_type()) && y->device() == x.device(),
                    "y: expected the shape and device of x, and its dtype or int8");
  }
  const MemoryFormat format = format_of(x);
  const Layout layout = layout_of(x);
  Tensor grad_x = empty_like_x(x);
  Tensor grad_residual = for_residual ? empty_like_x(x) : torch::stable::new_empty(x, Integers{0});
  Tensor grad_weight = torch::stable::empty_like(weight);
  Tensor grad_bias = torch::stable::empty_like(weight);
  const Tensor dense = torch::stable::contiguous(x, format);
  const Tensor dense_grad_y = torch::stable::contiguous(grad_y, format);
  const std::optional<Tensor> dense_y =
      y.has_value() ? std::optional(torch::stable::contiguous(*y, format)) : std::nullopt;
  dispatch_floating(x, "x", [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const Backward<S> pass{layout,
                           data<S>(dense_grad_y),
                           dense_y.has_value() && !mask ? data<S>(*dense_y) : nullptr,
                           mask ? data<int8_t>(*dense_y) : nullptr,
                           data<S>(dense),
                           data<C>(mean),
                           dropout_of(seed, dropout, x)};
    const Parameters<S> parameters{data<C>(weight),
                                   data<C>(variance),
                                   eps,
                                   training,
                                   mutable_data<S>(grad_x),
                                   for_residual ? mutable_data<S>(grad_residual) : nullptr,
                                   mutable_data<C>(grad_weight),
                                   mutable_data<C>(grad_bias)};
    run_backward(x, pass, parameters);
  });
  return {grad_x, grad_weight, grad_bias, grad_residual};
}

}  // namespace
}  // namespace ikem::batch_norm

#ifdef IKEM_CUDA_OPERATIONS
STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CUDA, library) {
#else
STABLE_TORCH_LIBRARY_FRAGMENT(ikem_ext, library) {
  library.def(
      "batch_norm(Tensor x, Tensor weight, Tensor bias, Tensor? mean, Tensor? variance, Tensor? residual, "
      "Tensor? seed, float dropout, float eps, bool relu, bool training) -> (Tensor, Tensor, Tensor)");
  library.def(
      "batch_norm_backward(Tensor grad_y, Tensor x, Tensor? y, Tensor weight, Tensor mean, Tensor variance, "
      "Tensor? seed, float dropout, float eps, bool training, bool for_residual) -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CPU, library) {
#endif
  library.impl("batch_norm", TORCH_BOX(&ikem::batch_norm::batch_norm));
  library.impl("batch_norm_backward", TORCH_BOX(&ikem::batch_norm::batch_norm_backward));
}
