// What the threads of a warp, and of a block, do together.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace ikem::cuda {

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// This thread's lane, asked for anew: nothing that follows from it takes up registers before.
__device__ __forceinline__ int lane_again() {
#ifdef __CUDA_ARCH__
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
#else
  return static_cast<int>(threadIdx.x) % WARP;
#endif
}

__device__ inline int lowest_bit(uint32_t bits) { return __ffs(static_cast<int>(bits)) - 1; }

// The same in all lanes of the warp, in a fixed order.
template <class T, class F>
__device__ T reduce_warp(T value, F combine) {
  for (int mask = WARP / 2; mask > 0; mask /= 2) {
    value = combine(value, __shfl_xor_sync(ALL_LANES, value, mask));
  }
  return value;
}

// The same in all threads of a block of so many; `warps` is shared memory for one value of each warp.
template <int THREADS, class T, class F>
__device__ T reduce_block(T value, T* warps, F combine) {
  value = reduce_warp(value, combine);
  __syncthreads();
  if (threadIdx.x % WARP == 0) {
    warps[threadIdx.x / WARP] = value;
  }
  __syncthreads();
  value = warps[0];
  for (int warp = 1; warp < THREADS / WARP; ++warp) {
    value = combine(value, warps[warp]);
  }
  return value;
}

}  // namespace ikem::cuda
