// The graph convolution that sums over the channels first: y = sum over k of (x W[k]) A[k].
#pragma once

#include "graph_conv/cuda/launch.h"
#include "graph_conv/cuda/sum_over_joints.h"
#include "graph_conv/cuda/transform.h"

namespace ikem::graph_conv::cuda {
namespace {

template <class S, int N>
struct TransformShared {
  Place* place;  // in memory, as the products need the registers
  SumOverJoints<S> joints;
  Transform<S, Compute<S>, N> transform;

  __host__ __device__ TransformShared(SharedArrays& shared, const Layer<S>& layer, const Plan& plan)
      : place(shared.take<Place>(1)), joints(layer.edges, shared), transform(shared, layer, plan, layer.edges.parts) {}
};

// A block has N output channels; the slices share out the packs of each row of them.
template <class S, bool TENSOR, int N>
__global__ void __launch_bounds__(MAX_THREADS, 2)
    transform_kernel(const __grid_constant__ Layer<S> layer, const __grid_constant__ Strided<S, 5> y,
                     const __grid_constant__ Plan plan) {
  using C = Compute<S>;
  constexpr int L = PACK<C>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  TransformShared<S, N> shared(arrays, layer, plan);
  const Self self;
  const Rows<C, N>& wide = shared.transform.wide;
  const int parts = layer.edges.parts;
  const int targets = layer.edges.targets;

  const int column_tiles = divide_up(layer.out_channels, N);
  const int task = static_cast<int>(blockIdx.x);
  const int group = task / column_tiles / plan.tiles.per_clip() / layer.clips;
  const Place& place = *shared.place;
  if (threadIdx.x == 0) {
    *shared.place =
        Place(plan.tiles, task / column_tiles % (plan.tiles.per_clip() * layer.clips), layer.frames, targets);
  }
  __syncthreads();
  const int first_out = task % column_tiles * N;
  const int outs = smaller(N, layer.out_channels - first_out);
  shared.joints.select(group, place.clip);
#pragma unroll 1
  for (int k = 0; k < parts; k += plan.slices) {
    shared.transform.template run_all<TENSOR>(layer, plan, group, place, k, smaller(plan.slices, parts - k), first_out,
                                              k);
  }
  const Plane<S> to =
      part_of(plane_of(y, group, place.clip), place.first_frame, place.frames, 0, targets, first_out, outs);
#pragma unroll 1
  for (int row = self.index; row < to.positions(); row += ROWS) {
    S* at = to.at(row);
    const C* frame = wide.at(row / targets * layer.edges.sources);
#pragma unroll 1
    for (int c = self.slice * L; c < outs; c += plan.slices * L) {
      C sums[L] = {};
#pragma unroll 1
      for (int k = 0; k < parts; ++k) {
        shared.joints.add(k, row % targets, frame + k * plan.source_rows * wide.LENGTH + c, wide.LENGTH, first_out + c,
                          layer.out_channels, sums);
      }
      store_pack(to, at, c, sums);
    }
  }
}

template <class S>
const char* transform(const Layer<S>& layer, const Strided<S, 5>& y, bool allow_tf32, void* stream) {
  const int slices = share_out(layer.edges.parts);
  // Many joints leave room for few channels.
  const bool many = shared_bytes<TransformShared<S, 32>>(
                        layer, plan_layer<TransformShared<S, 32>>(layer, slices, false)) > PREFERRED_BYTES;
  return dispatch<S>(allow_tf32, many ? 16 : columns_for<S>(layer.out_channels), [&](auto tensor, auto n) {
    constexpr int N = decltype(n)::value;
    using Shared = TransformShared<S, N>;
    const Plan plan = plan_layer<Shared>(layer, slices, /*split_joints=*/false);
    const int64_t tasks =
        int64_t{layer.groups} * layer.clips * plan.tiles.per_clip() * divide_up(layer.out_channels, N);
    return launch<Shared>(transform_kernel<S, decltype(tensor)::value, N>, tasks, stream, layer, plan, y, plan);
  });
}

}  // namespace
}  // namespace ikem::graph_conv::cuda
