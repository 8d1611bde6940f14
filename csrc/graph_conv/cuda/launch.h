// What the kernels of a graph convolution have in common when they are launched: plans by the shared memory that they
// need, and what is settled when they are compiled.
#pragma once

#include <type_traits>

#include "common/launch.h"
#include "common/mma.h"
#include "graph_conv/cuda/layer.h"
#include "graph_conv/cuda/tiles.h"

namespace ikem::graph_conv::cuda {
namespace {

template <class Shared, class Operation>
size_t shared_bytes(const Operation& operation, const Plan& plan) {
  return count_bytes([&](SharedArrays& arrays) { Shared(arrays, operation, plan); });
}

// The most frames to a tile, and no more of them than ROWS positions, with which the preferred shared memory suffices;
// make(frames) plans.
template <class Shared, class Operation, class Make>
Plan plan_for(const Operation& operation, const Make& make) {
  int frames = larger(1, ROWS / larger(1, larger(operation.edges.sources, operation.edges.targets)));
  Plan plan = make(frames);
  while (frames > 1 && shared_bytes<Shared>(operation, plan) > PREFERRED_BYTES) {
    plan = make(--frames);
  }
  return plan;
}

template <class Shared, class Operation, class Kernel, class... Arguments>
const char* launch(Kernel kernel, int64_t blocks, void* stream, const Operation& operation, const Plan& plan,
                   const Arguments&... arguments) {
  if (larger(blocks, int64_t{operation.groups} * operation.clips * plan.tiles.per_clip()) > MAX_BLOCKS) {
    return "more tiles than a grid has blocks; pass fewer clips at a time";
  }
  return ikem::cuda::launch(kernel, static_cast<unsigned>(blocks), plan.slices * ROWS,
                            shared_bytes<Shared>(operation, plan), stream, operation, arguments...);
}

template <class Shared, class S>
Plan plan_layer(const Layer<S>& layer, int slices, bool split_joints, bool keep = false) {
  return plan_for<Shared>(layer, [&](int frames) {
    Plan plan;
    plan.tiles = make_tiles(layer.frames, frames, layer.edges.targets, split_joints);
    plan.source_rows = round_up(plan.tiles.frames * layer.edges.sources, WARP);
    plan.target_rows = round_up(plan.tiles.frames * plan.tiles.joints, WARP);
    plan.slices = slices;
    plan.kept_rows = keep ? plan.target_rows : 0;
    return plan;
  });
}

// float64 has no tensor cores here, and takes half as many columns at once for its registers' sake.
template <class S>
int columns_for(int channels) {
  return channels <= 16 || sizeof(S) == 8 ? 16 : 32;
}

int share_out(int tasks) { return divide_up(larger(tasks, 1), divide_up(larger(tasks, 1), MAX_SLICES)); }

// Calls f(whether to use tensor cores, how many columns a warp has), as constants.
template <class S, class F>
auto dispatch(bool allow_tf32, int columns, F f) {
  return dispatch_tensor_cores<S>(allow_tf32, [&](auto tensor) {
    if constexpr (sizeof(S) < 8) {
      if (columns > 16) {
        return f(tensor, std::integral_constant<int, 32>{});
      }
    }
    return f(tensor, std::integral_constant<int, 16>{});
  });
}

}  // namespace
}  // namespace ikem::graph_conv::cuda
