// What the kernels of this family offer: pointers, sizes and strides, and nothing of torch.
#pragma once

#include <cstdint>

#include "common/moments.h"
#include "common/scalar.h"
#include "common/simd.h"
#include "common/strided.h"

namespace ikem::temporal_conv {

// y[n,o,t,v] = b[o] + sum over c, k of w[o,c,k] x[n,c, stride t + dilation k - padding, v], x being zero outside.
//
// Frames are sorted so that all of it consists of convolutions with neither stride nor dilation. With g the greatest
// common divisor of the two, outputs fall into `classes` = dilation / g by t modulo that number, and taps into
// `phases` = stride / g by k modulo that one. The output t = classes u + r takes from phase p, by its i-th tap
// k = p + phases i, the input frame
//   frame_step (u + i) + stride r + (dilation p - padding),   frame_step = stride classes
// which depends on u and i by their sum alone.
//
// Such a convolution is made in frequencies, tile by tile: `tile` outputs from a window of inputs, both taken as parts
// of a circle of `points` frames. A real transform of that size has points / 2 + 1 frequencies, each a product of
// matrices over the channels; one of complex numbers takes three products of real ones (Gauss):
//   re = s wr - b (wr + wi)    im = s wr + a (wi - wr)    with x = a + i b, s = a + b
// So there are about 1.5 `points` products where the sum over taps has `tile` times `taps`. In bfloat16, where an
// instruction sums two products at once, there are `points` such sums, re = a wr - b wi and im = a wi + b wr. A single
// tile need not have room for the zeros around the input: one end's serve for both.
struct Problem {
  int64_t clips, in_channels, out_channels, frames, out_frames, joints;
  int64_t taps, stride, dilation, padding;

  int64_t classes, phases, frame_step, phase_taps;  // phase_taps: the most that a phase has
  int64_t tiles, tile;                              // tiles of each class, and outputs of each
  int64_t window_first, window, points;             // the window's first u + i, and its length
  int64_t clips_at_once;
  bool paired;  // bfloat16 multiplied as such (see spectrum.h)
  bool direct;  // the sum over taps as it is written: a single class and phase, and unless tiled a single clip at once
  bool tiled;   // direct, and paired in tile registers (see tiled.h)

  IKEM_INLINE int64_t single_frequencies() const { return points % 2 == 0 ? 2 : 1; }
  IKEM_INLINE int64_t pairs() const { return (points - 1) / 2; }
  // Matrices of numbers that are multiplied, and of their products.
  IKEM_INLINE int64_t factors() const { return paired && !direct ? pairs() + 1 : products(); }
  IKEM_INLINE int64_t products() const { return direct ? taps : paired ? points : 3 * pairs() + single_frequencies(); }
  IKEM_INLINE int64_t phase_offset(int64_t phase) const { return dilation * phase - padding; }
};

IKEM_INLINE int64_t padded_channels(int64_t channels) { return (channels + 15) / 16 * 16; }

// Rows of weights in frequencies: an odd number of cache lines, so that they do not compete for places of the cache.
IKEM_INLINE int64_t spectrum_row(int64_t channels) { return (padded_channels(channels) / 16 | 1) * 16; }

// The weights in frequencies, (factors, phases, C_in, C_out), or for the backward pass, which sums over the output's
// channels, (factors, phases, C_out, C_in). Where they are pairs these are as large as the numbers they are computed
// in.
IKEM_INLINE int64_t spectrum_size(const Problem& problem, int64_t summed, int64_t made) {
  return problem.factors() * problem.phases * summed * spectrum_row(made);
}

// Their gradient in frequencies, (products, phases, C_in, C_out).
IKEM_INLINE int64_t gradient_size(const Problem& problem) {
  return problem.products() * problem.phases * problem.in_channels * spectrum_row(problem.out_channels);
}

// What x becomes as it is read: relu((x - mean) * scale + shift), one of each for every channel. Without data: itself.
template <class C>
struct Norm {
  const C *mean = nullptr, *scale = nullptr, *shift = nullptr;

  IKEM_INLINE bool given() const { return mean != nullptr; }
};

// With a norm `x` is the gradient behind it, which has come through the ReLU alone, and there are its sums and those of
// its products with x - mean.
template <class S>
struct Gradients {
  Strided<S, 4> x;     // without data: not asked for, as the others
  Compute<S>* weight;  // (chunks, products, phases, C_in, C_out), as gradient_size()
  Compute<S>* bias;    // (chunks, padded C_out)
  Compute<S>*norm_sums = nullptr, *norm_products = nullptr;  // (chunks, C_in)
};

// Tensors are (N, C, T, V); weights (C_out, C_in, taps); a part of the moments of y is a clip. The backward pass runs
// in chunks of some tasks each, as equal as can be, whose sums are then added up in their order.
#define IKEM_DECLARE_TEMPORAL_CONV(level)                                                                     \
  namespace level {                                                                                           \
  template <class S>                                                                                          \
  void transform_weight(const Problem& problem, const Strided<const S, 3>& weight, bool backward,             \
                        Compute<S>* spectrum, int64_t first_summed, int64_t last_summed);                     \
  template <class S>                                                                                          \
  void forward(const Problem& problem, const Strided<const S, 4>& x, const Norm<Compute<S>>& norm,            \
               const Compute<S>* spectrum, const S* bias, const Strided<S, 4>& y,                             \
               const PartialMoments<Compute<S>>& moments, int64_t first_task, int64_t last_task);             \
  template <class S>                                                                                          \
  void backward(const Problem& problem, const Strided<const S, 4>& x, const Norm<Compute<S>>& norm,           \
                const Strided<const S, 4>& grad_y, const Compute<S>* spectrum, const Gradients<S>& gradients, \
                int64_t chunks, int64_t first_chunk, int64_t last_chunk);                                     \
  template <class S>                                                                                          \
  void finish_weight(const Problem& problem, const Compute<S>* partials, int64_t chunks, S* grad_weight,      \
                     int64_t first_channel, int64_t last_channel);                                            \
  }
IKEM_FOR_EACH_SIMD_LEVEL(IKEM_DECLARE_TEMPORAL_CONV)
#undef IKEM_DECLARE_TEMPORAL_CONV

// CUDA. `stream` is a cudaStream_t of the current device; float32 may be multiplied as TF32 where that is allowed. The
// functions return null, or what went wrong. Of the problem they need its sizes alone.
namespace cuda {

// What the partial sums of the gradients need, in elements.
struct Workspace {
  int64_t weight, bias;
};

// A norm before the convolution, as it is given; `scale`, which is made of it, needs memory for C_in numbers. Without
// mean: none.
template <class C>
struct GivenNorm {
  const C *weight, *bias, *mean, *variance;
  double eps;
  C* scale;

  IKEM_INLINE bool given() const { return mean != nullptr; }
  IKEM_INLINE Norm<C> norm() const { return {mean, scale, bias}; }
};

// The gradients that are sums of partial sums, contiguous; null: not asked for.
template <class S>
struct Results {
  S *weight, *bias;
};

// The elements of the weights as the products take them, for y or for the gradient of x.
template <class S>
int64_t packed_size(const Problem& problem, bool for_gradient);
// The parts that moments of y, or a norm's sums over the gradient of x, are made by.
template <class S>
int64_t count_parts(const Problem& problem, bool for_gradient);
template <class S>
Workspace workspace(const Problem& problem);
template <class S>
const char* forward(const Problem& problem, const Strided<const S, 4>& x, const GivenNorm<Compute<S>>& norm,
                    const Strided<const S, 3>& weight, S* packed, const S* bias, const Strided<S, 4>& y,
                    const WantedMoments<Compute<S>>& moments, bool allow_tf32, void* stream);
// With a norm the gradient of x is that behind it, as above; its sums are (C_in, parts).
template <class S>
const char* backward(const Problem& problem, const Strided<const S, 4>& x, const GivenNorm<Compute<S>>& norm,
                     const Strided<const S, 4>& grad_y, const Strided<const S, 3>& weight, S* packed,
                     const Gradients<S>& gradients, const Results<S>& results,
                     PartialGradientSums<Compute<S>>* norm_sums, bool allow_tf32, void* stream);

}  // namespace cuda

}  // namespace ikem::temporal_conv
