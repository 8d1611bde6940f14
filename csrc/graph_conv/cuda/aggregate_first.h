// The graph convolution that sums over the joints first: y = sum over k of (x A[k]) W[k].
#pragma once

#include "common/channel_moments.h"
#include "common/product.h"
#include "graph_conv/cuda/launch.h"
#include "graph_conv/cuda/sum_over_joints.h"

namespace ikem::graph_conv::cuda {
namespace {

template <class S, int N>
struct AggregateShared {
  using C = Compute<S>;

  Place* place;  // in memory, as the products need the registers
  SumOverJoints<S> joints;
  Rows<C, N> bias;  // a row for each part, a slice's after another's
  Rows<S, DEPTH<S, N>> sources, wide, weights;
  Rows<C, N> out;  // a slice's rows after another's; takes the place of the three

  __host__ __device__ AggregateShared(SharedArrays& shared, const Layer<S>& layer, const Plan& plan)
      : place(shared.take<Place>(1)), joints(layer.edges, shared), bias(shared, plan.slices * layer.edges.parts) {
    SharedArrays same = shared;
    sources = Rows<S, DEPTH<S, N>>(shared, plan.source_rows);
    wide = Rows<S, DEPTH<S, N>>(shared, plan.target_rows);
    weights = Rows<S, DEPTH<S, N>>(shared, plan.slices * N);
    out = Rows<C, N>(same, plan.slices * plan.target_rows);
    shared = later(shared, same);
  }
};

// A block has N output channels for each of its slices; a thread of a slice writes one row of them.
template <class S, bool TENSOR, int N>
__global__ void __launch_bounds__(MAX_THREADS, 2)
    aggregate_kernel(const __grid_constant__ Layer<S> layer, const __grid_constant__ Strided<S, 5> y,
                     Moments<Compute<S>>* moments, const __grid_constant__ Plan plan) {
  using C = Compute<S>;
  constexpr int L = PACK<C>;
  using WarpProduct = Product<S, TENSOR, N>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  AggregateShared<S, N> shared(arrays, layer, plan);
  const Self self;
  const int parts = layer.edges.parts;
  const int columns = plan.slices * N;

  const int column_tiles = divide_up(layer.out_channels, columns);
  const int task = static_cast<int>(blockIdx.x);
  const int group = task / column_tiles / plan.tiles.per_clip() / layer.clips;
  const int tiles = plan.tiles.per_clip() * layer.clips, tile = task / column_tiles % tiles;
  const Place& place = *shared.place;
  if (threadIdx.x == 0) {
    *shared.place = Place(plan.tiles, tile, layer.frames, layer.edges.targets);
  }
  __syncthreads();
  const int first_out = task % column_tiles * columns;
  const int outs = smaller(columns, layer.out_channels - first_out);
  const int own_outs = smaller(N, outs - self.slice * N);  // this slice's, if positive
  const int rows = place.frames * place.joints;
  shared.joints.select(group, place.clip);
#pragma unroll 1
  for (int i = self.index; i < parts * N; i += ROWS) {
    shared.bias.at(self.slice * parts + i / N)[i % N] =
        bias_of(layer, group, i / N, first_out + self.slice * N + i % N);
  }

  WarpProduct product;
#pragma unroll 1
  for (int c = 0; c < layer.in_channels; c += DEPTH<S, N>) {
    const int channels = smaller(DEPTH<S, N>, layer.in_channels - c);
    const int padded = round_up(channels, WarpProduct::STEP);
    __syncthreads();
    load_rows<ROWS>(part_of(plane_of(layer.x, group, place.clip), place.first_frame, place.frames, 0,
                            layer.edges.sources, c, channels),
                    shared.sources, place.frames * layer.edges.sources, padded);
#pragma unroll 1
    for (int k = 0; k < parts; ++k) {
      __syncthreads();
      sum_sources(shared.joints, k, place, layer.edges.sources, shared.sources, c, layer.in_channels, padded,
                  shared.wide, rows, self.slice, plan.slices);
      load_rows<WARP>(layer.weights.rows(group, k, first_out, outs, c, channels), shared.weights, columns, padded);
      __syncthreads();
      if (self.first_row < rows && own_outs > 0) {
        product.template add<false>(shared.wide.from(self.first_row), shared.weights.from(self.slice * N), padded);
      }
    }
  }

  __syncthreads();
  const Rows<C, N> out = shared.out.from(self.slice * plan.target_rows);
  if (self.first_row < rows && own_outs > 0) {
    product.for_each([&](int row, int column, C sum) { out.from(self.first_row).at(row)[column] = sum; });
  }
  __syncthreads();
  if (self.index < rows && own_outs > 0) {
    const Plane<S> to = part_of(plane_of(y, group, place.clip), place.first_frame, place.frames, place.first_joint,
                                place.joints, first_out + self.slice * N, own_outs);
    S* at = to.at(self.index);
    const int target = place.first_joint + self.index % place.joints;
#pragma unroll 1
    for (int c = 0; c < own_outs; c += L) {
      Pack<C, L> sums = out.pack(self.index, c);
      for (int k = 0; layer.bias.data != nullptr && k < parts; ++k) {
        const C total = shared.joints.total(k, target);
        const Pack<C, L> bias = shared.bias.pack(self.slice * parts + k, c);
#pragma unroll
        for (int i = 0; i < L; ++i) {
          sums.values[i] += total * bias.values[i];
        }
      }
      store_pack(to, at, c, sums.values);
      if (moments != nullptr) {
        out.pack(self.index, c) = sums;
      }
    }
  }
  if (moments != nullptr) {
    __syncthreads();
    moments_of_rows(out, rows, self.index, [&](int column, const Moments<C>& of_tile) {
      if (column < own_outs) {
        const int64_t channel = int64_t{group} * layer.out_channels + first_out + self.slice * N + column;
        moments[channel * tiles + tile] = of_tile;
      }
    });
  }
}

template <class S, int N>
Plan plan_aggregate(const Layer<S>& layer) {
  return plan_layer<AggregateShared<S, N>>(layer, share_out(divide_up(layer.out_channels, N)), /*split_joints=*/true);
}

template <class S>
const char* aggregate(const Layer<S>& layer, const Strided<S, 5>& y, Moments<Compute<S>>* moments, bool allow_tf32,
                      void* stream) {
  return dispatch<S>(allow_tf32, columns_for<S>(layer.out_channels), [&](auto tensor, auto n) {
    constexpr int N = decltype(n)::value;
    const Plan plan = plan_aggregate<S, N>(layer);
    const int64_t tasks =
        int64_t{layer.groups} * layer.clips * plan.tiles.per_clip() * divide_up(layer.out_channels, plan.slices * N);
    return launch<AggregateShared<S, N>>(aggregate_kernel<S, decltype(tensor)::value, N>, tasks, stream, layer, plan, y,
                                         moments, plan);
  });
}

}  // namespace
}  // namespace ikem::graph_conv::cuda
