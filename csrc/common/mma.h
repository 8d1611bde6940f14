// Products of small matrices by the tensor cores. The 32 lanes of a warp hold each operand together, in 32-bit words
// of consecutive depth: two bfloat16 or float16, or one float32 rounded to TF32. Of all three the words lie alike:
// the lane 4 i + j has of the left factor (16 rows, 8 words deep) the rows i and i + 8, of the right one (8 columns)
// the column i, and of both the words j and j + 4; of the product the columns 2 j and 2 j + 1 of the rows i and i + 8.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "common/scalar.h"

namespace ikem::cuda {

constexpr int MMA_ROWS = 16;
constexpr int MMA_COLUMNS = 8;
constexpr int MMA_WORDS = 8;

// A float32 of which the tensor cores take the upper 19 bits.
struct Tf32 {
  uint32_t bits;
};

}  // namespace ikem::cuda

// The instructions themselves; without CUDA the tests supply them.
#ifdef __CUDACC__
namespace ikem::cuda {

// Rounded to nearest, ties away from zero.
__device__ __forceinline__ Tf32 to_tf32(float value) {
  Tf32 rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded.bits) : "f"(value));
  return rounded;
}

__device__ __forceinline__ Tf32 to_tf32(Tf32 value) { return value; }

// Four matrices of eight rows of 16 bytes from shared memory, of which the lanes 8 i to 8 i + 7 name the rows of the
// i-th: of each, the lane 4 i + j gets the j-th word of row i or, TRANSPOSED, of elements of two bytes, those of column
// i in the rows 2 j and 2 j + 1.
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], const void* row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (TRANSPOSED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
  }
}

// sum += a b, with S one of BFloat16, Half and Tf32.
template <class S>
__device__ void mma(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#define IKEM_DEFINE_MMA(S, shape_and_types)                                                                    \
  template <>                                                                                                  \
  __device__ __forceinline__ void mma<S>(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {    \
    asm("mma.sync.aligned." shape_and_types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                               \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                   \
  }
IKEM_DEFINE_MMA(BFloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
IKEM_DEFINE_MMA(Half, "m16n8k16.row.col.f32.f16.f16.f32")
IKEM_DEFINE_MMA(Tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef IKEM_DEFINE_MMA

}  // namespace ikem::cuda
#else
#include <mma_on_host.h>
#endif

namespace ikem::cuda {

// The left factor's words of this lane, from word(row, index).
template <class F>
__device__ __forceinline__ void load_left(uint32_t (&a)[4], int lane, F word) {
  const int row = lane / 4, index = lane % 4;
  a[0] = word(row, index);
  a[1] = word(row + 8, index);
  a[2] = word(row, index + 4);
  a[3] = word(row + 8, index + 4);
}

// The right factor's words of this lane, from word(column, index).
template <class F>
__device__ __forceinline__ void load_right(uint32_t (&b)[2], int lane, F word) {
  const int column = lane / 4, index = lane % 4;
  b[0] = word(column, index);
  b[1] = word(column, index + 4);
}

// Calls f(row, column, element) for this lane's elements of the product.
template <class F>
__device__ __forceinline__ void for_each_sum(float (&sum)[4], int lane, F f) {
  const int row = lane / 4, column = 2 * (lane % 4);
  f(row, column, sum[0]);
  f(row, column + 1, sum[1]);
  f(row + 8, column, sum[2]);
  f(row + 8, column + 1, sum[3]);
}

// Calls f(whether to use tensor cores), as a constant: for half precision always, for float32 where it may be rounded
// to TF32, and for float64 never.
template <class S, class F>
auto dispatch_tensor_cores(bool allow_tf32, F f) {
  if constexpr (sizeof(S) == 2) {
    return f(std::true_type{});
  } else if constexpr (std::is_same_v<S, float>) {
    return allow_tf32 ? f(std::true_type{}) : f(std::false_type{});
  } else {
    return f(std::false_type{});
  }
}

}  // namespace ikem::cuda
