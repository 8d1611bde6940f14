// Moments of channels on CUDA: of a tile by the block that has it in shared memory, and of all tiles by a warp for each
// channel. The order in which they are merged follows from the sizes alone.
#pragma once

#include "common/integers.h"
#include "common/launch.h"
#include "common/moments.h"
#include "common/rows.h"
#include "common/warp.h"

namespace ikem::cuda {
namespace {

// Threads that share out the rows of a tile.
constexpr int MOMENT_TURNS = 16;

// Calls f(column, moments) for each column of `count` rows, of which there is room for 2 MOMENT_TURNS at least; what
// they hold is written over. For all threads of a block, those with `thread` below N MOMENT_TURNS / PACK<C> do it.
// Needs a barrier before.
//
// Each thread goes twice through its rows, so that no digits are lost to a difference of large squares. Two of these
// rows, which nobody else reads, take what it finds.
template <class C, int N, class F>
__device__ void moments_of_rows(const Rows<C, N>& rows, int count, int thread, const F& f) {
  constexpr int L = PACK<C>, PACKS = N / L;
  const int turn = thread / PACKS, channel = thread % PACKS * L;
  const auto rows_of = [&](int turn) { return divide_up(count - turn, MOMENT_TURNS); };
  if (turn < MOMENT_TURNS) {
    Pack<C, L> mean{}, squares{};
#pragma unroll 4
    for (int row = turn; row < count; row += MOMENT_TURNS) {
      const Pack<C, L> values = rows.pack(row, channel);
#pragma unroll
      for (int i = 0; i < L; ++i) {
        mean.values[i] += values.values[i];
      }
    }
    const C share = C(1) / static_cast<C>(larger(rows_of(turn), 1));
#pragma unroll
    for (int i = 0; i < L; ++i) {
      mean.values[i] *= share;
    }
#pragma unroll 4
    for (int row = turn; row < count; row += MOMENT_TURNS) {
      const Pack<C, L> values = rows.pack(row, channel);
#pragma unroll
      for (int i = 0; i < L; ++i) {
        const C off = values.values[i] - mean.values[i];
        squares.values[i] += off * off;
      }
    }
    rows.pack(turn, channel) = mean;
    rows.pack(turn + MOMENT_TURNS, channel) = squares;
  }
  __syncthreads();
  if (thread < N) {
    Moments<C> all{};
#pragma unroll 1
    for (int t = 0; t < smaller(MOMENT_TURNS, count); ++t) {
      all = merged(all, {rows.at(t)[thread], rows.at(t + MOMENT_TURNS)[thread], static_cast<C>(rows_of(t))});
    }
    f(thread, all);
  }
}

// The moments of all parts together, in all lanes of a warp.
template <class C>
__device__ Moments<double> merge_parts(const Moments<C>* parts, int64_t count) {
  Moments<double> all{};
  for (int64_t i = static_cast<int>(threadIdx.x) % WARP; i < count; i += WARP) {
    const Moments<C> more = parts[i];
    all = merged<double>(all, {more.mean, more.squares, more.count});
  }
  for (int mask = WARP / 2; mask > 0; mask /= 2) {
    const auto from_lane = [&](double value) { return __shfl_xor_sync(ALL_LANES, value, mask); };
    const Moments<double> other{from_lane(all.mean), from_lane(all.squares), from_lane(all.count)};
    all = merged(all, other);
  }
  return all;
}

constexpr int MERGING_THREADS = 256;

// A warp has a channel of a group.
template <class C>
__global__ void __launch_bounds__(MERGING_THREADS, 2)
    merge_moments_kernel(const __grid_constant__ WantedMoments<C> wanted, int64_t groups, int64_t channels,
                         int64_t parts) {
  const int lane = static_cast<int>(threadIdx.x) % WARP;
  for (int64_t i = (blockIdx.x * int64_t{MERGING_THREADS} + threadIdx.x) / WARP; i < groups * channels;
       i += gridDim.x * int64_t{MERGING_THREADS / WARP}) {
    const Moments<double> all = merge_parts(wanted.parts + i * parts, parts);
    if (lane == 0) {
      C* const to = wanted.result + i / channels * 2 * channels + i % channels;
      to[0] = static_cast<C>(all.mean);
      to[channels] = static_cast<C>(all.count > 0 ? all.squares / all.count : 0);
    }
  }
}

// Makes of the parts' moments what is wanted, if anything is.
template <class C>
const char* merge_moments(const WantedMoments<C>& wanted, int64_t groups, int64_t channels, int64_t parts,
                          void* stream) {
  const int64_t blocks = divide_up(groups * channels * WARP, MERGING_THREADS);
  return wanted.result == nullptr || blocks == 0 ? nullptr
                                                 : launch(merge_moments_kernel<C>, blocks_for(blocks), MERGING_THREADS,
                                                          0, stream, wanted, groups, channels, parts);
}

}  // namespace
}  // namespace ikem::cuda
