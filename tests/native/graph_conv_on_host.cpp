// The CUDA kernels of the graph convolution on the host, with plain C functions around them for tests to call.
#include <cmath>
#include <vector>

#include "graph_conv/cuda.cu"
#include "scalars.h"
#include "strided.h"

using namespace ikem::graph_conv;
using ikem::Compute;
using ikem::Strided;

namespace {

// Strides of axes that a tensor does not have are 0; data that there is not is null.
struct Arguments {
  int64_t groups, clips, parts, in_channels, out_channels, frames, joints, out_joints;
  int64_t per_clip, per_channel, transform_first, allow_tf32;
  const void *x, *weight, *bias, *adjacency;
  const int64_t *x_strides, *weight_strides, *bias_strides, *adjacency_strides;
};

Problem make_problem(const Arguments& a) {
  Problem problem{};
  problem.groups = a.groups;
  problem.clips = a.clips;
  problem.parts = a.parts;
  problem.in_channels = a.in_channels;
  problem.out_channels = a.out_channels;
  problem.frames = a.frames;
  problem.joints = a.joints;
  problem.out_joints = a.out_joints;
  problem.per_clip = a.per_clip != 0;
  problem.per_channel = a.per_channel != 0;
  problem.order = a.transform_first != 0 ? Order::transform_first : Order::aggregate_first;
  return problem;
}

template <class S>
Operands<S> make_operands(const Arguments& a) {
  return {strided<5, const S>(a.x, a.x_strides), strided<4, const S>(a.weight, a.weight_strides),
          strided<3, const S>(a.bias, a.bias_strides), strided<6, const S>(a.adjacency, a.adjacency_strides)};
}

}  // namespace

extern "C" {

// Without `moments`, (groups, 2, C_out), none are made.
const char* graph_conv_forward(int dtype, const Arguments* a, void* y, const int64_t* y_strides, void* moments) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const Problem problem = make_problem(*a);
    const int64_t parts = moments != nullptr ? cuda::count_parts<S>(problem) : 0;
    std::vector<ikem::Moments<C>> memory(static_cast<size_t>(problem.groups * problem.out_channels * parts),
                                         ikem::Moments<C>{NAN, NAN, NAN});
    const ikem::WantedMoments<C> wanted{static_cast<C*>(moments), moments != nullptr ? memory.data() : nullptr};
    return cuda::forward<S>(problem, make_operands<S>(*a), strided<5, S>(y, y_strides), wanted, a->allow_tf32 != 0,
                            nullptr);
  });
}

// Gradients that are null are not asked for.
const char* graph_conv_backward(int dtype, const Arguments* a, const void* grad_y, const int64_t* y_strides,
                                void* grad_x, void* grad_weight, void* grad_bias, void* grad_adjacency) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    const Problem problem = make_problem(*a);
    const cuda::Workspace sizes = cuda::workspace<S>(problem);
    std::vector<Compute<S>> partials[3];
    Gradients<S> gradients{strided<5, S>(grad_x, a->x_strides), nullptr, nullptr, nullptr};
    const auto make = [&](int i, const void* result, int64_t size) {
      partials[i].assign(result == nullptr ? 0 : static_cast<size_t>(size), NAN);
      return partials[i].data();
    };
    gradients.weight = make(0, grad_weight, sizes.weight);
    gradients.bias = make(1, grad_bias, sizes.bias);
    gradients.adjacency = make(2, grad_adjacency, sizes.adjacency);
    const cuda::Results<S> results{static_cast<S*>(grad_weight), static_cast<S*>(grad_bias),
                                   static_cast<S*>(grad_adjacency)};
    return cuda::backward<S>(problem, make_operands<S>(*a), strided<5, const S>(grad_y, y_strides), gradients, results,
                             a->allow_tf32 != 0, nullptr);
  });
}

}  // extern "C"
