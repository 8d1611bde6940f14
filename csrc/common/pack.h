// Elements that a thread moves as one.
#pragma once

#include "common/scalar.h"

namespace ikem::cuda {

// How many of them fill the 16 bytes that a thread moves at the most.
template <class T>
constexpr int PACK = 16 / sizeof(T);

template <class T, int COUNT>
struct alignas(sizeof(T) * COUNT < 16 ? sizeof(T) * COUNT : 16) Pack {
  T values[COUNT];
};

// Whether a pack may start there.
template <int COUNT, class T>
IKEM_INLINE bool is_aligned(const T* elements) {
  return reinterpret_cast<uintptr_t>(elements) % alignof(Pack<T, COUNT>) == 0;
}

template <int COUNT, class T>
IKEM_INLINE Pack<T, COUNT> read_pack(const T* elements) {
  return *reinterpret_cast<const Pack<T, COUNT>*>(elements);
}

template <class T, int COUNT>
IKEM_INLINE void write_pack(T* elements, const Pack<T, COUNT>& pack) {
  *reinterpret_cast<Pack<T, COUNT>*>(elements) = pack;
}

// Elements `stride` apart, of which there are `room`; the others are zero.
template <int COUNT, class T>
__device__ __forceinline__ Pack<T, COUNT> gather(const T* from, int64_t stride, int room) {
  if (stride == 1 && room >= COUNT && is_aligned<COUNT>(from)) {
    return read_pack<COUNT>(from);
  }
  Pack<T, COUNT> pack{};
#pragma unroll
  for (int i = 0; i < COUNT; ++i, from += stride) {
    if (i < room) {
      pack.values[i] = *from;
    }
  }
  return pack;
}

// Writes values, rounded, to elements `stride` apart, as far as there is room.
template <class T, class C, int COUNT>
__device__ __forceinline__ void scatter(T* to, int64_t stride, int room, const C (&values)[COUNT]) {
  if (stride == 1 && room >= COUNT && is_aligned<COUNT>(to)) {
    Pack<T, COUNT> pack;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      pack.values[i] = narrow<T>(values[i]);
    }
    write_pack(to, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < COUNT; ++i, to += stride) {
    if (i < room) {
      *to = narrow<T>(values[i]);
    }
  }
}

}  // namespace ikem::cuda
