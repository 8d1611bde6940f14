// Runs CUDA kernels on the host, for tests: found before the real <cuda_runtime.h>, it lets a plain C++ compiler build
// a .cu file that launches by IKEM_LAUNCH (csrc/common/launch.h). Blocks run one after another and the threads of a
// block as fibres that hand over at barriers and shuffles, so results are those of the card up to rounding; address and
// undefined-behavior sanitizers work. Shared memory starts as NaN, and a barrier that not all threads of a block reach
// is an error.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the thread that runs.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorNoKernelImageForDevice };
enum { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaFuncAttributeMaxDynamicSharedMemorySize };

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  *value = 227 * 1024;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, int, int) {
  return cudaSuccess;
}

namespace cuda_host_shim {

constexpr size_t STACK_BYTES = 256 * 1024;

enum class State { ready, at_block_barrier, at_warp_barrier, finished };

// Where a fibre, or the scheduler, goes on. (By the compiler's builtins, since swapcontext asks the kernel each time.
// The functions that jump must not be inlined, and address sanitizer is to take no notice of them.)
using Resume = void* [5];
#define IKEM_JUMPS __attribute__((noinline, no_sanitize("address")))

struct Thread {
  Resume resume;
  std::unique_ptr<char[]> stack;  // null: the fibre was not started yet
  State state;
  unsigned char offered[2][32];  // to the other threads of its warp, by turns
  unsigned turn;
};

struct Block {
  std::vector<Thread> threads;
  Resume scheduler;
  unsigned running = 0;
  std::unique_ptr<unsigned char[]> shared;
  const std::function<void()>* body = nullptr;
};

inline Block block;

inline void fail(const char* what) {
  std::fprintf(stderr, "cuda_host_shim: %s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.x);
  std::abort();
}

IKEM_JUMPS inline void go_on(Resume& resume) { __builtin_longjmp(resume, 1); }

IKEM_JUMPS inline void hand_over(State state) {
  Thread& thread = block.threads[block.running];
  thread.state = state;
  if (__builtin_setjmp(thread.resume) == 0) {
    go_on(block.scheduler);
  }
}

// A fibre runs one block's thread after another.
inline void thread_main() {
  for (;;) {
    (*block.body)();
    hand_over(State::finished);
  }
}

IKEM_JUMPS inline void start(Thread& thread) {
  thread.stack.reset(new char[STACK_BYTES]);
  static ucontext_t context;  // off the stack, which this function never gives back
  getcontext(&context);
  context.uc_stack.ss_sp = thread.stack.get();
  context.uc_stack.ss_size = STACK_BYTES;
  context.uc_link = nullptr;
  makecontext(&context, thread_main, 0);
  setcontext(&context);
}

// Lets the thread run until it hands over.
IKEM_JUMPS inline void run(Thread& thread) {
  if (__builtin_setjmp(block.scheduler) == 0) {
    if (thread.stack) {
      go_on(thread.resume);
    }
    start(thread);
  }
}

// Makes the threads of [first, last) ready if all of them wait at the barrier; true if so.
inline bool release(unsigned first, unsigned last, State barrier) {
  for (unsigned i = first; i < last; ++i) {
    if (block.threads[i].state != barrier) {
      return false;
    }
  }
  for (unsigned i = first; i < last; ++i) {
    block.threads[i].state = State::ready;
  }
  return true;
}

inline void run_block(unsigned num_threads) {
  if (block.threads.size() < num_threads) {
    block.threads.resize(num_threads);
  }
  for (unsigned i = 0; i < num_threads; ++i) {
    block.threads[i].state = State::ready;
    block.threads[i].turn = 0;
  }
  for (bool progress = true; progress;) {
    progress = false;
    for (unsigned i = 0; i < num_threads; ++i) {
      if (block.threads[i].state == State::ready) {
        progress = true;
        block.running = i;
        threadIdx = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
        run(block.threads[i]);
      }
    }
    for (unsigned first = 0; first < num_threads; first += warpSize) {
      const unsigned last = first + warpSize < num_threads ? first + warpSize : num_threads;
      progress |= release(first, last, State::at_warp_barrier);
    }
    progress |= release(0, num_threads, State::at_block_barrier);
  }
  for (unsigned i = 0; i < num_threads; ++i) {
    if (block.threads[i].state != State::finished) {
      threadIdx.x = i;
      fail("a barrier that some threads wait at is never reached by the others");
    }
  }
}

inline void launch(dim3 grid, dim3 threads, size_t shared_bytes, const std::function<void()>& body) {
  gridDim = grid;
  blockDim = threads;
  block.body = &body;
  for (unsigned i = 0; i < grid.x * grid.y * grid.z; ++i) {
    blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
    block.shared.reset(new unsigned char[shared_bytes]);
    std::memset(block.shared.get(), 0xff, shared_bytes);
    run_block(threads.x * threads.y * threads.z);
  }
  block.shared.reset();
}

inline unsigned lane() { return block.running % warpSize; }

// Offers a value to the other threads of the warp, which have to do the same; what each of them offers is had, by its
// lane, from the result. Until the next call but one, which no thread reaches before all have made the next.
template <class T>
auto offer(const T& value) {
  static_assert(sizeof(T) <= sizeof(Thread::offered[0]));
  Thread& thread = block.threads[block.running];
  const unsigned turn = thread.turn++ % 2;
  std::memcpy(thread.offered[turn], &value, sizeof(T));
  hand_over(State::at_warp_barrier);
  return [turn, first = block.running / warpSize * warpSize](unsigned lane) {
    T other;
    std::memcpy(&other, block.threads[first + lane].offered[turn], sizeof(T));
    return other;
  };
}

// What the thread `lane` of this thread's warp offers; its own value where there is no such lane.
template <class T>
T shuffle(T value, unsigned from) {
  const auto warp = offer(value);
  return from < static_cast<unsigned>(warpSize) ? warp(from) : value;
}

}  // namespace cuda_host_shim

inline void __syncthreads() { cuda_host_shim::hand_over(cuda_host_shim::State::at_block_barrier); }
inline void __syncwarp(unsigned = 0xffffffffu) { cuda_host_shim::hand_over(cuda_host_shim::State::at_warp_barrier); }

// Shuffles of whole warps.
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return cuda_host_shim::shuffle(value, static_cast<unsigned>(lane) % warpSize);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_host_shim::shuffle(value, cuda_host_shim::lane() ^ static_cast<unsigned>(mask));
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  return cuda_host_shim::shuffle(value, cuda_host_shim::lane() + delta);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  return cuda_host_shim::shuffle(value, cuda_host_shim::lane() - delta);  // wraps around to no lane
}

inline unsigned __ballot_sync(unsigned, bool holds) {
  const auto warp = cuda_host_shim::offer(holds);
  unsigned lanes = 0;
  for (unsigned lane = 0; lane < static_cast<unsigned>(warpSize); ++lane) {
    lanes |= static_cast<unsigned>(warp(lane)) << lane;
  }
  return lanes;
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }

#define IKEM_LAUNCH(kernel, grid, threads, shared_bytes, stream, ...) \
  (static_cast<void>(stream), ::cuda_host_shim::launch(grid, threads, shared_bytes, [&] { kernel(__VA_ARGS__); }))
#define IKEM_DYNAMIC_SHARED(name) unsigned char* name = ::cuda_host_shim::block.shared.get()
