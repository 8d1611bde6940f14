// A block works on a tile, some frames of one clip. It lays features out in shared memory as rows of channels, one row
// for each joint of each frame, and as in cpu.cpp three kinds of them meet there (see Order): those on the `narrow`
// side of the sum over joints, their `wide` sums, one for each part of the graph, and the `plain` ones across the sum
// over channels. What is K-fold stays in shared memory or registers.
//
// The floor is the memory: x and y once forward, and x and the gradient of y for each of the three kernels of the
// backward pass, most of which the second-level cache serves. The products run on the tensor cores, but for float64 and
// for float32 where TF32 is not allowed; the sums over joints look only at the values of the adjacency that are not
// zero. The moments of y are found of each tile while it is in shared memory.
//
// Each kernel has a header of its own, together with what launches it.
#include "graph_conv/cuda/adjacency_gradient.h"
#include "graph_conv/cuda/aggregate_first.h"
#include "graph_conv/cuda/transform_first.h"
#include "graph_conv/cuda/weight_gradient.h"
#include "graph_conv/kernel.h"

namespace ikem::graph_conv::cuda {
namespace {

// `moments` are those of each tile, (groups, C_out, clips, tiles); null: not asked for.
template <class S>
const char* convolve(const Layer<S>& layer, const Strided<S, 5>& y, Moments<Compute<S>>* moments, Order order,
                     bool allow_tf32, void* stream) {
  return order == Order::aggregate_first ? aggregate(layer, y, moments, allow_tf32, stream)
                                         : transform(layer, y, moments, allow_tf32, stream);
}

}  // namespace

template <class S>
int64_t count_parts(const Problem& problem) {
  const Layer<S> layer = make_layer<S>(problem, {});
  const bool aggregate = problem.order == Order::aggregate_first;
  const int columns = aggregate ? columns_for<S>(layer.out_channels) : transform_columns(layer, true);
  return dispatch<S>(false, columns, [&](auto, auto n) {
    constexpr int N = decltype(n)::value;
    const Plan plan = aggregate ? plan_aggregate<S, N>(layer) : plan_transform<S, N>(layer, true);
    return problem.clips * plan.tiles.per_clip();
  });
}

template <class S>
const char* forward(const Problem& problem, const Operands<S>& operands, const Strided<S, 5>& y,
                    const WantedMoments<Compute<S>>& moments, bool allow_tf32, void* stream) {
  const char* error = convolve(make_layer(problem, operands), y, moments.parts, problem.order, allow_tf32, stream);
  return error != nullptr || moments.result == nullptr
             ? error
             : merge_moments(moments, problem.groups, problem.out_channels, count_parts<S>(problem), stream);
}

template <class S>
Workspace workspace(const Problem& problem) {
  const Layer<S> layer = make_layer<S>(problem, {});
  const WeightGradient<S> gradient = make_weight_gradient<S>(problem, layer, {});
  const TileChunks weight = dispatch_weight(gradient, false, [&](auto, auto n, auto plain) {
    return plan_weight<S, decltype(n)::value, decltype(plain)::value>(problem, gradient).chunks;
  });
  const TileChunks adjacency = plan_adjacency<AdjacencyShared<S, ADJACENCY_COLUMNS>>(problem, layer).chunks;
  return {partial_elements<S>(weight_sums(problem, weight)), partial_elements<S>(bias_sums(problem, weight)),
          partial_elements<S>(adjacency_sums(problem, adjacency))};
}

template <class S>
const char* backward(const Problem& problem, const Operands<S>& operands, const Strided<const S, 5>& grad_y,
                     const Gradients<S>& gradients, const Results<S>& results, bool allow_tf32, void* stream) {
  const Layer<S> layer = make_layer(problem, operands);
  const char* error = nullptr;
  if (gradients.x.data != nullptr) {
    const Order order = problem.order == Order::aggregate_first ? Order::transform_first : Order::aggregate_first;
    error = convolve<S>(transposed(layer, grad_y), gradients.x, nullptr, order, allow_tf32, stream);
  }
  Reductions<S> reductions{};
  if (error == nullptr && (results.weight != nullptr || results.bias != nullptr)) {
    error = weight_gradient(problem, make_weight_gradient(problem, layer, grad_y), gradients, results, allow_tf32,
                            reductions, stream);
  }
  if (error == nullptr && results.adjacency != nullptr) {
    error = adjacency_gradient(problem, layer, grad_y, gradients, results, allow_tf32, reductions, stream);
  }
  return error == nullptr ? reduce(reductions, stream) : error;
}

#define INSTANTIATE(S)                                                                             \
  template int64_t count_parts<S>(const Problem&);                                                 \
  template const char* forward<S>(const Problem&, const Operands<S>&, const Strided<S, 5>&,        \
                                  const WantedMoments<Compute<S>>&, bool, void*);                  \
  template Workspace workspace<S>(const Problem&);                                                 \
  template const char* backward<S>(const Problem&, const Operands<S>&, const Strided<const S, 5>&, \
                                   const Gradients<S>&, const Results<S>&, bool, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::graph_conv::cuda
