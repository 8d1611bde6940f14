// Products of rows in shared memory: the sums that one warp makes.
#pragma once

#include <type_traits>

#include "common/mma.h"
#include "graph_conv/cuda/rows.h"

namespace ikem::graph_conv::cuda {
namespace {

// Channels of the sum over channels that are in shared memory at once, where a warp has N columns.
template <class S, int N>
constexpr int DEPTH = (N > 16 || sizeof(S) == 8 ? 128 : 64) / sizeof(S);

// What one warp sums up: M rows, from `a`, by N columns, from `b`. Both hold either a row of depth for each of them or,
// ACROSS, a row of all of them for each step of depth.
template <class S, bool TENSOR, int N, int M = WARP>
struct Product;

template <class S, int N, int M>
struct Product<S, true, N, M> {
  static constexpr int STEP = MMA_WORDS * 4 / sizeof(S);  // that the depth is a multiple of

  float sums[M / 16][N / 8][4] = {};

  template <bool ACROSS, int A, int B>
  __device__ void add(const Rows<S, A>& a, const Rows<S, B>& b, int depth) {
    using Operand = std::conditional_t<std::is_same_v<S, float>, Tf32, S>;
    const int lane = static_cast<int>(threadIdx.x) % WARP;
#pragma unroll 1
    for (int d = 0; d < depth; d += STEP) {
      uint32_t left[M / 16][4];
#pragma unroll
      for (int m = 0; m < M / 16; ++m) {
        load_left(left[m], lane, [&](int row, int i) { return word<ACROSS>(a, 16 * m + row, d, i); });
      }
#pragma unroll
      for (int n = 0; n < N / 8; ++n) {
        uint32_t right[2];
        load_right(right, lane, [&](int column, int i) { return word<ACROSS>(b, 8 * n + column, d, i); });
#pragma unroll
        for (int m = 0; m < M / 16; ++m) {
          mma<Operand>(sums[m][n], left[m], right);
        }
      }
    }
  }

  template <class F>
  __device__ void for_each(F f) {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
#pragma unroll
    for (int m = 0; m < M / 16; ++m) {
#pragma unroll
      for (int n = 0; n < N / 8; ++n) {
        for_each_sum(sums[m][n], lane, [&](int row, int column, float& sum) { f(16 * m + row, 8 * n + column, sum); });
      }
    }
  }

 private:
  // The i-th word of depth from d on.
  template <bool ACROSS, int CHANNELS>
  static __device__ uint32_t word(const Rows<S, CHANNELS>& rows, int index, int d, int i) {
    if constexpr (std::is_same_v<S, float>) {
      return to_tf32(ACROSS ? rows.at(d + i)[index] : rows.at(index)[d + i]).bits;
    } else if constexpr (ACROSS) {
      const uint32_t low = rows.at(d + 2 * i)[index].bits;
      const uint32_t high = rows.at(d + 2 * i + 1)[index].bits;
      return low | high << 16;
    } else {
      uint32_t bits;
      memcpy(&bits, __builtin_assume_aligned(rows.at(index) + d + 2 * i, sizeof(bits)), sizeof(bits));
      return bits;
    }
  }
};

template <class S, int N, int M>
struct Product<S, false, N, M> {
  using C = Compute<S>;
  static constexpr int STEP = PACK<S>;

  C sums[M / 8][N / 4] = {};

  // The rows lane / 4 + 8 m and the columns lane % 4 + 4 n.
  template <bool ACROSS, int A, int B>
  __device__ void add(const Rows<S, A>& a, const Rows<S, B>& b, int depth) {
    const int row = static_cast<int>(threadIdx.x) % WARP / 4;
    const int column = static_cast<int>(threadIdx.x) % 4;
    constexpr int L = ACROSS ? 1 : PACK<S>;
#pragma unroll 1
    for (int d = 0; d < depth; d += L) {
      Pack<S, L> left[M / 8];
#pragma unroll
      for (int m = 0; m < M / 8; ++m) {
        left[m] = load<ACROSS, L>(a, row + 8 * m, d);
      }
#pragma unroll
      for (int n = 0; n < N / 4; ++n) {
        const Pack<S, L> right = load<ACROSS, L>(b, column + 4 * n, d);
#pragma unroll
        for (int m = 0; m < M / 8; ++m) {
#pragma unroll
          for (int i = 0; i < L; ++i) {
            sums[m][n] += widen(left[m].values[i]) * widen(right.values[i]);
          }
        }
      }
    }
  }

  template <class F>
  __device__ void for_each(F f) {
    const int row = static_cast<int>(threadIdx.x) % WARP / 4;
    const int column = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int m = 0; m < M / 8; ++m) {
#pragma unroll
      for (int n = 0; n < N / 4; ++n) {
        f(row + 8 * m, column + 4 * n, sums[m][n]);
      }
    }
  }

 private:
  template <bool ACROSS, int L, int CHANNELS>
  static __device__ Pack<S, L> load(const Rows<S, CHANNELS>& rows, int index, int d) {
    return read_pack<L>(ACROSS ? rows.at(d) + index : rows.at(index) + d);
  }
};

}  // namespace
}  // namespace ikem::graph_conv::cuda
