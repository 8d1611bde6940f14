// The shim itself: `shim_checks sum` adds up numbers with shared memory, barriers and shuffles, `mma` multiplies
// matrices that it copies into shared memory; the others are mistakes that the shim or the sanitizer has to catch.
#include <cmath>
#include <string>
#include <vector>

#include "common/async_copy.h"
#include "common/launch.h"
#include "common/mma.h"

using namespace ikem::cuda;

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

// product (16 x 8) = left (16 rows of 8 words) times the transpose of right (8 rows of 8 words)
template <class S>
__global__ void mma_kernel(const uint32_t* left, const uint32_t* right, float* product, bool waits) {
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  uint32_t* const words[] = {arrays.take<uint32_t>(MMA_ROWS * MMA_WORDS), arrays.take<uint32_t>(64)};
  const int lane = static_cast<int>(threadIdx.x);
  copy_async(words[0] + 4 * lane, left + 4 * lane, true);
  if (lane < 16) {
    copy_async(words[1] + 4 * lane, right + 4 * lane, true);
  }
  commit_copies();
  if (waits) {
    wait_for_copies<0>();
  }
  __syncthreads();
  uint32_t a[4], b[2];
  float sum[4] = {};
  load_left(a, lane, [&](int row, int word) { return words[0][row * MMA_WORDS + word]; });
  load_right(b, lane, [&](int column, int word) { return words[1][column * MMA_WORDS + word]; });
  mma<S>(sum, a, b);
  for_each_sum(sum, lane, [&](int row, int column, float value) { product[row * MMA_COLUMNS + column] = value; });
}

template <class S>
S from_integer(int value) {
  return ikem::narrow<S>(static_cast<float>(value));
}
template <>
Tf32 from_integer<Tf32>(int value) {
  return to_tf32(static_cast<float>(value));
}

// Products of small integers, which are exact.
template <class S>
bool check_mma(bool waits = true) {
  constexpr int DEPTH = MMA_WORDS * sizeof(uint32_t) / sizeof(S);
  alignas(16) S left[MMA_ROWS * DEPTH], right[MMA_COLUMNS * DEPTH];
  const auto value = [](int row, int k) { return (row * 7 + k * 3) % 23 - 11; };
  for (int i = 0; i < MMA_ROWS * DEPTH; ++i) {
    left[i] = from_integer<S>(value(i / DEPTH, i % DEPTH));
    right[i % (MMA_COLUMNS * DEPTH)] = from_integer<S>(value(i / DEPTH % MMA_COLUMNS + 50, i % DEPTH));
  }
  float product[MMA_ROWS * MMA_COLUMNS];
  IKEM_LAUNCH(mma_kernel<S>, 1, 32, 192 * sizeof(uint32_t), nullptr, reinterpret_cast<const uint32_t*>(left),
              reinterpret_cast<const uint32_t*>(right), product, waits);
  for (int i = 0; i < MMA_ROWS * MMA_COLUMNS; ++i) {
    int expected = 0;
    for (int k = 0; k < DEPTH; ++k) {
      expected += value(i / MMA_COLUMNS, k) * value(i % MMA_COLUMNS + 50, k);
    }
    if (product[i] != static_cast<float>(expected)) {
      return false;
    }
  }
  return true;
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
  if (name == "mma") {
    const bool rounds = widen(to_tf32(1 + 0x1p-11f)) == 1 + 0x1p-10f && widen(to_tf32(-1 - 0x1p-12f)) == -1;
    return check_mma<Tf32>() && check_mma<ikem::BFloat16>() && check_mma<ikem::Half>() && rounds ? 0 : 1;
  }
  if (name == "missed-wait") {
    return check_mma<Tf32>(/*waits=*/false) ? 0 : 3;
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
