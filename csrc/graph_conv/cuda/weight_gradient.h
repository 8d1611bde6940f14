// The gradients of weight and bias.
#pragma once

#include "common/product.h"
#include "common/reduction.h"
#include "graph_conv/cuda/chunks.h"
#include "graph_conv/cuda/launch.h"
#include "graph_conv/cuda/sum_over_joints.h"

namespace ikem::graph_conv::cuda {
namespace {

// The sums over all positions of plain times wide features.
template <class S>
struct WeightGradient {
  Strided<const S, 5> narrow, plain;
  Edges<S> edges;  // from narrow to wide
  int groups, clips, frames;
  int narrow_channels, plain_channels;
  int64_t size, part, narrow_stride, plain_stride;  // of the weights
  bool transform_first;                             // x is plain
};

template <int N, int PLAIN>
struct WeightTask : ChunkTask {
  alignas(16) int first_part;
  int first_column, columns, first_plain, plains;

  template <class S>
  __device__ WeightTask(const WeightGradient<S>& gradient, const Plan& plan, const TileChunks& chunks)
      : WeightTask(gradient, plan, chunks, static_cast<int>(blockIdx.x), divide_up(gradient.narrow_channels, N),
                   divide_up(gradient.plain_channels, PLAIN), divide_up(gradient.edges.parts, plan.slices)) {}

 private:
  template <class S>
  __device__ WeightTask(const WeightGradient<S>& gradient, const Plan& plan, const TileChunks& chunks, int block,
                        int column_tiles, int plain_tiles, int part_tiles)
      : ChunkTask(block / column_tiles / plain_tiles / part_tiles, chunks, plan, gradient.clips),
        first_part(block / column_tiles / plain_tiles % part_tiles * plan.slices),
        first_column(block % column_tiles * N),
        columns(smaller(N, gradient.narrow_channels - first_column)),
        first_plain(block / column_tiles % plain_tiles * PLAIN),
        plains(smaller(PLAIN, gradient.plain_channels - first_plain)) {}
};

// A block sums up PLAIN plain by N narrow channels of as many parts as it has slices.
template <class S, int N, int PLAIN>
struct WeightShared {
  SumOverJoints<S> joints;
  Rows<S, N> narrow;
  Rows<S, PLAIN> plain;
  Rows<S, N> wide;            // a part's rows after another's
  Rows<Compute<S>, N> total;  // takes the place of the three
  WeightTask<N, PLAIN>* task;

  __host__ __device__ WeightShared(SharedArrays& shared, const WeightGradient<S>& gradient, const Plan& plan)
      : joints(gradient.edges, shared), task(shared.take<WeightTask<N, PLAIN>>(1)) {
    SharedArrays same = shared;
    narrow = Rows<S, N>(shared, plan.source_rows);
    plain = Rows<S, PLAIN>(shared, plan.target_rows);
    wide = Rows<S, N>(shared, plan.slices * plan.target_rows);
    total = Rows<Compute<S>, N>(same, plan.slices * PLAIN);
    shared = later(shared, same);
  }
};

// A slice has a part of the graph; its warps share out the plain channels, and then the depth.
template <class S, bool TENSOR, int N, int PLAIN>
__global__ void __launch_bounds__(MAX_THREADS, 2)
    weight_gradient_kernel(const __grid_constant__ WeightGradient<S> gradient, const __grid_constant__ Plan plan,
                           const __grid_constant__ TileChunks chunks, Compute<S>* weight, Compute<S>* bias) {
  using C = Compute<S>;
  using WarpProduct = Product<S, TENSOR, N>;
  constexpr int ROW_TILES = PLAIN / WARP, TURNS = WARPS / ROW_TILES;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  WeightShared<S, N, PLAIN> shared(arrays, gradient, plan);
  const Self self;
  const Edges<S>& edges = gradient.edges;
  const int first_row = self.warp % ROW_TILES * WARP;
  const int turn = self.warp / ROW_TILES;
  WeightTask<N, PLAIN>& task = *shared.task;
  if (threadIdx.x == 0) {
    task = WeightTask<N, PLAIN>(gradient, plan, chunks);
  }
  __syncthreads();

  const int part = task.first_part + self.slice;
  const bool counts = part < edges.parts;
  const bool sums_bias = bias != nullptr && counts &&
                         (gradient.transform_first ? task.first_plain == 0 && self.index < task.columns
                                                   : task.first_column == 0 && self.index < task.plains);
  const Rows<S, N> wide = shared.wide.from(self.slice * plan.target_rows);
  C bias_sum = 0;
  WarpProduct product;
#pragma unroll 1
  for (bool first = true; task.tile < task.last_tile; first = false) {
    const Place& place = task.place;
    task.begin_tile(plan.tiles, gradient.frames, edges.targets);
    if (first || (edges.per_clip && task.tile % plan.tiles.per_clip() == 0)) {
      shared.joints.select(task.group, place.clip);
    }
    load_rows<ROWS>(part_of(plane_of(gradient.narrow, task.group, place.clip), place.first_frame, place.frames, 0,
                            edges.sources, task.first_column, task.columns),
                    shared.narrow, place.frames * edges.sources, N);
    const int rows = place.frames * place.joints;
    const int padded = round_up(rows, WarpProduct::STEP * TURNS);
    load_rows<ROWS>(part_of(plane_of(gradient.plain, task.group, place.clip), place.first_frame, place.frames,
                            place.first_joint, place.joints, task.first_plain, task.plains),
                    shared.plain, padded, PLAIN);
    __syncthreads();
    if (counts) {
      sum_sources(shared.joints, part, place, edges.sources, shared.narrow, task.first_column, gradient.narrow_channels,
                  N, wide, padded, 0, 1);
    }
    __syncthreads();
    if (counts && first_row < task.plains) {
      const int depth = padded / TURNS;
      product.template add<true>(shared.plain.from(turn * depth, first_row), wide.from(turn * depth), depth);
    }
#pragma unroll 1
    for (int row = 0; sums_bias && row < rows; ++row) {
      bias_sum += gradient.transform_first ? widen(wide.at(row)[self.index])
                                           : widen(shared.plain.at(row)[self.index]) *
                                                 shared.joints.total(part, place.first_joint + row % place.joints);
    }
    task.end_tile();
  }

  add_up(product, counts && first_row < task.plains, turn, TURNS, shared.total.from(self.slice * PLAIN + first_row));
  if (counts && weight != nullptr) {
    C* to = weight + task.group_and_chunk * gradient.size + part * gradient.part +
            task.first_plain * gradient.plain_stride + task.first_column * gradient.narrow_stride;
#pragma unroll 1
    for (int i = self.index; i < task.plains * task.columns; i += ROWS) {
      // Neighboring threads write neighbors.
      const int row = gradient.transform_first ? i % task.plains : i / task.columns;
      const int column = gradient.transform_first ? i / task.plains : i % task.columns;
      to[row * gradient.plain_stride + column * gradient.narrow_stride] =
          shared.total.at(self.slice * PLAIN + row)[column];
    }
  }
  if (sums_bias) {
    const int out_channels = gradient.transform_first ? gradient.narrow_channels : gradient.plain_channels;
    const int first_out = gradient.transform_first ? task.first_column : task.first_plain;
    bias[(int64_t{task.group_and_chunk} * edges.parts + part) * out_channels + first_out + self.index] = bias_sum;
  }
}

template <class S>
WeightGradient<S> make_weight_gradient(const Problem& problem, const Layer<S>& layer,
                                       const Strided<const S, 5>& grad_y) {
  const bool transform = problem.order == Order::transform_first;
  const int64_t in = problem.in_channels, out = problem.out_channels;
  WeightGradient<S> gradient{};
  gradient.edges = transform ? transposed(layer, grad_y).edges : layer.edges;
  gradient.groups = layer.groups;
  gradient.clips = layer.clips;
  gradient.frames = layer.frames;
  gradient.narrow = transform ? grad_y : layer.x;
  gradient.plain = transform ? layer.x : grad_y;
  gradient.narrow_channels = transform ? layer.out_channels : layer.in_channels;
  gradient.plain_channels = transform ? layer.in_channels : layer.out_channels;
  gradient.size = problem.parts * out * in;
  gradient.part = out * in;
  gradient.narrow_stride = transform ? in : 1;
  gradient.plain_stride = transform ? 1 : in;
  gradient.transform_first = transform;
  return gradient;
}

template <class S, int N, int PLAIN>
ChunkedPlan plan_weight(const Problem& problem, const WeightGradient<S>& gradient) {
  const Edges<S>& edges = gradient.edges;
  ChunkedPlan chunked;
  chunked.plan = plan_for<WeightShared<S, N, PLAIN>>(gradient, [&](int frames) {
    Plan plan;
    plan.tiles = make_tiles(gradient.frames, frames, edges.targets, /*split_joints=*/true);
    plan.source_rows = round_up(plan.tiles.frames * edges.sources, WARP);
    plan.target_rows = round_up(plan.tiles.frames * plan.tiles.joints, 2 * WARP);
    plan.slices = share_out(edges.parts);
    return plan;
  });
  chunked.blocks_per_chunk = int64_t{divide_up(gradient.narrow_channels, N)} *
                             divide_up(gradient.plain_channels, PLAIN) * divide_up(edges.parts, chunked.plan.slices);
  chunked.chunks = make_chunks(problem, chunked.plan, chunked.blocks_per_chunk);
  return chunked;
}

// Calls f(whether to use tensor cores, narrow and plain channels of a block), as constants.
template <class S, class F>
auto dispatch_weight(const WeightGradient<S>& gradient, bool allow_tf32, F f) {
  return dispatch<S>(allow_tf32, columns_for<S>(gradient.narrow_channels), [&](auto tensor, auto n) {
    if constexpr (decltype(n)::value > 16) {
      if (gradient.plain_channels > WARP) {
        return f(tensor, n, std::integral_constant<int, 2 * WARP>{});
      }
    }
    return f(tensor, n, std::integral_constant<int, WARP>{});
  });
}

Sums weight_sums(const Problem& problem, const TileChunks& chunks) {
  return {problem.groups, chunks.count, problem.parts * problem.out_channels * problem.in_channels};
}

Sums bias_sums(const Problem& problem, const TileChunks& chunks) {
  return {problem.groups, chunks.count, problem.parts * problem.out_channels};
}

template <class S>
const char* weight_gradient(const Problem& problem, const WeightGradient<S>& gradient, const Gradients<S>& partials,
                            const Results<S>& results, bool allow_tf32, Reductions<S>& reductions, void* stream) {
  return dispatch_weight(gradient, allow_tf32, [&](auto tensor, auto n, auto plain) -> const char* {
    constexpr int N = decltype(n)::value, PLAIN = decltype(plain)::value;
    const auto [plan, blocks_per_chunk, chunks] = plan_weight<S, N, PLAIN>(problem, gradient);
    Compute<S>* const weight =
        begin_sums(reductions.each[0], weight_sums(problem, chunks), results.weight, partials.weight);
    Compute<S>* const bias = begin_sums(reductions.each[1], bias_sums(problem, chunks), results.bias, partials.bias);
    if (chunks.count == 0) {
      return nullptr;
    }
    return launch<WeightShared<S, N, PLAIN>>(weight_gradient_kernel<S, decltype(tensor)::value, N, PLAIN>,
                                             problem.groups * chunks.count * blocks_per_chunk, stream, gradient, plan,
                                             plan, chunks, weight, bias);
  });
}

}  // namespace
}  // namespace ikem::graph_conv::cuda
