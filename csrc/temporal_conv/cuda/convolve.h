// The convolution itself, and the one that gives the gradient of x.
//
// A block makes some channels of a tile. Some input channels at a time, it has the tile's window in shared memory,
// which all taps then read at their places, and the weights of a few taps, while those of the next few are on their
// way. The window passes through registers on its way: there it is rounded for the tensor cores, and goes through the
// norm before the convolution. What is made waits in shared memory to be written, and there its moments are found.
#pragma once

#include "common/async_copy.h"
#include "common/channel_moments.h"
#include "common/product.h"
#include "temporal_conv/cuda/norm.h"
#include "temporal_conv/cuda/weights.h"

namespace ikem::temporal_conv::cuda {
namespace {

constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP;
constexpr int TAPS = 3;  // whose weights are in shared memory at once

// The warps of a block with N columns share out rows, or with many columns both.
template <int N>
constexpr int WARP_COLUMNS = N > 32 ? 32 : N;
template <int N>
constexpr int WARP_ROWS = ROWS / WARPS * (N / WARP_COLUMNS<N>);

// What stands before and behind a convolution; each may be missing.
template <class S>
struct Around {
  Norm<Compute<S>> before;       // x goes through it
  Moments<Compute<S>>* moments;  // of what is made, (C_out, tiles)
  Behind<S> behind;              // what is made is a gradient that goes through it
};

template <class S, class T, int N>
struct ConvolveShared {
  Place* place;  // in memory, as the products need the registers
  Compute<S>* bias;
  NormOfChannels<Compute<S>, DEPTH<T>> norm;
  Rows<T, DEPTH<T>> window;
  Rows<T, DEPTH<T>> weights;  // those in use, and those on their way; of each tap a row for each column
  Rows<Compute<S>, N> sums;   // takes the place of both

  // The last warp's rows may go beyond the window.
  __host__ __device__ ConvolveShared(SharedArrays& shared, const Plan& plan)
      : place(shared.take<Place>(1)), bias(shared.take<Compute<S>>(N)), norm(shared) {
    SharedArrays same = shared;
    window = Rows<T, DEPTH<T>>(shared, plan.window_rows + WARP_ROWS<N>);
    weights = Rows<T, DEPTH<T>>(shared, 2 * TAPS * N);
    sums = Rows<Compute<S>, N>(same, ROWS);
    shared = later(shared, same);
  }
};

// Starts to copy the weights of some taps of a class, some columns and DEPTH channels.
template <int N, class T>
__device__ __forceinline__ void copy_weights(const Weights<const T>& weights, const Class& frames, int first_tap,
                                             int first_column, int channel, const Rows<T, DEPTH<T>>& to) {
  const int taps = smaller(TAPS, frames.taps - first_tap);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < taps * N * PACKS; i += THREADS) {
    const int row = i / PACKS, element = i % PACKS * PACK<T>;
    const int tap = frames.first_tap + frames.tap_step * (first_tap + row / N);
    const T* from =
        weights.data + tap * weights.tap_size() + int64_t{first_column + row % N} * weights.depth + channel + element;
    copy_async(to.at(row) + element, from, true);
  }
  commit_copies();
}

// A tile without positions, of a class that has fewer outputs than others.
template <class S>
__device__ void write_nothing_found(const Around<S>& around, int first_out, int outs, int64_t tile, int64_t tiles) {
  const int column = static_cast<int>(threadIdx.x);
  if (column < outs) {
    const int64_t at = (first_out + column) * tiles + tile;
    if (around.moments != nullptr) {
      around.moments[at] = {};
    }
    if (around.behind.sums != nullptr) {
      around.behind.sums[at] = {};
    }
  }
}

template <class S, bool TENSOR, int N>
__global__ void __launch_bounds__(THREADS, 2)
    convolve_kernel(const __grid_constant__ Convolution<S> convolution,
                    const __grid_constant__ Weights<const Factor<S, TENSOR>> weights, const S* bias,
                    const __grid_constant__ Strided<S, 4> y, const __grid_constant__ Around<S> around,
                    const __grid_constant__ Plan plan) {
  using T = Factor<S, TENSOR>;
  using C = Compute<S>;
  using WarpProduct = Product<T, TENSOR, WARP_COLUMNS<N>, WARP_ROWS<N>>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  const ConvolveShared<S, T, N> shared(arrays, plan);
  const int column_tiles = divide_up(convolution.out_channels, N);
  const int first_out = static_cast<int>(blockIdx.x) % column_tiles * N;
  const int outs = smaller(N, convolution.out_channels - first_out);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / WARP;
  const int64_t tile = blockIdx.x / column_tiles, tiles = gridDim.x / column_tiles;
  if (thread == 0) {
    *shared.place = Place(convolution.frames, plan.tiles, convolution.joints, tile);
  }
  if (thread < N) {
    shared.bias[thread] = bias != nullptr && thread < outs ? widen(bias[first_out + thread]) : C(0);
  }
  __syncthreads();
  const Place& place = *shared.place;
  const int rows = place.rows();
  if (rows == 0) {
    write_nothing_found(around, first_out, outs, tile, tiles);
    return;
  }

  constexpr int ACROSS = N / WARP_COLUMNS<N>;
  const int first_row = warp / ACROSS * WARP_ROWS<N>, first_column = warp % ACROSS * WARP_COLUMNS<N>;
  const Window window(convolution.frames, place, 0, place.frames.taps);
  const int channels = place.frames.taps > 0 ? convolution.in_channels : 0;  // of which to make sums
  WarpProduct product;
  int half = 0;  // where the weights are that are multiplied next
  if (channels > 0) {
    copy_weights<N>(weights, place.frames, 0, first_out, 0, shared.weights);
    shared.norm.load(around.before, 0, channels);
  }
#pragma unroll 1
  for (int c = 0; c < channels; c += DEPTH<T>) {
    const int depth = round_up(smaller(DEPTH<T>, channels - c), WarpProduct::STEP);
    __syncthreads();
    load_rows(
        Features<const S>(convolution.x, place, c, channels - c), convolution.frames.in, place.joints, window.rows(),
        shared.window, window.rows(), depth, [&](int slot) { return window.frame(slot); },
        ThroughNorm<T, C, DEPTH<T>>{shared.norm, around.before.given()});
#pragma unroll 1
    for (int k = 0; k < place.frames.taps; k += TAPS, half ^= 1) {
      wait_for_copies<0>();
      __syncthreads();
      const bool last = k + TAPS >= place.frames.taps;
      if (!last || c + DEPTH<T> < channels) {
        copy_weights<N>(weights, place.frames, last ? 0 : k + TAPS, first_out, last ? c + DEPTH<T> : c,
                        shared.weights.from((half ^ 1) * TAPS * N));
      }
#pragma unroll 1
      for (int i = 0; i < TAPS && k + i < place.frames.taps && first_row < rows; ++i) {
        product.template add<false>(shared.window.from(window.first_row(k + i) + first_row),
                                    shared.weights.from((half * TAPS + i) * N + first_column), depth);
      }
    }
    shared.norm.load(around.before, c + DEPTH<T>, channels - c - DEPTH<T>);
  }

  __syncthreads();
  if (first_row < rows) {
    const Rows<C, N> sums = shared.sums.from(first_row, first_column);
    product.for_each([&](int row, int column, C sum) { sums.at(row)[column] = sum; });
  }
  __syncthreads();
  constexpr int L = PACK<C>;
  const Features<S> to(y, place, first_out, outs);
  const auto frame_of = [&](int output) { return place.class_ + convolution.frames.out_step * (place.first + output); };
  if (around.behind.sums != nullptr) {
    const Behind<S>& behind = around.behind;
    return write_through_relu(shared.sums, rows, place.joints, behind.norm, first_out,
                              Features<const S>(behind.x, place, first_out, outs), to, frame_of,
                              behind.sums + first_out * tiles + tile, tiles);
  }
  for_each_pack<N / L>(rows, place.joints, to.channel == 1, [&](int row, int output, int joint, int index) {
    const int channel = index * L;
    Pack<C, L> sums = shared.sums.pack(row, channel);
#pragma unroll
    for (int i = 0; i < L; ++i) {
      sums.values[i] += shared.bias[channel + i];
    }
    const int64_t frame = frame_of(output);
    scatter(to.data + frame * to.frame + joint * to.joint + channel * to.channel, to.channel, to.channels - channel,
            sums.values);
  });
  if (around.moments != nullptr) {
    __syncthreads();
    moments_of_rows(shared.sums, rows, thread, [&](int column, Moments<C> moments) {
      if (column < outs) {
        moments.mean += shared.bias[column];
        around.moments[(first_out + column) * tiles + tile] = moments;
      }
    });
  }
}

constexpr int64_t BLOCKS_AT_ONCE = 264;  // of the largest GPUs

// Calls f(channels of a block), as a constant.
template <class S, class F>
auto dispatch_columns(int64_t channels, F f) {
  if constexpr (sizeof(S) < 8) {
    switch (columns_for<S>(channels)) {
      case 64:
        return f(std::integral_constant<int, 64>{});
      case 32:
        return f(std::integral_constant<int, 32>{});
    }
  }
  return f(std::integral_constant<int, 16>{});
}

template <class S, int N>
size_t convolve_bytes(const Plan& plan) {
  return count_bytes([&](SharedArrays& arrays) { ConvolveShared<S, S, N>(arrays, plan); });
}

// The same whether TF32 is allowed or not.
template <class S, int N>
Plan plan_convolve(const Convolution<S>& convolution) {
  return make_plan(convolution.frames, convolution.clips, convolution.joints, convolution.frames.taps,
                   divide_up(BLOCKS_AT_ONCE, divide_up(convolution.out_channels, N)), convolve_bytes<S, N>);
}

template <class S>
int64_t count_tiles(const Convolution<S>& convolution) {
  return dispatch_columns<S>(convolution.out_channels, [&](auto n) {
    return convolution.clips * plan_convolve<S, decltype(n)::value>(convolution).tiles.per_clip(convolution.frames);
  });
}

template <class S>
const char* convolve(const Convolution<S>& convolution, const Strided<const S, 3>& weight, S* packed, const S* bias,
                     const Strided<S, 4>& y, const Around<S>& around, bool allow_tf32, void* stream) {
  return dispatch_tensor_cores<S>(allow_tf32, [&](auto tensor) -> const char* {
    using T = Factor<S, decltype(tensor)::value>;
    const Weights<T> weights =
        make_weights(reinterpret_cast<T*>(packed), convolution.out_channels, convolution.in_channels);
    if (const char* error = pack_weights(weight, convolution.out_channels, convolution.in_channels,
                                         convolution.frames.kernel_taps, weights, stream)) {
      return error;
    }
    return dispatch_columns<S>(convolution.out_channels, [&](auto n) -> const char* {
      constexpr int N = decltype(n)::value;
      const Plan plan = plan_convolve<S, N>(convolution);
      const int64_t blocks =
          convolution.clips * plan.tiles.per_clip(convolution.frames) * divide_up(convolution.out_channels, N);
      if (blocks > MAX_BLOCKS) {
        return TOO_MANY_TILES;
      }
      return blocks == 0
                 ? nullptr
                 : launch(convolve_kernel<S, decltype(tensor)::value, N>, static_cast<unsigned>(blocks), THREADS,
                          convolve_bytes<S, N>(plan), stream, convolution,
                          Weights<const T>{weights.data, weights.columns, weights.depth}, bias, y, around, plan);
    });
  });
}

}  // namespace
}  // namespace ikem::temporal_conv::cuda
