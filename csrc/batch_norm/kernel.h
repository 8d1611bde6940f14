// What the kernels of this family offer: pointers, sizes and strides, and nothing of torch.
#pragma once

#include <cstdint>

#include "common/moments.h"
#include "common/scalar.h"
#include "common/simd.h"

namespace ikem::batch_norm {

// A dense tensor: element (o, c, i) lies at (o * channels + c) * inner + i. With the channels innermost `outer` counts
// all positions and `inner` is 1.
struct Layout {
  int64_t outer, channels, inner;

  int64_t numel() const { return outer * channels * inner; }
  int64_t per_channel() const { return outer * inner; }
};

// An entry stays where 32 random bits, made of the seed and of the entry's place in the order (o, i, c), are an integer
// of at least `threshold`; what stays is multiplied by `gain`. Places count modulo 2^32.
struct Dropout {
  bool active;
  uint64_t seed;
  uint32_t threshold;
  double gain;
  const uint64_t* seed_memory = nullptr;  // CUDA: where the seed lies on the device; null: it is `seed`
};

// The sums over the batch are made chunk by chunk, `length` of `outer` in each, and then added up in the order of the
// chunks.
struct Chunks {
  int64_t count, length;
};

// y = relu(dropout((x - mean) * scale + shift) + residual)
template <class S>
struct Forward {
  Layout layout;
  const S* x;
  const S* residual;  // null: none
  const Compute<S>*mean, *scale, *shift;
  Dropout dropout;
  bool relu;
  S* y;
};

// What a gradient goes through on its way back to the normalized x: the ReLU, then the dropout.
template <class S>
struct Backward {
  Layout layout;
  const S* grad_y;
  const S* y;             // its positive entries went through the ReLU; null: all did
  const int8_t* through;  // or the positive entries of this
  const S* x;
  const Compute<S>* mean;
  Dropout dropout;
};

// grad_x = gradient * by_gradient + ((x - mean) * by_x + constant), one of each for every channel
template <class C>
struct Coefficients {
  const C *by_gradient, *by_x, *constant;
};

// By what x is normalized: mean and variance, which are written, are those given or else, where they are null, those of
// x.
template <class C>
struct Statistics {
  const C *weight, *given_mean, *given_variance;
  double eps;
  C *mean, *variance;
};

// The gradients of all, and what they depend on besides the pass. Where grad_residual is null it is not asked for.
template <class S>
struct Parameters {
  const Compute<S>*weight, *variance;
  double eps;
  bool training;  // mean and variance are those of x
  S *grad_x, *grad_residual;
  Compute<S>*grad_weight, *grad_bias;
};

// Partial results are (chunks, channels). `gradient_sums` writes what goes through the ReLU to `grad_residual`, unless
// that is null.
#define IKEM_DECLARE_BATCH_NORM(level)                                                                           \
  namespace level {                                                                                              \
  template <class S>                                                                                             \
  void moments(const Layout& layout, const S* x, const Chunks& chunks, int64_t first_chunk, int64_t last_chunk,  \
               Compute<S>* means, Compute<S>* squares);                                                          \
  template <class S>                                                                                             \
  void forward(const Forward<S>& pass, int64_t first, int64_t last);                                             \
  template <class S>                                                                                             \
  void gradient_sums(const Backward<S>& pass, const Chunks& chunks, int64_t first_chunk, int64_t last_chunk,     \
                     Compute<S>* sums, Compute<S>* products, S* grad_residual);                                  \
  template <class S>                                                                                             \
  void gradient(const Backward<S>& pass, const Coefficients<Compute<S>>& coefficients, S* grad_x, int64_t first, \
                int64_t last);                                                                                   \
  }
IKEM_FOR_EACH_SIMD_LEVEL(IKEM_DECLARE_BATCH_NORM)
#undef IKEM_DECLARE_BATCH_NORM

// CUDA. `stream` is a cudaStream_t of the current device, `memory` has as many bytes as the functions named after it
// say. Those that launch return null, or what went wrong.
namespace cuda {

// The pass needs no mean and no scale.
template <class S>
int64_t forward_bytes(const Forward<S>& pass);
template <class S>
const char* forward(Forward<S> pass, const Statistics<Compute<S>>& statistics, void* memory, void* stream);
template <class S>
int64_t backward_bytes(const Backward<S>& pass, const Parameters<S>& parameters);
template <class S>
const char* backward(Backward<S> pass, const Parameters<S>& parameters, void* memory, void* stream);

// The rest of the backward pass, where the sums over the batch are there, (channels, parts): what the pass reads is the
// gradient behind the ReLU, perhaps in the place of grad_x.
template <class S>
int64_t finish_bytes(const Layout& layout);
template <class S>
const char* finish(const Backward<S>& pass, const Parameters<S>& parameters,
                   const PartialGradientSums<Compute<S>>* sums, int64_t parts, void* memory, void* stream);

}  // namespace cuda

}  // namespace ikem::batch_norm
