// The CUDA kernels of the temporal convolution on the host, with plain C functions around them for tests to call.
#include <cmath>
#include <cstring>
#include <vector>

#include "scalars.h"
#include "strided.h"
#include "temporal_conv/cuda.cu"

using namespace ikem::temporal_conv;
using ikem::Compute;
using ikem::Strided;

namespace {

// `bias` may be null.
struct Arguments {
  int64_t clips, in_channels, out_channels, frames, out_frames, joints, taps, stride, dilation, padding, allow_tf32;
  const void *x, *weight, *bias;
  const int64_t *x_strides, *weight_strides;
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

}  // namespace

extern "C" {

const char* temporal_conv_forward(int dtype, const Arguments* a, void* y, const int64_t* y_strides) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    const Problem problem = make_problem(*a);
    Room<S> packed(cuda::packed_size<S>(problem, false), true);
    return cuda::forward<S>(problem, strided<4, const S>(a->x, a->x_strides),
                            strided<3, const S>(a->weight, a->weight_strides), packed.data(),
                            static_cast<const S*>(a->bias), strided<4, S>(y, y_strides), a->allow_tf32 != 0, nullptr);
  });
}

// Gradients that are null are not asked for.
const char* temporal_conv_backward(int dtype, const Arguments* a, const void* grad_y, const int64_t* y_strides,
                                   void* grad_x, void* grad_weight, void* grad_bias) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    const Problem problem = make_problem(*a);
    const cuda::Workspace sizes = cuda::workspace<S>(problem);
    Room<S> packed(cuda::packed_size<S>(problem, true), grad_x != nullptr);
    Room<Compute<S>> weights(sizes.weight, grad_weight != nullptr), biases(sizes.bias, grad_bias != nullptr);
    const Gradients<S> gradients{strided<4, S>(grad_x, a->x_strides), weights.data(), biases.data()};
    return cuda::backward<S>(problem, strided<4, const S>(a->x, a->x_strides), strided<4, const S>(grad_y, y_strides),
                             strided<3, const S>(a->weight, a->weight_strides), packed.data(), gradients,
                             cuda::Results<S>{static_cast<S*>(grad_weight), static_cast<S*>(grad_bias)},
                             a->allow_tf32 != 0, nullptr);
  });
}

}  // extern "C"
