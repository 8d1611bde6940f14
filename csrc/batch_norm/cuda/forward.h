// The statistics of each channel, and the pass that normalizes by them.
#pragma once

#include "batch_norm/cuda/walk.h"
#include "common/channel_moments.h"

namespace ikem::batch_norm::cuda {
namespace {

// The moments of a thread's channels, one value of each after another (Welford, 1962), or of the values of a pack.
template <class C, int V, bool LAST>
struct OwnMoments {
  static constexpr int CHANNELS = LAST ? V : 1;
  C count = 0;
  C mean[CHANNELS] = {}, squares[CHANNELS] = {};

  __device__ Moments<C> of(int i) const { return {mean[i], squares[i], count}; }

  __device__ void add(const C (&values)[V], const Window<V, LAST>& window) {
    if constexpr (LAST) {
      count += 1;
      const C share = 1 / count;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const C off = values[i] - mean[i];
        mean[i] += off * share;
        squares[i] += off * (values[i] - mean[i]);
      }
    } else {
      const C size = window.to - window.from;
      Moments<C> pack{0, 0, size};
#pragma unroll
      for (int i = 0; i < V; ++i) {
        pack.mean += values[i];  // zero where there is none
      }
      pack.mean /= size;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const C off = values[i] - pack.mean;
        pack.squares += window.has(i) ? off * off : C(0);
      }
      merge(0, pack);
      count += size;
    }
  }

  __device__ void add(const OwnMoments& other) {
#pragma unroll
    for (int i = 0; i < CHANNELS; ++i) {
      merge(i, other.of(i));
    }
    count += other.count;
  }

 private:
  __device__ void merge(int i, const Moments<C>& more) {
    const Moments<C> all = merged(of(i), more);
    mean[i] = all.mean;
    squares[i] = all.squares;
  }
};

// partials: (channels, chunks)
template <class S, int V, bool LAST>
__global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE<V>)
    moments_kernel(const __grid_constant__ Walk walk, const S* x, Moments<Compute<S>>* partials) {
  using C = Compute<S>;
  using Own = OwnMoments<C, V, LAST>;
  IKEM_DYNAMIC_SHARED(memory);
  const Turn<V, LAST> turn(walk);
  Own own;
  turn.for_each([&](const Window<V, LAST>& window) {
    C values[V];
    load(x, window, values);
    own.add(values, window);
  });
  reduce_rows(own, reinterpret_cast<Own*>(memory), walk, turn, [](Own& a, const Own& b) { a.add(b); });
  if (turn.row == 0 && turn.active) {
#pragma unroll
    for (int i = 0; i < Own::CHANNELS; ++i) {
      partials[(turn.channel + i) * walk.chunks + turn.chunk] = own.of(i);
    }
  }
}

// Mean and biased variance of each channel, those that are given or those of the chunks together, and by what to
// multiply. A warp has a channel.
template <class C>
__global__ void __launch_bounds__(THREADS, 2)
    statistics_kernel(const __grid_constant__ Statistics<C> statistics, int64_t channels, const Moments<C>* partials,
                      int64_t chunks, C* scale) {
  const int lane = static_cast<int>(threadIdx.x) % WARP;
  for (int64_t c = (blockIdx.x * int64_t{THREADS} + threadIdx.x) / WARP; c < channels;
       c += gridDim.x * int64_t{THREADS / WARP}) {
    C mean, variance;
    if (statistics.given_mean != nullptr) {
      mean = statistics.given_mean[c];
      variance = statistics.given_variance[c];
    } else {
      const Moments<double> total = merge_parts(partials + c * chunks, chunks);
      mean = static_cast<C>(total.mean);
      variance = static_cast<C>(total.count > 0 ? total.squares / total.count : 0);
    }
    if (lane == 0) {
      statistics.mean[c] = mean;
      statistics.variance[c] = variance;
      scale[c] = statistics.weight[c] * inverse_deviation(variance, statistics.eps);
    }
  }
}

template <class S, int V, bool LAST>
__global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE<V>)
    forward_kernel(const __grid_constant__ Walk walk, const __grid_constant__ Forward<S> pass) {
  using C = Compute<S>;
  const Turn<V, LAST> turn(walk);
  const PerChannel<C, V, LAST> mean(pass.mean, turn), scale(pass.scale, turn), shift(pass.shift, turn);
  const Kept<C> kept(pass.dropout);
  turn.for_each([&](const Window<V, LAST>& window) {
    C y[V], residual[V];
    load(pass.x, window, y);
    if (pass.residual != nullptr) {
      load(pass.residual, window, residual);
    }
#pragma unroll
    for (int i = 0; i < V; ++i) {
      y[i] = (y[i] - mean.at(i)) * scale.at(i) + shift.at(i);
      if (pass.dropout.active) {
        y[i] *= kept(window, i);
      }
      if (pass.residual != nullptr) {
        y[i] += residual[i];
      }
      if (pass.relu) {
        y[i] = y[i] < 0 ? C(0) : y[i];  // so that what is not a number stays
      }
    }
    store(pass.y, window, y);
  });
}

template <class S>
bool may_use_packs(const Forward<S>& pass) {
  return are_aligned(pass.x, pass.residual, pass.y);
}

template <class C>
struct ForwardWorkspace {
  Moments<C>* partials;
  C* scale;

  ForwardWorkspace(SharedArrays& arrays, const Walk& walk) {
    partials = arrays.take<Moments<C>>(walk.layout.channels * walk.chunks);
    scale = arrays.take<C>(walk.layout.channels);
  }
};

}  // namespace
}  // namespace ikem::batch_norm::cuda
