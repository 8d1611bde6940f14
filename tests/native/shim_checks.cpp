// The shim itself: `shim_checks sum` adds up numbers with shared memory, barriers and shuffles; the others are mistakes
// that the shim or the sanitizer has to catch.
#include <cmath>
#include <string>

#include "common/launch.h"

namespace {

constexpr int THREADS = 96;

__global__ void sum_kernel(const float* values, float* sums) {
  IKEM_DYNAMIC_SHARED(memory);
  float* warps = reinterpret_cast<float*>(memory);
  float sum = values[blockIdx.x * THREADS + threadIdx.x];
  for (unsigned delta = warpSize / 2; delta > 0; delta /= 2) {
    sum += __shfl_down_sync(0xffffffffu, sum, delta);
  }
  if (threadIdx.x % warpSize == 0) {
    warps[threadIdx.x / warpSize] = sum;
  }
  __syncthreads();
  sums[blockIdx.x * THREADS + threadIdx.x] = warps[0] + warps[1] + warps[2];
}

__global__ void out_of_bounds_kernel() {
  IKEM_DYNAMIC_SHARED(memory);
  reinterpret_cast<float*>(memory)[threadIdx.x] = 1;  // room for all threads but the last
}

__global__ void missed_barrier_kernel() {
  if (threadIdx.x != 5) {
    __syncthreads();
  }
}

__global__ void uninitialized_kernel(float* result) {
  IKEM_DYNAMIC_SHARED(memory);
  *result = reinterpret_cast<float*>(memory)[threadIdx.x];
}

int check_sums() {
  float values[2 * THREADS], sums[2 * THREADS];
  for (int i = 0; i < 2 * THREADS; ++i) {
    values[i] = static_cast<float>(i);
  }
  IKEM_LAUNCH(sum_kernel, 2, THREADS, 3 * sizeof(float), nullptr, values, sums);
  for (int i = 0; i < 2 * THREADS; ++i) {
    const float first = static_cast<float>(i / THREADS * THREADS);
    if (sums[i] != THREADS * first + THREADS * (THREADS - 1) / 2) {
      return 1;
    }
  }
  return 0;
}

}  // namespace

int main(int, char** arguments) {
  const std::string name = arguments[1];
  if (name == "sum") {
    return check_sums();
  }
  if (name == "out-of-bounds") {
    IKEM_LAUNCH(out_of_bounds_kernel, 1, THREADS, (THREADS - 1) * sizeof(float), nullptr);
  }
  if (name == "missed-barrier") {
    IKEM_LAUNCH(missed_barrier_kernel, 1, THREADS, 0, nullptr);
  }
  if (name == "uninitialized") {
    float result = 0;
    IKEM_LAUNCH(uninitialized_kernel, 1, 1, sizeof(float), nullptr, &result);
    return std::isnan(result) ? 3 : 0;
  }
  return 0;
}
