// The CUDA kernels of the temporal convolution on the host, with plain C functions around them for tests to call.
#include <cmath>
#include <cstring>
#include <vector>

#include "batch_norm/cuda.cu"
#include "scalars.h"
#include "strided.h"
#include "temporal_conv/cuda.cu"

using namespace ikem::temporal_conv;
using ikem::Compute;
using ikem::Strided;

namespace {

// `bias` may be null, and so may all of a norm.
struct Arguments {
  int64_t clips, in_channels, out_channels, frames, out_frames, joints, taps, stride, dilation, padding, allow_tf32;
  int64_t channels_last, training;  // of x, for a norm's gradient
  double eps;
  const void *x, *weight, *bias;
  const int64_t *x_strides, *weight_strides;
  const void *norm_weight, *norm_bias, *norm_mean, *norm_variance;
};

Problem make_problem(const Arguments& a) {
  Problem problem{};
  problem.clips = a.clips;
  problem.in_channels = a.in_channels;
  problem.out_channels = a.out_channels;
  problem.frames = a.frames;
  problem.out_frames = a.out_frames;
  problem.joints = a.joints;
  problem.taps = a.taps;
  problem.stride = a.stride;
  problem.dilation = a.dilation;
  problem.padding = a.padding;
  return problem;
}

// Filled with NaN, at an address as on the card; null where nothing is `wanted`.
template <class T>
class Room {
 public:
  Room(int64_t size, bool wanted) : memory_(wanted ? static_cast<size_t>(size) * sizeof(T) / 16 + 2 : 0) {
    if (wanted) {
      std::memset(memory_.data(), 0xff, memory_.size() * 16);
    }
  }
  T* data() { return reinterpret_cast<T*>(memory_.data()); }

 private:
  struct alignas(16) Sixteen {
    unsigned char bytes[16];
  };
  std::vector<Sixteen> memory_;
};

template <class S>
ikem::Strided<const S, 4> x_of(const Arguments& a) {
  return strided<4, const S>(a.x, a.x_strides);
}

template <class C>
cuda::GivenNorm<C> norm_of(const Arguments& a, C* scale) {
  return {static_cast<const C*>(a.norm_weight),
          static_cast<const C*>(a.norm_bias),
          static_cast<const C*>(a.norm_mean),
          static_cast<const C*>(a.norm_variance),
          a.eps,
          scale};
}

ikem::batch_norm::Layout layout_of(const Arguments& a) {
  const int64_t positions = a.frames * a.joints;
  return a.channels_last != 0 ? ikem::batch_norm::Layout{a.clips * positions, a.in_channels, 1}
                              : ikem::batch_norm::Layout{a.clips, a.in_channels, positions};
}

// What is left of the backward pass through a norm, in the place of the gradient behind it.
template <class S>
const char* finish(const Arguments& a, const ikem::PartialGradientSums<Compute<S>>* sums, int64_t parts, void* grad_x,
                   void* grad_norm_weight, void* grad_norm_bias) {
  using C = Compute<S>;
  const auto* const mean = static_cast<const C*>(a.norm_mean);
  const ikem::batch_norm::Backward<S> pass{
      layout_of(a), static_cast<const S*>(grad_x), nullptr, nullptr, static_cast<const S*>(a.x), mean, {}};
  const ikem::batch_norm::Parameters<S> parameters{static_cast<const C*>(a.norm_weight),
                                                   static_cast<const C*>(a.norm_variance),
                                                   a.eps,
                                                   a.training != 0,
                                                   static_cast<S*>(grad_x),
                                                   nullptr,
                                                   static_cast<C*>(grad_norm_weight),
                                                   static_cast<C*>(grad_norm_bias)};
  Room<char> memory(ikem::batch_norm::cuda::finish_bytes<S>(pass.layout), true);
  return ikem::batch_norm::cuda::finish(pass, parameters, sums, parts, memory.data(), nullptr);
}

}  // namespace

extern "C" {

// Without `moments`, (2, C_out), none are made.
const char* temporal_conv_forward(int dtype, const Arguments* a, void* y, const int64_t* y_strides, void* moments) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const Problem problem = make_problem(*a);
    Room<S> packed(cuda::packed_size<S>(problem, false), true);
    Room<C> scale(problem.in_channels, a->norm_weight != nullptr);
    Room<ikem::Moments<C>> parts(problem.out_channels * cuda::count_parts<S>(problem, false), moments != nullptr);
    const ikem::WantedMoments<C> wanted{static_cast<C*>(moments), parts.data()};
    return cuda::forward<S>(problem, x_of<S>(*a), norm_of(*a, scale.data()),
                            strided<3, const S>(a->weight, a->weight_strides), packed.data(),
                            static_cast<const S*>(a->bias), strided<4, S>(y, y_strides), wanted, a->allow_tf32 != 0,
                            nullptr);
  });
}

// Gradients that are null are not asked for; with a norm its own belong to that of x, which then is dense as x is.
const char* temporal_conv_backward(int dtype, const Arguments* a, const void* grad_y, const int64_t* y_strides,
                                   void* grad_x, void* grad_weight, void* grad_bias, void* grad_norm_weight,
                                   void* grad_norm_bias) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const Problem problem = make_problem(*a);
    const cuda::Workspace sizes = cuda::workspace<S>(problem);
    const bool for_norm = grad_x != nullptr && a->norm_weight != nullptr;
    const int64_t parts = cuda::count_parts<S>(problem, true);
    Room<S> packed(cuda::packed_size<S>(problem, true), grad_x != nullptr);
    Room<C> weights(sizes.weight, grad_weight != nullptr), biases(sizes.bias, grad_bias != nullptr);
    Room<C> scale(problem.in_channels, a->norm_weight != nullptr);
    Room<ikem::PartialGradientSums<C>> sums(problem.in_channels * parts, for_norm);
    const Gradients<S> gradients{strided<4, S>(grad_x, a->x_strides), weights.data(), biases.data()};
    const char* error =
        cuda::backward<S>(problem, x_of<S>(*a), norm_of(*a, scale.data()), strided<4, const S>(grad_y, y_strides),
                          strided<3, const S>(a->weight, a->weight_strides), packed.data(), gradients,
                          cuda::Results<S>{static_cast<S*>(grad_weight), static_cast<S*>(grad_bias)}, sums.data(),
                          a->allow_tf32 != 0, nullptr);
    return error != nullptr || !for_norm ? error
                                         : finish<S>(*a, sums.data(), parts, grad_x, grad_norm_weight, grad_norm_bias);
  });
}

}  // extern "C"
