// The passes of batch norm over a dense tensor that other operations take, too: they have made moments or gradients of
// a norm on their way, and leave the rest to these.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "batch_norm/kernel.h"
#include "batch_norm/math.h"
#include "common/moments.h"
#include "common/tensor.h"

namespace ikem::batch_norm {

// The memory format that all tensors of a call have: channels last where x has it, else contiguous.
inline torch::headeronly::MemoryFormat format_of(const Tensor& x) {
  using torch::headeronly::MemoryFormat;
  return has_channels_last(x) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// Of dense features (..., N, C, T, V) in that format.
inline Layout layout_of(const Tensor& x) {
  const int64_t positions = x.size(-2) * x.size(-1);
  return has_channels_last(x) ? Layout{x.size(-4) * positions, x.size(-3), 1}
                              : Layout{x.size(-4), x.size(-3), positions};
}

inline int64_t grain(const Layout& layout, int64_t tasks) {
  constexpr int64_t MIN_VALUES_PER_THREAD = 1 << 15;  // Less memory than this is not worth waking a thread for.
  return std::max<int64_t>(1, tasks * MIN_VALUES_PER_THREAD / std::max<int64_t>(layout.numel(), 1));
}

// A chunk stays in a core's own cache.
inline Chunks choose_chunks(const Layout& layout) {
  constexpr int64_t CHUNK_VALUES = 1 << 15;
  const int64_t length = std::max<int64_t>(1, CHUNK_VALUES / std::max<int64_t>(layout.channels * layout.inner, 1));
  return {(layout.outer + length - 1) / length, length};
}

template <class S>
void moments_of_chunks(const Layout& layout, const S* x, const Chunks& chunks, int64_t first, int64_t last,
                       Compute<S>* means, Compute<S>* squares) {
  IKEM_DISPATCH_SIMD(moments<S>(layout, x, chunks, first, last, means, squares))
}
template <class S>
void gradient_part(const Backward<S>& pass, const Coefficients<Compute<S>>& coefficients, S* grad_x, int64_t first,
                   int64_t last) {
  IKEM_DISPATCH_SIMD(gradient<S>(pass, coefficients, grad_x, first, last))
}

// Mean and biased variance of each channel.
template <class S, class C = Compute<S>>
void find_moments(const Layout& layout, const S* x, C* mean, C* variance) {
  const Chunks chunks = choose_chunks(layout);
  std::vector<C> means(static_cast<size_t>(chunks.count * layout.channels)), squares(means.size());
  torch::stable::parallel_for(0, chunks.count, grain(layout, chunks.count), [&](int64_t first, int64_t last) {
    moments_of_chunks<S>(layout, x, chunks, first, last, means.data(), squares.data());
  });
  const auto positions = [&](int64_t chunk) {
    return std::min(chunks.length, layout.outer - chunk * chunks.length) * layout.inner;
  };
  merge_moments<C>({means.data(), squares.data()}, chunks.count, layout.channels, positions, mean, variance);
}

// The sums over the batch that the gradients are made of: of what arrives at the normalized x, and of its product with
// x - mean; of each channel. `add` takes those of parts, (parts, channels), in their order.
struct GradientSums {
  explicit GradientSums(int64_t channels)
      : of_gradient(static_cast<size_t>(channels)), of_product(static_cast<size_t>(channels)) {}

  template <class C>
  void add(const std::vector<C>& sums, const std::vector<C>& products) {
    for (size_t i = 0; i < sums.size(); ++i) {
      of_gradient[i % of_gradient.size()] += sums[i];
      of_product[i % of_product.size()] += products[i];
    }
  }

  std::vector<double> of_gradient, of_product;
};

// Finishes the gradients from what the pass reads, grad_x perhaps in the place of grad_y.
template <class S>
void finish_gradients(const Backward<S>& pass, const GradientSums& sums, const Parameters<S>& parameters) {
  using C = Compute<S>;
  const Layout& layout = pass.layout;
  const size_t channels = sums.of_gradient.size();
  std::vector<C> by_gradient(channels), by_x(channels), constant(channels);
  const double count = static_cast<double>(layout.per_channel());
  for (size_t c = 0; c < channels; ++c) {
    const double inverse = inverse_deviation(parameters.variance[c], parameters.eps);
    const double scale = parameters.weight[c] * inverse;
    parameters.grad_bias[c] = static_cast<C>(sums.of_gradient[c]);
    parameters.grad_weight[c] = static_cast<C>(sums.of_product[c] * inverse);
    by_gradient[c] = static_cast<C>(scale);
    by_x[c] = parameters.training ? static_cast<C>(-scale * inverse * inverse * sums.of_product[c] / count) : 0;
    constant[c] = parameters.training ? static_cast<C>(-scale * sums.of_gradient[c] / count) : 0;
  }
  const Coefficients<C> coefficients{by_gradient.data(), by_x.data(), constant.data()};
  torch::stable::parallel_for(0, layout.outer, grain(layout, layout.outer), [&](int64_t first, int64_t last) {
    gradient_part<S>(pass, coefficients, parameters.grad_x, first, last);
  });
}

}  // namespace ikem::batch_norm
