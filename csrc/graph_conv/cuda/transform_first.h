// The graph convolution that sums over the channels first: y = sum over k of (x W[k]) A[k].
#pragma once

#include "common/channel_moments.h"
#include "graph_conv/cuda/launch.h"
#include "graph_conv/cuda/sum_over_joints.h"
#include "graph_conv/cuda/transform.h"

namespace ikem::graph_conv::cuda {
namespace {

template <class S, int N>
struct TransformShared {
  Place* place;              // in memory, as the products need the registers
  Rows<Compute<S>, N> kept;  // what is written, for its moments; at a place that takes no register
  SumOverJoints<S> joints;
  Transform<S, Compute<S>, N> transform;

  __host__ __device__ TransformShared(SharedArrays& shared, const Layer<S>& layer, const Plan& plan)
      : place(shared.take<Place>(1)),
        kept(shared, plan.kept_rows),
        joints(layer.edges, shared),
        transform(shared, layer, plan, layer.edges.parts) {}
};

// A block has N output channels; the slices share out the packs of each row of them.
template <class S, bool TENSOR, int N>
__global__ void __launch_bounds__(MAX_THREADS, 2)
    transform_kernel(const __grid_constant__ Layer<S> layer, const __grid_constant__ Strided<S, 5> y,
                     Moments<Compute<S>>* moments, const __grid_constant__ Plan plan) {
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
      Pack<C, L> sums{};
#pragma unroll 1
      for (int k = 0; k < parts; ++k) {
        shared.joints.add(k, row % targets, frame + k * plan.source_rows * wide.LENGTH + c, wide.LENGTH, first_out + c,
                          layer.out_channels, sums.values);
      }
      store_pack(to, at, c, sums.values);
      if (moments != nullptr) {
        shared.kept.pack(row, c) = sums;
      }
    }
  }
  if (moments != nullptr) {
    __syncthreads();
    const int tiles = plan.tiles.per_clip() * layer.clips;
    const int tile = static_cast<int>(blockIdx.x) / column_tiles % tiles;
    moments_of_rows(shared.kept, to.positions(), static_cast<int>(threadIdx.x),
                    [&](int column, const Moments<C>& of_tile) {
                      if (column < outs) {
                        const int64_t channel = int64_t{group} * layer.out_channels + first_out + column;
                        moments[channel * tiles + tile] = of_tile;
                      }
                    });
  }
}

template <class S, int N>
Plan plan_transform(const Layer<S>& layer, bool keep) {
  return plan_layer<TransformShared<S, N>>(layer, share_out(layer.edges.parts), /*split_joints=*/false, keep);
}

// Many joints leave room for few channels.
template <class S>
int transform_columns(const Layer<S>& layer, bool keep) {
  const Plan plan = plan_transform<S, 32>(layer, keep);
  return shared_bytes<TransformShared<S, 32>>(layer, plan) > PREFERRED_BYTES ? 16 : columns_for<S>(layer.out_channels);
}

template <class S>
const char* transform(const Layer<S>& layer, const Strided<S, 5>& y, Moments<Compute<S>>* moments, bool allow_tf32,
                      void* stream) {
  const bool keep = moments != nullptr;
  return dispatch<S>(allow_tf32, transform_columns(layer, keep), [&](auto tensor, auto n) {
    constexpr int N = decltype(n)::value;
    const Plan plan = plan_transform<S, N>(layer, keep);
    const int64_t tasks =
        int64_t{layer.groups} * layer.clips * plan.tiles.per_clip() * divide_up(layer.out_channels, N);
    return launch<TransformShared<S, N>>(transform_kernel<S, decltype(tensor)::value, N>, tasks, stream, layer, plan, y,
                                         moments, plan);
  });
}

}  // namespace
}  // namespace ikem::graph_conv::cuda
