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

}  // namespace ikem::cuda
