// The gradient of the adjacency.
#pragma once

#include "common/product.h"
#include "common/reduction.h"
#include "graph_conv/cuda/chunks.h"
#include "graph_conv/cuda/launch.h"
#include "graph_conv/cuda/transform.h"

namespace ikem::graph_conv::cuda {
namespace {

// Output channels at once. With 32, what a thread holds of the products leaves too few registers for two blocks to a
// multiprocessor.
constexpr int ADJACENCY_COLUMNS = 16;

struct AdjacencyTask : ChunkTask {
  alignas(16) int first_part;
  int parts, first_source, sources, first_target, targets;

  template <class S>
  __device__ AdjacencyTask(const Layer<S>& layer, const Plan& plan, const TileChunks& chunks)
      : AdjacencyTask(layer, plan, chunks, static_cast<int>(blockIdx.x), divide_up(layer.edges.targets, WARP),
                      divide_up(layer.edges.sources, WARP), divide_up(layer.edges.parts, plan.slices)) {}

 private:
  template <class S>
  __device__ AdjacencyTask(const Layer<S>& layer, const Plan& plan, const TileChunks& chunks, int block,
                           int target_tiles, int source_tiles, int part_tiles)
      : ChunkTask(block / target_tiles / source_tiles / part_tiles, chunks, plan, layer.clips),
        first_part(block / target_tiles / source_tiles % part_tiles * plan.slices),
        parts(smaller(plan.slices, layer.edges.parts - first_part)),
        first_source(block / target_tiles % source_tiles * WARP),
        sources(smaller(WARP, layer.edges.sources - first_source)),
        first_target(block % target_tiles * WARP),
        targets(smaller(WARP, layer.edges.targets - first_target)) {}
};

// The sums over frames and channels of x by the weights times the gradient of y.
template <class S, int N>
struct AdjacencyShared {
  Transform<S, S, N> transform;
  Rows<S, N> more;  // a product takes so many rows from any row on, those after the last included
  Rows<S, N> grad_y;
  Rows<Compute<S>, WARP> total;  // a slice's rows after another's
  AdjacencyTask* task;

  __host__ __device__ AdjacencyShared(SharedArrays& shared, const Layer<S>& layer, const Plan& plan)
      : transform(shared, layer, plan, plan.slices),
        more(shared, WARP),
        grad_y(shared, plan.target_rows + WARP),
        total(shared, plan.slices * WARP),
        task(shared.take<AdjacencyTask>(1)) {}
};

// A block sums up 32 by 32 joints of as many parts as it has slices, each warp a quarter of them.
template <class S, bool TENSOR, int N>
__global__ void __launch_bounds__(MAX_THREADS, 2)
    adjacency_gradient_kernel(const __grid_constant__ Layer<S> layer,
                              const __grid_constant__ Strided<const S, 5> grad_y, const __grid_constant__ Plan plan,
                              const __grid_constant__ TileChunks chunks, Compute<S>* adjacency) {
  using C = Compute<S>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  const AdjacencyShared<S, N> shared(arrays, layer, plan);
  const Self self;
  AdjacencyTask& task = *shared.task;
  if (threadIdx.x == 0) {
    task = AdjacencyTask(layer, plan, chunks);
  }
  __syncthreads();

  constexpr int HALF = WARP / 2;
  const int row = self.warp % 2 * HALF, column = self.warp / 2 * HALF;  // of the warp's quarter
#pragma unroll 1
  for (bool first_tile = true; task.tile < task.last_tile; first_tile = false) {
    const Place& place = task.place;
    task.begin_tile(plan.tiles, layer.frames, layer.edges.targets);
#pragma unroll 1
    for (int o = 0; o < layer.out_channels; o += N) {
      load_rows<ROWS>(part_of(plane_of(grad_y, task.group, place.clip), place.first_frame, place.frames,
                              task.first_target, task.targets, o, smaller(N, layer.out_channels - o)),
                      shared.grad_y, place.frames * task.targets, N);
      shared.transform.template run<TENSOR>(layer, plan, task.group, place, task.first_source, task.sources,
                                            task.first_part, task.parts, o, 0);
      if (self.slice < task.parts) {
        Product<S, TENSOR, HALF, HALF> product;
        static_assert(N % decltype(product)::STEP == 0);
        const Rows<S, N> wide = shared.transform.wide.from(self.slice * plan.source_rows + row);
        const Rows<S, N> gradient = shared.grad_y.from(column);
#pragma unroll 1
        for (int frame = 0; frame < place.frames; ++frame) {
          product.template add<false>(wide.from(frame * task.sources), gradient.from(frame * task.targets), N);
        }
        const Rows<C, WARP> total = shared.total.from(self.slice * WARP + row, column);
        const bool first = first_tile && o == 0;
        product.for_each([&](int i, int j, C sum) { total.at(i)[j] = first ? sum : total.at(i)[j] + sum; });
      }
      __syncthreads();
    }
    task.end_tile();
  }

  const int64_t first_row =
      (int64_t{task.group_and_chunk} * layer.edges.parts + task.first_part + self.slice) * layer.edges.sources +
      task.first_source;
  C* to = adjacency + first_row * layer.edges.targets + task.first_target;
#pragma unroll 1
  for (int i = self.index; self.slice < task.parts && i < task.sources * task.targets; i += ROWS) {
    const int source = i / task.targets, target = i % task.targets;
    to[source * layer.edges.targets + target] = shared.total.at(self.slice * WARP + source)[target];
  }
}

template <class S, int N>
struct ChannelAdjacencyShared {
  Transform<S, Compute<S>, N> transform;
  Rows<S, N> grad_y;

  __host__ __device__ ChannelAdjacencyShared(SharedArrays& shared, const Layer<S>& layer, const Plan& plan)
      : transform(shared, layer, plan, 1), grad_y(shared, plan.target_rows) {}
};

// With an adjacency for each channel a block has some channels of one clip and one part, and its sums are over frames
// alone.
template <class S, bool TENSOR, int N>
__global__ void __launch_bounds__(ROWS, 4)
    channel_adjacency_gradient_kernel(const __grid_constant__ Layer<S> layer,
                                      const __grid_constant__ Strided<const S, 5> grad_y,
                                      const __grid_constant__ Plan plan, Compute<S>* adjacency) {
  using C = Compute<S>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  const ChannelAdjacencyShared<S, N> shared(arrays, layer, plan);
  const int parts = layer.edges.parts, sources = layer.edges.sources, targets = layer.edges.targets;

  const int column_tiles = divide_up(layer.out_channels, N);
  const int task = static_cast<int>(blockIdx.x);
  const int first_out = task % column_tiles * N;
  const int outs = smaller(N, layer.out_channels - first_out);
  const int group_clip_part = task / column_tiles;
  const int part = group_clip_part % parts;
  const int clip = group_clip_part / parts % layer.clips;
  const int group = group_clip_part / parts / layer.clips;
  C* to = adjacency + (int64_t{group_clip_part} * layer.out_channels + first_out) * sources * targets;
#pragma unroll 1
  for (int tile = 0; tile < plan.tiles.per_clip(); ++tile) {
    const Place place(plan.tiles, clip * plan.tiles.per_clip() + tile, layer.frames, targets);
    __syncthreads();
    load_rows<ROWS>(
        part_of(plane_of(grad_y, group, clip), place.first_frame, place.frames, 0, targets, first_out, outs),
        shared.grad_y, place.frames * targets, N);
    shared.transform.template run_all<TENSOR>(layer, plan, group, place, part, 1, first_out, 0);
#pragma unroll 1
    for (int i = Self().index; i < outs * sources * targets; i += ROWS) {
      const int target = i % targets;
      const int source = i / targets % sources;
      const int channel = i / targets / sources;
      C sum = tile == 0 ? C(0) : to[i];
#pragma unroll 1
      for (int frame = 0; frame < place.frames; ++frame) {
        sum += shared.transform.wide.at(frame * sources + source)[channel] *
               widen(shared.grad_y.at(frame * targets + target)[channel]);
      }
      to[i] = sum;
    }
  }
}

template <class Shared, class S>
ChunkedPlan plan_adjacency(const Problem& problem, const Layer<S>& layer) {
  const Edges<S>& edges = layer.edges;
  const int most_joints = edges.per_channel ? larger(edges.sources, edges.targets) : WARP;  // of a block
  ChunkedPlan chunked;
  chunked.plan = plan_for<Shared>(layer, [&](int frames) {
    Plan plan;
    plan.tiles = make_tiles(layer.frames, frames, edges.targets, /*split_joints=*/false);
    plan.source_rows = round_up(plan.tiles.frames * smaller(edges.sources, most_joints), WARP);
    plan.target_rows = plan.tiles.frames * smaller(edges.targets, most_joints);
    plan.slices = edges.per_channel ? 1 : share_out(edges.parts);
    return plan;
  });
  chunked.blocks_per_chunk = int64_t{divide_up(edges.sources, WARP)} * divide_up(edges.targets, WARP) *
                             divide_up(edges.parts, chunked.plan.slices);
  chunked.chunks = make_chunks(problem, chunked.plan, larger<int64_t>(chunked.blocks_per_chunk, 1));
  if (edges.per_clip && chunked.chunks.count > 0) {
    chunked.chunks = {layer.clips, chunked.plan.tiles.per_clip()};
  }
  return chunked;
}

Sums adjacency_sums(const Problem& problem, const TileChunks& chunks) {
  const bool per_clip = problem.per_clip;
  return {problem.groups * (per_clip ? problem.clips : 1), per_clip ? smaller(chunks.count, 1) : chunks.count,
          adjacency_size(problem)};
}

template <class S>
const char* adjacency_gradient(const Problem& problem, const Layer<S>& layer, const Strided<const S, 5>& grad_y,
                               const Gradients<S>& partials, const Results<S>& results, bool allow_tf32,
                               Reductions<S>& reductions, void* stream) {
  return dispatch_tensor_cores<S>(allow_tf32, [&](auto tensor) -> const char* {
    constexpr bool TENSOR = decltype(tensor)::value;
    constexpr int N = ADJACENCY_COLUMNS;
    const auto begin = [&](const TileChunks& chunks) {
      return begin_sums(reductions.each[2], adjacency_sums(problem, chunks), results.adjacency, partials.adjacency);
    };
    if (layer.edges.per_channel) {
      using Shared = ChannelAdjacencyShared<S, N>;
      const auto [plan, blocks_per_chunk, chunks] = plan_adjacency<Shared>(problem, layer);
      Compute<S>* const adjacency = begin(chunks);
      const int64_t blocks = int64_t{layer.groups} * layer.clips * layer.edges.parts * divide_up(layer.out_channels, N);
      return chunks.count == 0 ? nullptr
                               : launch<Shared>(channel_adjacency_gradient_kernel<S, TENSOR, N>, blocks, stream, layer,
                                                plan, grad_y, plan, adjacency);
    }
    using Shared = AdjacencyShared<S, N>;
    const auto [plan, blocks_per_chunk, chunks] = plan_adjacency<Shared>(problem, layer);
    Compute<S>* const adjacency = begin(chunks);
    return chunks.count == 0 ? nullptr
                             : launch<Shared>(adjacency_gradient_kernel<S, TENSOR, N>,
                                              problem.groups * chunks.count * blocks_per_chunk, stream, layer, plan,
                                              grad_y, plan, chunks, adjacency);
  });
}

}  // namespace
}  // namespace ikem::graph_conv::cuda
