// Copies from global to shared memory that run while the threads compute. Each thread waits for its own copies; a
// barrier afterwards shows them to the others.
#pragma once

#include <cuda_runtime.h>

#ifdef __CUDACC__
namespace ikem::cuda {

constexpr int ASYNC_COPY_BYTES = 16;

// Copies 16 bytes between addresses that are multiples of 16; if not `wanted`, fills with zeros and reads nothing.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool wanted) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(wanted ? 16 : 0)
               : "memory");
}

// Closes a group of copies.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the latest LEFT groups are still under way.
template <int LEFT>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

}  // namespace ikem::cuda
#else
#include <async_copy_on_host.h>
#endif
