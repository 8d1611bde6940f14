// Gradients that are sums over all tiles: by chunks, and then over the chunks.
#pragma once

#include <type_traits>

#include "common/integers.h"
#include "common/launch.h"
#include "common/scalar.h"

namespace ikem::cuda {
namespace {

// Tiles are summed up by chunks, one after another in a block; the chunks' sums are added up afterwards.
struct TileChunks {
  int count, tiles;
};

// Blocks that a gradient's sums are spread over: some for each multiprocessor of the largest GPUs. As it is the same on
// all, so is every bit of the sums.
constexpr int64_t BLOCKS = 512;

// As many chunks of so many blocks each as that takes.
TileChunks make_chunks(int64_t tiles, int64_t blocks_per_chunk) {
  const int64_t wanted = smaller(larger<int64_t>(BLOCKS / blocks_per_chunk, 1), tiles);
  const int64_t each = divide_up(tiles, wanted);
  return {static_cast<int>(divide_up(tiles, each)), static_cast<int>(each)};
}

// A gradient that is made of sums: so many sets, of so many partial sums each, of one size.
struct Sums {
  int64_t sets, count, size;
};

// A set of one partial sum is the gradient itself.
template <class S>
bool is_direct(const Sums& sums) {
  return std::is_same_v<S, Compute<S>> && sums.count == 1;
}

template <class S>
int64_t partial_elements(const Sums& sums) {
  return is_direct<S>(sums) ? 0 : sums.sets * sums.count * sums.size;
}

// out[i] = the sum over j < count of partials[i / size][j][i % size], for i below total.
template <class S>
struct Reduction {
  const Compute<S>* partials;
  S* out;
  int64_t total, size, count;
};

template <class S>
struct Reductions {
  Reduction<S> each[3];
};

// Where a kernel writes the sums of what is to become the result; notes down what is then left to be added up.
template <class S>
Compute<S>* begin_sums(Reduction<S>& reduction, const Sums& sums, S* result, Compute<S>* partials) {
  if (result == nullptr) {
    return nullptr;
  }
  if constexpr (std::is_same_v<S, Compute<S>>) {
    if (is_direct<S>(sums)) {
      return result;
    }
  }
  reduction = {partials, result, sums.sets * sums.size, sums.size, sums.count};
  return partials;
}

constexpr int REDUCTION_LANES = 32;
constexpr int REDUCTION_TURNS = 16;

template <class S>
__global__ void __launch_bounds__(REDUCTION_LANES* REDUCTION_TURNS)
    reduce_kernel(const __grid_constant__ Reductions<S> reductions) {
  using C = Compute<S>;
  IKEM_DYNAMIC_SHARED(memory);
  C* sums = reinterpret_cast<C*>(memory);
  const Reduction<S>& reduction = reductions.each[blockIdx.y];
  const int lane = static_cast<int>(threadIdx.x) % REDUCTION_LANES;
  const int turn = static_cast<int>(threadIdx.x) / REDUCTION_LANES;
  for (int64_t first = blockIdx.x * static_cast<int64_t>(REDUCTION_LANES); first < reduction.total;
       first += gridDim.x * static_cast<int64_t>(REDUCTION_LANES)) {
    const int64_t i = first + lane;
    C sum = 0;
    if (i < reduction.total) {
      const C* from = reduction.partials + i / reduction.size * reduction.count * reduction.size + i % reduction.size;
#pragma unroll 4
      for (int64_t j = turn; j < reduction.count; j += REDUCTION_TURNS) {
        sum += from[j * reduction.size];
      }
    }
    __syncthreads();
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (turn == 0 && i < reduction.total) {
      for (int t = 1; t < REDUCTION_TURNS; ++t) {
        sum += sums[t * REDUCTION_LANES + lane];
      }
      reduction.out[i] = narrow<S>(sum);
    }
  }
}

template <class S>
const char* reduce(const Reductions<S>& reductions, void* stream) {
  int64_t most = 0;
  for (const Reduction<S>& reduction : reductions.each) {
    most = larger(most, reduction.total);
  }
  if (most == 0) {
    return nullptr;
  }
  constexpr int THREADS = REDUCTION_LANES * REDUCTION_TURNS;
  return launch(reduce_kernel<S>, dim3(blocks_for(divide_up(most, REDUCTION_LANES)), 3), THREADS,
                THREADS * sizeof(Compute<S>), stream, reductions);
}

}  // namespace
}  // namespace ikem::cuda
