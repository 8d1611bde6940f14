// A convolution over time is a product of matrices: positions by taps times input channels by output channels. Its left
// factor is never written down: the tile of x that a block holds in shared memory, rows of channels for each joint of
// each frame, serves every tap, each of which reads it some frames further on.
//
// The floor is the memory, x and y once. x is read from there once, and again from the second-level cache where tiles
// meet and for every 64 output channels. The products run on the tensor cores, but for float64 and for float32 where
// TF32 is not allowed. The order of every sum follows from the sizes alone.
#include "temporal_conv/cuda/convolve.h"
#include "temporal_conv/cuda/weight_gradient.h"
#include "temporal_conv/kernel.h"

namespace ikem::temporal_conv::cuda {
namespace {

template <class S>
Convolution<S> make_convolution(const Problem& problem, const Strided<const S, 4>& x, bool for_gradient) {
  return {x,
          make_frames(problem, for_gradient),
          problem.clips,
          static_cast<int>(problem.joints),
          static_cast<int>(for_gradient ? problem.out_channels : problem.in_channels),
          static_cast<int>(for_gradient ? problem.in_channels : problem.out_channels)};
}

}  // namespace

template <class S>
int64_t packed_size(const Problem& problem, bool for_gradient) {
  const int64_t in = problem.in_channels, out = problem.out_channels;
  return problem.taps * make_weights<S>(nullptr, for_gradient ? in : out, for_gradient ? out : in).tap_size();
}

template <class S>
Workspace workspace(const Problem& problem) {
  const TileChunks chunks = dispatch_weight_gradient<S>(problem.in_channels, false, [&](auto, auto n) {
    return plan_weight_gradient<S, decltype(n)::value>(problem).chunks;
  });
  return {partial_elements<S>(weight_sums(problem, chunks)), partial_elements<S>(bias_sums(problem, chunks))};
}

template <class S>
int64_t count_parts(const Problem& problem, bool for_gradient) {
  return count_tiles(make_convolution<S>(problem, {}, for_gradient));
}

template <class S>
const char* forward(const Problem& problem, const Strided<const S, 4>& x, const GivenNorm<Compute<S>>& norm,
                    const Strided<const S, 3>& weight, S* packed, const S* bias, const Strided<S, 4>& y,
                    const WantedMoments<Compute<S>>& moments, bool allow_tf32, void* stream) {
  const Convolution<S> convolution = make_convolution(problem, x, /*for_gradient=*/false);
  const char* error = find_scale(norm, problem.in_channels, stream);
  if (error == nullptr) {
    error = convolve(convolution, weight, packed, bias, y, {norm.norm(), moments.parts, {}}, allow_tf32, stream);
  }
  return error != nullptr || moments.result == nullptr
             ? error
             : merge_moments(moments, 1, problem.out_channels, count_tiles(convolution), stream);
}

template <class S>
const char* backward(const Problem& problem, const Strided<const S, 4>& x, const GivenNorm<Compute<S>>& norm,
                     const Strided<const S, 4>& grad_y, const Strided<const S, 3>& weight, S* packed,
                     const Gradients<S>& gradients, const Results<S>& results,
                     PartialGradientSums<Compute<S>>* norm_sums, bool allow_tf32, void* stream) {
  if (const char* error = find_scale(norm, problem.in_channels, stream)) {
    return error;
  }
  if (gradients.x.data != nullptr) {
    const Strided<const S, 3> transposed{weight.data, {weight.strides[1], weight.strides[0], weight.strides[2]}};
    const Around<S> around{{}, nullptr, {norm.norm(), x, norm.given() ? norm_sums : nullptr}};
    if (const char* error = convolve<S>(make_convolution(problem, grad_y, /*for_gradient=*/true), transposed, packed,
                                        nullptr, gradients.x, around, allow_tf32, stream)) {
      return error;
    }
  }
  if (results.weight == nullptr && results.bias == nullptr) {
    return nullptr;
  }
  const WeightGradient<S> gradient{make_convolution(problem, x, /*for_gradient=*/false), norm.norm(), grad_y,
                                   static_cast<int>(problem.out_channels)};
  return weight_gradient(problem, gradient, gradients, results, allow_tf32, stream);
}

#define INSTANTIATE(S)                                                                                              \
  template int64_t packed_size<S>(const Problem&, bool);                                                            \
  template int64_t count_parts<S>(const Problem&, bool);                                                            \
  template Workspace workspace<S>(const Problem&);                                                                  \
  template const char* forward<S>(const Problem&, const Strided<const S, 4>&, const GivenNorm<Compute<S>>&,         \
                                  const Strided<const S, 3>&, S*, const S*, const Strided<S, 4>&,                   \
                                  const WantedMoments<Compute<S>>&, bool, void*);                                   \
  template const char* backward<S>(const Problem&, const Strided<const S, 4>&, const GivenNorm<Compute<S>>&,        \
                                   const Strided<const S, 4>&, const Strided<const S, 3>&, S*, const Gradients<S>&, \
                                   const Results<S>&, PartialGradientSums<Compute<S>>*, bool, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::temporal_conv::cuda
