// Rows of channels in the shared memory of a block on CUDA.
#pragma once

#include "common/launch.h"
#include "common/pack.h"

namespace ikem::cuda {
namespace {

// Rows of at most so many channels, of a length such that packs of eight successive rows lie in different banks of
// the shared memory.
template <class T, int CHANNELS, int PADDING = PACK<T>>
struct Rows {
  static constexpr int LENGTH = CHANNELS + PADDING;
  static_assert(CHANNELS % (2 * PACK<T>) == 0);

  T* data;

  Rows() = default;
  __host__ __device__ Rows(SharedArrays& shared, int count) : data(shared.take<T>(int64_t{count} * LENGTH)) {}
  explicit __device__ Rows(T* data) : data(data) {}

  __device__ T* at(int row) const { return data + row * LENGTH; }
  __device__ Rows from(int row, int channel = 0) const { return Rows(at(row) + channel); }
  __device__ Pack<T, PACK<T>>& pack(int row, int channel) const {
    return *reinterpret_cast<Pack<T, PACK<T>>*>(at(row) + channel);
  }
};

}  // namespace
}  // namespace ikem::cuda
