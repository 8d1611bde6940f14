// Products of rows in shared memory: the sums that one warp makes.
#pragma once

#include <type_traits>

#include "common/mma.h"
#include "common/rows.h"
#include "common/warp.h"

namespace ikem::cuda {
namespace {

// What one warp sums up: M rows, from `a`, by N columns, from `b`. Both hold either a row of depth for each of them or,
// ACROSS, a row of all of them for each step of depth. The depth is a multiple of STEP.
template <class S, bool TENSOR, int N, int M = WARP>
struct Product;

template <class S, int N, int M>
struct Product<S, true, N, M> {
  static constexpr int STEP = MMA_WORDS * 4 / sizeof(S);

  float sums[M / 16][N / 8][4] = {};

  template <bool ACROSS, class A, class B>
  __device__ void add(const A& a, const B& b, int depth) {
    using Operand = std::conditional_t<sizeof(S) == 4, Tf32, S>;
    const int lane = lane_again();
#pragma unroll 1
    for (int d = 0; d < depth; d += STEP) {
      uint32_t left[M / 16][4];
#pragma unroll
      for (int m = 0; m < M / 16; ++m) {
        load<ACROSS>(left[m], lane, a, 16 * m, d);
      }
#pragma unroll
      for (int n = 0; n < N / 8; n += 2) {
        uint32_t both[4];
        load<ACROSS>(both, lane, b, 8 * n, d);
        const uint32_t right[2][2] = {{both[0], both[2]}, {both[1], both[3]}};
#pragma unroll
        for (int m = 0; m < M / 16; ++m) {
          mma<Operand>(sums[m][n], left[m], right[0]);
          mma<Operand>(sums[m][n + 1], left[m], right[1]);
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
  // Sixteen rows (or columns), from `first` on, of a step of depth: in the order of a left factor.
  template <bool ACROSS, class R>
  static __device__ __forceinline__ void load(uint32_t (&words)[4], int lane, const R& rows, int first, int d) {
    if constexpr (ACROSS && sizeof(S) == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[i] = to_tf32(rows.at(d + i / 2 * 4 + lane % 4)[first + i % 2 * 8 + lane / 4]).bits;
      }
    } else {
      const int matrix = lane / 8, row = lane % 8;  // of the four of eight rows, 16 bytes wide
      const int near = matrix % 2 * 8, far = matrix / 2 * PACK<S>;
      load_matrices<ACROSS>(words,
                            ACROSS ? rows.at(d + far + row) + first + near : rows.at(first + near + row) + d + far);
      if constexpr (std::is_same_v<S, float>) {
#pragma unroll
        for (uint32_t& word : words) {
          word = to_tf32(float_from_bits(word)).bits;
        }
      }
    }
  }
};

template <class S, int N, int M>
struct Product<S, false, N, M> {
  using C = Compute<S>;
  static constexpr int STEP = PACK<S>;

  C sums[M / 8][N / 4] = {};

  // The rows lane / 4 + 8 m and the columns lane % 4 + 4 n.
  template <bool ACROSS, class A, class B>
  __device__ void add(const A& a, const B& b, int depth) {
    const int lane = lane_again();
    const int row = lane / 4, column = lane % 4;
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
  template <bool ACROSS, int L, class R>
  static __device__ Pack<S, L> load(const R& rows, int index, int d) {
    return read_pack<L>(ACROSS ? rows.at(d) + index : rows.at(index) + d);
  }
};

// total = the products of the warps that share out the depth, in their order.
template <class P, class T, int N>
__device__ void add_up(P& product, bool counts, int turn, int turns, const Rows<T, N>& total) {
#pragma unroll 1
  for (int i = 0; i < turns; ++i) {
    __syncthreads();
    if (counts && i == turn) {
      product.for_each([&](int row, int column, T sum) {
        T& to = total.at(row)[column];
        to = i == 0 ? sum : to + sum;
      });
    }
  }
  __syncthreads();
}

}  // namespace
}  // namespace ikem::cuda
