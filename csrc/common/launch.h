// How kernels are launched and reach shared memory. The tests replace <cuda_runtime.h>, and these two macros with it,
// to run the kernels on the host.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "common/scalar.h"

#ifndef IKEM_LAUNCH
#define IKEM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define IKEM_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace ikem::cuda {

// Cuts arrays out of a block's shared memory. On the host, from any address, it counts the bytes.
class SharedArrays {
 public:
  __host__ __device__ explicit SharedArrays(unsigned char* memory) : memory_(memory) {}

  template <class T>
  __host__ __device__ T* take(int64_t count) {
    T* array = reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + 15) / 16 * 16;
    return array;
  }

  __host__ __device__ size_t bytes() const { return bytes_; }

 private:
  unsigned char* memory_;
  size_t bytes_ = 0;
};

// For arrays that take turns in the same place.
IKEM_INLINE SharedArrays later(const SharedArrays& a, const SharedArrays& b) { return a.bytes() < b.bytes() ? b : a; }

// The bytes of the arrays that take(SharedArrays&) takes.
template <class F>
size_t count_bytes(F take) {
  SharedArrays arrays(reinterpret_cast<unsigned char*>(16));  // only counts
  take(arrays);
  return arrays.bytes();
}

constexpr int64_t MAX_BLOCKS = 2147483647;  // along the first axis of a grid

// A block for each task, as far as a grid has room: the kernel goes on with those that are left.
inline unsigned blocks_for(int64_t tasks) { return static_cast<unsigned>(tasks < MAX_BLOCKS ? tasks : MAX_BLOCKS); }

// The shared memory that a block better does with: what every GPU has, and those of data centers twice.
constexpr size_t PREFERRED_BYTES = 99 * 1024;

// Null, or what is wrong with the launch just made.
inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaErrorNoKernelImageForDevice) {
    return "the CUDA operations were not built for this GPU; `python -m ikem_ext` says how to build them";
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Allows the kernel that many bytes of shared memory, where they are more than any kernel may have unasked.
template <class Kernel>
const char* allow_shared_memory(Kernel kernel, size_t bytes) {
  constexpr size_t unasked = 48 * 1024;
  if (bytes <= unasked) {
    return nullptr;
  }
  int device = 0;
  int most = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (bytes > static_cast<size_t>(most)) {
    return "more bodies, joints, channels, taps or sets of queues at a time than this GPU's shared memory has room for";
  }
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Null, or what went wrong; `stream` is a cudaStream_t of the current device.
template <class Kernel, class... Arguments>
const char* launch(Kernel kernel, dim3 blocks, int threads, size_t shared_bytes, void* stream,
                   const Arguments&... arguments) {
  if (const char* error = allow_shared_memory(kernel, shared_bytes)) {
    return error;
  }
  IKEM_LAUNCH(kernel, blocks, static_cast<unsigned>(threads), shared_bytes, static_cast<cudaStream_t>(stream),
              arguments...);
  return launch_error();
}

}  // namespace ikem::cuda
