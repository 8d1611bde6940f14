// The gradients of weight and bias: sums over all positions.
//
// A block makes the sums of some output by some input channels for some taps, tile after tile of its chunk. Both sides
// of the products lie in shared memory once for all taps, each of which has a warp or, where they are few, several that
// share out the positions.
#pragma once

#include "common/product.h"
#include "common/reduction.h"
#include "temporal_conv/cuda/norm.h"

namespace ikem::temporal_conv::cuda {
namespace {

constexpr int MAX_WARPS = 9;
constexpr int OUTS = WARP;  // output channels of a block

template <class S>
struct WeightGradient {
  Convolution<S> convolution;
  Norm<Compute<S>> norm;  // x goes through it, if it is given
  Strided<const S, 4> grad_y;
  int out_channels;
};

struct GradientPlan {
  Plan plan;
  int taps, turns;  // of a block: a warp for each of both
  TileChunks chunks;

  IKEM_INLINE int warps() const { return taps * turns; }
};

// Rows of elements of four bytes that are read across lie in different banks with this padding.
template <class T>
constexpr int ACROSS_PADDING = sizeof(T) == 4 ? 8 : PACK<T>;

template <class S, class T, int N>
struct WeightGradientShared {
  using Windows = Rows<T, N, ACROSS_PADDING<T>>;
  using GradientRows = Rows<S, OUTS, ACROSS_PADDING<S>>;  // not rounded: the bias is a sum of them

  Place* place;  // in memory, as the products need the registers
  NormOfChannels<Compute<S>, N> norm;
  Compute<S>* bias;
  T* zeros;  // a row
  Windows window;
  GradientRows grad_y;
  Rows<Compute<S>, N> totals;  // OUTS rows for each tap; takes the place of both

  __host__ __device__ WeightGradientShared(SharedArrays& shared, const Plan& plan, int taps, int warps)
      : place(shared.take<Place>(1)),
        norm(shared),
        bias(shared.take<Compute<S>>(warps * OUTS)),
        zeros(shared.take<T>(Windows::LENGTH)) {
    SharedArrays same = shared;
    window = Windows(shared, plan.window_rows);
    grad_y = GradientRows(shared, round_up(plan.tiles.outputs * plan.tiles.joints, WARP));
    totals = Rows<Compute<S>, N>(same, taps * OUTS);
    shared = later(shared, same);
  }
};

// Rows of which only the first `count` are there; the others are zero.
template <class R, class T>
struct FirstRows {
  R rows;
  int count;
  T* zeros;

  __device__ T* at(int row) const { return row < count ? rows.at(row) : zeros; }
};

template <class S, bool TENSOR, int N>
__global__ void __launch_bounds__(MAX_WARPS* WARP, 2)
    weight_gradient_kernel(const __grid_constant__ WeightGradient<S> gradient,
                           const __grid_constant__ GradientPlan plan, Compute<S>* weight, Compute<S>* bias) {
  using T = Factor<S, TENSOR>;
  using C = Compute<S>;
  using WarpProduct = Product<T, TENSOR, N, OUTS>;
  using Shared = WeightGradientShared<S, T, N>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  const Shared shared(arrays, plan.plan, plan.taps, plan.warps());
  const Convolution<S>& convolution = gradient.convolution;
  const Frames& frames = convolution.frames;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / WARP, lane = thread % WARP;

  const int column_tiles = divide_up(convolution.in_channels, N), out_tiles = divide_up(gradient.out_channels, OUTS);
  int block = static_cast<int>(blockIdx.x);
  const int first_in = block % column_tiles * N;
  block /= column_tiles;
  const int first_out = block % out_tiles * OUTS;
  block /= out_tiles;
  const int tap_tiles = divide_up(frames.taps, plan.taps);
  const int first_tap = block % tap_tiles * plan.taps;
  const int chunk = block / tap_tiles;
  const int ins = smaller(N, convolution.in_channels - first_in),
            outs = smaller(OUTS, gradient.out_channels - first_out);
  const int taps = smaller(plan.taps, frames.taps - first_tap);
  const int tap = warp % plan.taps, turn = warp / plan.taps;
  const bool counts = weight != nullptr && tap < taps;
  const bool sums_bias = bias != nullptr && first_in == 0 && first_tap == 0;

  for (int i = thread; i < Shared::Windows::LENGTH; i += static_cast<int>(blockDim.x)) {
    shared.zeros[i] = T{};
  }
  shared.norm.load(gradient.norm, first_in, ins);
  const Place& place = *shared.place;
  const int64_t tiles = convolution.clips * plan.plan.tiles.per_clip(frames);
  const int64_t first_tile = int64_t{chunk} * plan.chunks.tiles;
  const int64_t last_tile = smaller<int64_t>(first_tile + plan.chunks.tiles, tiles);
  C bias_sum = 0;
  WarpProduct product;
#pragma unroll 1
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    __syncthreads();
    if (thread == 0) {
      *shared.place = Place(frames, plan.plan.tiles, convolution.joints, tile);
    }
    __syncthreads();
    const int rows = place.rows();
    const int padded = round_up(rows, WarpProduct::STEP);
    const Window window(frames, place, first_tap, taps);
    load_rows(
        Features<const S>(gradient.grad_y, place, first_out, outs), frames.out, place.joints, rows, shared.grad_y,
        padded, OUTS, [&](int slot) { return place.class_ + frames.out_step * (place.first + slot); }, AsItIs<S>());
    if (weight != nullptr) {
      load_rows(
          Features<const S>(convolution.x, place, first_in, ins), frames.in, place.joints, window.rows(), shared.window,
          window.rows(), N, [&](int slot) { return window.frame(slot); },
          ThroughNorm<T, C, N>{shared.norm, gradient.norm.given()});
    }
    __syncthreads();
    const int share = round_up(divide_up(rows, plan.turns), WarpProduct::STEP);
    const int begin = turn * share, depth = smaller(share, padded - begin);
    if (counts && depth > 0) {
      const int row = window.first_row(tap) + begin;
      product.template add<true>(
          shared.grad_y.from(begin),
          FirstRows<typename Shared::Windows, T>{shared.window.from(row), rows - begin, shared.zeros}, depth);
    }
#pragma unroll 4
    for (int row = warp; sums_bias && row < rows; row += plan.warps()) {
      bias_sum += widen(shared.grad_y.at(row)[lane]);
    }
  }

  if (sums_bias) {
    shared.bias[thread] = bias_sum;
  }
  add_up(product, counts, turn, plan.turns, shared.totals.from(tap * OUTS));
  if (sums_bias && thread < outs) {
    for (int i = 1; i < plan.warps(); ++i) {
      bias_sum += shared.bias[i * WARP + thread];
    }
    bias[int64_t{chunk} * gradient.out_channels + first_out + thread] = bias_sum;
  }
  if (weight == nullptr) {
    return;
  }
  // (C_out, C_in, taps): neighboring threads write neighbors.
  C* const to =
      weight +
      ((int64_t{chunk} * gradient.out_channels + first_out) * convolution.in_channels + first_in) * frames.taps +
      first_tap;
#pragma unroll 1
  for (int i = thread; i < outs * ins * taps; i += static_cast<int>(blockDim.x)) {
    const int k = i % taps, in = i / taps % ins, out = i / taps / ins;
    to[(int64_t{out} * convolution.in_channels + in) * frames.taps + k] = shared.totals.at(k * OUTS + out)[in];
  }
}

// Calls f(whether to use tensor cores, input channels of a block), as constants.
template <class S, class F>
auto dispatch_weight_gradient(int64_t in_channels, bool allow_tf32, F f) {
  return dispatch_tensor_cores<S>(allow_tf32, [&](auto tensor) {
    if constexpr (sizeof(S) < 8) {
      if (in_channels > 16) {
        return f(tensor, std::integral_constant<int, 32>{});
      }
    }
    return f(tensor, std::integral_constant<int, 16>{});
  });
}

template <class S, int N>
size_t gradient_bytes(const GradientPlan& plan) {
  return count_bytes(
      [&](SharedArrays& arrays) { WeightGradientShared<S, S, N>(arrays, plan.plan, plan.taps, plan.warps()); });
}

int64_t gradient_blocks(const Problem& problem, const GradientPlan& plan, int columns) {
  return divide_up(problem.in_channels, columns) * divide_up(problem.out_channels, OUTS) *
         divide_up(problem.taps, plan.taps);
}

// The same whether TF32 is allowed or not.
template <class S, int N>
GradientPlan plan_weight_gradient(const Problem& problem) {
  const Frames frames = make_frames(problem, /*for_gradient=*/false);
  const auto taps = static_cast<int>(problem.taps);
  GradientPlan plan{};
  plan.taps = divide_up(taps, divide_up(taps, MAX_WARPS));
  plan.turns = MAX_WARPS / plan.taps;
  plan.plan = make_plan(frames, problem.clips, static_cast<int>(problem.joints), plan.taps, 1, [&](const Plan& tiles) {
    GradientPlan with = plan;
    with.plan = tiles;
    return gradient_bytes<S, N>(with);
  });
  const int64_t tiles = problem.joints == 0 ? 0 : problem.clips * plan.plan.tiles.per_clip(frames);
  const int64_t blocks = gradient_blocks(problem, plan, N);
  plan.chunks = tiles * blocks == 0 ? TileChunks{0, 0} : make_chunks(tiles, blocks);
  return plan;
}

Sums weight_sums(const Problem& problem, const TileChunks& chunks) {
  return {1, chunks.count, problem.out_channels * problem.in_channels * problem.taps};
}

Sums bias_sums(const Problem& problem, const TileChunks& chunks) { return {1, chunks.count, problem.out_channels}; }

template <class S>
const char* weight_gradient(const Problem& problem, const WeightGradient<S>& gradient, const Gradients<S>& partials,
                            const Results<S>& results, bool allow_tf32, void* stream) {
  Reductions<S> reductions{};
  const char* const error =
      dispatch_weight_gradient<S>(problem.in_channels, allow_tf32, [&](auto tensor, auto n) -> const char* {
        constexpr int N = decltype(n)::value;
        const GradientPlan plan = plan_weight_gradient<S, N>(problem);
        Compute<S>* const weight =
            begin_sums(reductions.each[0], weight_sums(problem, plan.chunks), results.weight, partials.weight);
        Compute<S>* const bias =
            begin_sums(reductions.each[1], bias_sums(problem, plan.chunks), results.bias, partials.bias);
        const int64_t blocks = plan.chunks.count * gradient_blocks(problem, plan, N);
        if (blocks > MAX_BLOCKS) {
          return TOO_MANY_TILES;
        }
        return blocks == 0
                   ? nullptr
                   : launch(weight_gradient_kernel<S, decltype(tensor)::value, N>, static_cast<unsigned>(blocks),
                            plan.warps() * WARP, gradient_bytes<S, N>(plan), stream, gradient, plan, weight, bias);
      });
  return error == nullptr ? reduce(reductions, stream) : error;
}

}  // namespace
}  // namespace ikem::temporal_conv::cuda
