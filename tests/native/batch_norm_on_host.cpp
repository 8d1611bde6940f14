// The CUDA kernels of batch norm on the host, with plain C functions around them for tests to call.
#include <vector>

#include "batch_norm/cuda.cu"
#include "scalars.h"

using namespace ikem::batch_norm;
using ikem::Compute;

namespace {

// Data that there is not is null; `mean` and `variance` are those given.
struct Arguments {
  int64_t outer, channels, inner, training, relu, seed;
  double dropout, eps;
  const void *x, *weight, *bias, *mean, *variance, *residual;
};

Layout layout_of(const Arguments& a) { return {a.outer, a.channels, a.inner}; }

template <class T>
const T* data(const void* pointer) {
  return static_cast<const T*>(pointer);
}

// The seed lies in memory, as one that is on the device does.
Dropout dropout_of(const Arguments& a) {
  return {a.dropout > 0, 0, static_cast<uint32_t>(std::ldexp(a.dropout, 32)), 1 / (1 - a.dropout),
          reinterpret_cast<const uint64_t*>(&a.seed)};
}

// Filled with ones, so that it shows if a kernel reads what none has written: they are no number.
std::vector<unsigned char> workspace(int64_t bytes) {
  return std::vector<unsigned char>(static_cast<size_t>(bytes), 0xff);
}

}  // namespace

extern "C" {

const char* batch_norm_forward(int dtype, const Arguments* a, void* y, void* mean, void* variance) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const Forward<S> pass{layout_of(*a),    data<S>(a->x),  data<S>(a->residual), nullptr,           nullptr,
                          data<C>(a->bias), dropout_of(*a), a->relu != 0,         static_cast<S*>(y)};
    const Statistics<C> statistics{data<C>(a->weight),    data<C>(a->mean),         data<C>(a->variance), a->eps,
                                   static_cast<C*>(mean), static_cast<C*>(variance)};
    auto memory = workspace(cuda::forward_bytes(pass));
    return cuda::forward(pass, statistics, memory.data(), nullptr);
  });
}

// What went through the ReLU is told by y, or by the bytes of `through`; gradients that are null are not asked for.
const char* batch_norm_backward(int dtype, const Arguments* a, const void* grad_y, const void* y, const int8_t* through,
                                void* grad_x, void* grad_weight, void* grad_bias, void* grad_residual) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const Backward<S> pass{layout_of(*a), data<S>(grad_y),  data<S>(y),    through,
                           data<S>(a->x), data<C>(a->mean), dropout_of(*a)};
    const Parameters<S> parameters{data<C>(a->weight),
                                   data<C>(a->variance),
                                   a->eps,
                                   a->training != 0,
                                   static_cast<S*>(grad_x),
                                   static_cast<S*>(grad_residual),
                                   static_cast<C*>(grad_weight),
                                   static_cast<C*>(grad_bias)};
    auto memory = workspace(cuda::backward_bytes(pass, parameters));
    return cuda::backward(pass, parameters, memory.data(), nullptr);
  });
}

}  // extern "C"
