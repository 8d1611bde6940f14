// A graph convolution as the kernels see it.
#pragma once

#include <utility>

#include "common/scalar.h"
#include "graph_conv/cuda/rows.h"
#include "graph_conv/kernel.h"

namespace ikem::graph_conv::cuda {
namespace {

// The adjacency from the side of one sum over joints, its sources and its targets.
template <class S>
struct Edges {
  const S* data;
  int64_t group, clip, part, channel, source, target;  // strides
  bool per_clip, per_channel;
  int parts, sources, targets;

  // Whether a block keeps a copy of all values in shared memory, besides bits that say which are not zero.
  __host__ __device__ bool kept() const {
    constexpr int64_t MOST = 32 * 1024 / sizeof(Compute<S>);
    return !per_channel && static_cast<int64_t>(parts) * sources * targets <= MOST;
  }
  __host__ __device__ int words() const { return divide_up(sources, 32); }
};

// The product with the weights seen from one of its sides.
template <class S>
struct Weights {
  const S* data;
  int64_t group, part, out, in;  // strides

  // The rows of so many output channels, one for each.
  __device__ Plane<const S> rows(int g, int k, int first_out, int outs, int first_in, int ins) const {
    return {data + g * group + k * part + first_out * out + first_in * in, in, 0, out, ins, 1, outs};
  }
};

// One graph convolution as a kernel sees it: the operation itself, or that which gives the gradient of x.
template <class S>
struct Layer {
  Strided<const S, 5> x;
  Weights<S> weights;
  Strided<const S, 3> bias;
  Edges<S> edges;
  int groups, clips, frames;
  int in_channels, out_channels;
};

template <class S>
Layer<S> make_layer(const Problem& problem, const Operands<S>& operands) {
  const int64_t* w = operands.weight.strides;
  const int64_t* a = operands.adjacency.strides;
  const auto joints = static_cast<int>(problem.joints), out_joints = static_cast<int>(problem.out_joints);
  return {operands.x,
          {operands.weight.data, w[0], w[1], w[2], w[3]},
          operands.bias,
          {operands.adjacency.data, a[0], a[1], a[2], a[3], a[4], a[5], problem.per_clip, problem.per_channel,
           static_cast<int>(problem.parts), joints, out_joints},
          static_cast<int>(problem.groups),
          static_cast<int>(problem.clips),
          static_cast<int>(problem.frames),
          static_cast<int>(problem.in_channels),
          static_cast<int>(problem.out_channels)};
}

// The graph convolution that takes y's gradient to that of x.
template <class S>
Layer<S> transposed(Layer<S> layer, const Strided<const S, 5>& grad_y) {
  layer.x = grad_y;
  layer.bias.data = nullptr;
  std::swap(layer.in_channels, layer.out_channels);
  std::swap(layer.weights.in, layer.weights.out);
  std::swap(layer.edges.source, layer.edges.target);
  std::swap(layer.edges.sources, layer.edges.targets);
  return layer;
}

// The bias of a part's channel; zero where there is none.
template <class S>
__device__ Compute<S> bias_of(const Layer<S>& layer, int group, int part, int out) {
  const int64_t* strides = layer.bias.strides;
  if (layer.bias.data == nullptr || out >= layer.out_channels) {
    return 0;
  }
  return widen(layer.bias.data[group * strides[0] + part * strides[1] + out * strides[2]]);
}

}  // namespace
}  // namespace ikem::graph_conv::cuda
