// The kernel of a convolution as its products take it.
#pragma once

#include "temporal_conv/cuda/features.h"

namespace ikem::temporal_conv::cuda {
namespace {

// Channels of a sum that are in shared memory at once: a pack for each of four successive threads.
constexpr int PACKS = 4;
template <class T>
constexpr int DEPTH = PACKS * PACK<T>;

// (taps, columns, depth), contiguous: the channels that are made and those that are summed over, with zeros up to
// multiples of a block's columns and of DEPTH.
template <class T>
struct Weights {
  T* data;
  int columns, depth;

  IKEM_INLINE int64_t tap_size() const { return int64_t{columns} * depth; }
};

// So many columns has a block. float64 has no tensor cores here, and takes few for its registers' sake.
template <class S>
int columns_for(int64_t channels) {
  return channels <= 16 || sizeof(S) == 8 ? 16 : channels <= 32 ? 32 : 64;
}

template <class T>
Weights<T> make_weights(T* data, int64_t made, int64_t summed) {
  return {data, static_cast<int>(round_up(made, columns_for<T>(made))), static_cast<int>(round_up(summed, DEPTH<T>))};
}

constexpr int PACKING_THREADS = 256;

// Of weights that stride from one made channel, summed channel and tap to the next.
template <class S, class T>
__global__ void __launch_bounds__(PACKING_THREADS)
    pack_kernel(const __grid_constant__ Strided<const S, 3> from, int made, int summed, int taps,
                const __grid_constant__ Weights<T> to) {
  const int64_t total = taps * to.tap_size();
  for (int64_t i = blockIdx.x * int64_t{PACKING_THREADS} + threadIdx.x; i < total;
       i += gridDim.x * int64_t{PACKING_THREADS}) {
    const auto row = i / to.depth;
    const int channel = static_cast<int>(i % to.depth), column = static_cast<int>(row % to.columns);
    const int64_t tap = row / to.columns;
    T value{};
    if (column < made && channel < summed) {
      value = to_factor<T>(from.data[column * from.strides[0] + channel * from.strides[1] + tap * from.strides[2]]);
    }
    to.data[i] = value;
  }
}

template <class S, class T>
const char* pack_weights(const Strided<const S, 3>& from, int made, int summed, int taps, const Weights<T>& to,
                         void* stream) {
  const int64_t total = taps * to.tap_size();
  return launch(pack_kernel<S, T>, blocks_for(divide_up(total, PACKING_THREADS)), PACKING_THREADS, 0, stream, from,
                made, summed, taps, to);
}

}  // namespace
}  // namespace ikem::temporal_conv::cuda
