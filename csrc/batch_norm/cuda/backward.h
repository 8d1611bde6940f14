// The sums over the batch that the gradients are made of, and the pass that makes x's.
#pragma once

#include "batch_norm/cuda/walk.h"
#include "common/warp.h"

namespace ikem::batch_norm::cuda {
namespace {

// The gradient at the normalized x.
template <class S, int V, bool LAST, class C = Compute<S>>
__device__ void load_gradient(const Backward<S>& pass, const Window<V, LAST>& window, const Kept<C>& kept,
                              C (&gradient)[V], S* grad_residual) {
  load(pass.grad_y, window, gradient);
  if (pass.y != nullptr || pass.through != nullptr) {
    C positive[V];
    if (pass.y != nullptr) {
      load(pass.y, window, positive);
    } else {
      load(pass.through, window, positive);
    }
#pragma unroll
    for (int i = 0; i < V; ++i) {
      gradient[i] = positive[i] > 0 ? gradient[i] : C(0);
    }
  }
  if (grad_residual != nullptr) {
    store(grad_residual, window, gradient);
  }
  if (pass.dropout.active) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      gradient[i] *= kept(window, i);
    }
  }
}

// The sums of a thread's channels.
template <class C, int CHANNELS>
struct OwnSums {
  C of_gradient[CHANNELS] = {}, of_product[CHANNELS] = {};

  __device__ void add(const OwnSums& other) {
#pragma unroll
    for (int i = 0; i < CHANNELS; ++i) {
      of_gradient[i] += other.of_gradient[i];
      of_product[i] += other.of_product[i];
    }
  }
};

// partials: (channels, chunks)
template <class S, int V, bool LAST>
__global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE<V>)
    gradient_sums_kernel(const __grid_constant__ Walk walk, const __grid_constant__ Backward<S> pass, S* grad_residual,
                         PartialGradientSums<Compute<S>>* partials) {
  using C = Compute<S>;
  constexpr int CHANNELS = Turn<V, LAST>::CHANNELS;
  using Own = OwnSums<C, CHANNELS>;
  IKEM_DYNAMIC_SHARED(memory);
  const Turn<V, LAST> turn(walk);
  const PerChannel<C, V, LAST> mean(pass.mean, turn);
  const Kept<C> kept(pass.dropout);
  Own own;
  turn.for_each([&](const Window<V, LAST>& window) {
    C gradient[V], x[V];
    load_gradient(pass, window, kept, gradient, grad_residual);
    load(pass.x, window, x);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      own.of_gradient[LAST ? i : 0] += gradient[i];
      own.of_product[LAST ? i : 0] += window.has(i) ? gradient[i] * (x[i] - mean.at(i)) : C(0);
    }
  });
  reduce_rows(own, reinterpret_cast<Own*>(memory), walk, turn, [](Own& a, const Own& b) { a.add(b); });
  if (turn.row == 0 && turn.active) {
#pragma unroll
    for (int i = 0; i < CHANNELS; ++i) {
      partials[(turn.channel + i) * walk.chunks + turn.chunk] = {own.of_gradient[i], own.of_product[i]};
    }
  }
}

// The gradients of weight and bias, and what x's is made of. A warp has a channel.
template <class S, class C = Compute<S>>
__global__ void __launch_bounds__(THREADS, 2)
    coefficients_kernel(const __grid_constant__ Parameters<S> parameters, int64_t channels, int64_t per_channel,
                        const PartialGradientSums<C>* partials, int64_t chunks, C* by_gradient, C* by_x, C* constant) {
  const int lane = static_cast<int>(threadIdx.x) % WARP;
  for (int64_t c = (blockIdx.x * int64_t{THREADS} + threadIdx.x) / WARP; c < channels;
       c += gridDim.x * int64_t{THREADS / WARP}) {
    double of_gradient = 0, of_product = 0;
    for (int64_t j = lane; j < chunks; j += WARP) {
      const PartialGradientSums<C> more = partials[c * chunks + j];
      of_gradient += more.of_gradient;
      of_product += more.of_product;
    }
    const auto plus = [](double a, double b) { return a + b; };
    of_gradient = reduce_warp(of_gradient, plus);
    of_product = reduce_warp(of_product, plus);
    if (lane == 0) {
      const double inverse = inverse_deviation(parameters.variance[c], parameters.eps);
      const double scale = parameters.weight[c] * inverse;
      const double count = static_cast<double>(per_channel);
      parameters.grad_bias[c] = static_cast<C>(of_gradient);
      parameters.grad_weight[c] = static_cast<C>(of_product * inverse);
      by_gradient[c] = static_cast<C>(scale);
      by_x[c] = parameters.training ? static_cast<C>(-scale * inverse * inverse * of_product / count) : C(0);
      constant[c] = parameters.training ? static_cast<C>(-scale * of_gradient / count) : C(0);
    }
  }
}

template <class S, int V, bool LAST>
__global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE<V>)
    gradient_kernel(const __grid_constant__ Walk walk, const __grid_constant__ Backward<S> pass,
                    const __grid_constant__ Coefficients<Compute<S>> coefficients, S* grad_x) {
  using C = Compute<S>;
  const Turn<V, LAST> turn(walk);
  const PerChannel<C, V, LAST> mean(pass.mean, turn), by_gradient(coefficients.by_gradient, turn),
      by_x(coefficients.by_x, turn), constant(coefficients.constant, turn);
  const Kept<C> kept(pass.dropout);
  turn.for_each([&](const Window<V, LAST>& window) {
    C gradient[V], x[V];
    load_gradient<S>(pass, window, kept, gradient, nullptr);
    load(pass.x, window, x);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      gradient[i] = gradient[i] * by_gradient.at(i) + ((x[i] - mean.at(i)) * by_x.at(i) + constant.at(i));
    }
    store(grad_x, window, gradient);
  });
}

template <class S>
bool may_use_packs(const Backward<S>& pass, const S* grad_x, const S* grad_residual) {
  return are_aligned(pass.grad_y, pass.y, pass.through, pass.x, grad_x, grad_residual);
}

template <class C>
struct FinishWorkspace {
  C *by_gradient, *by_x, *constant;

  FinishWorkspace(SharedArrays& arrays, int64_t channels) {
    by_gradient = arrays.take<C>(channels);
    by_x = arrays.take<C>(channels);
    constant = arrays.take<C>(channels);
  }
};

template <class C>
struct BackwardWorkspace : FinishWorkspace<C> {
  PartialGradientSums<C>* partials;

  BackwardWorkspace(SharedArrays& arrays, const Walk& walk) : FinishWorkspace<C>(arrays, walk.layout.channels) {
    partials = arrays.take<PartialGradientSums<C>>(walk.layout.channels * walk.chunks);
  }
};

}  // namespace
}  // namespace ikem::batch_norm::cuda
