// The instructions of csrc/common/mma.h, lane by lane.
#pragma once

#include <array>
#include <cstring>

#include "common/scalar.h"

namespace ikem::cuda {

inline Tf32 to_tf32(float value) {
  const uint32_t bits = bits_from_float(value);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return {(finite ? bits + 0x1000u : bits) & ~0x1fffu};
}

inline Tf32 to_tf32(Tf32 value) { return value; }

inline float widen(Tf32 value) { return float_from_bits(value.bits & ~0x1fffu); }
using ikem::widen;

// The scalars of one word, in order of depth.
template <class S>
std::array<float, sizeof(uint32_t) / sizeof(S)> unpack(uint32_t word) {
  std::array<S, sizeof(uint32_t) / sizeof(S)> scalars;
  std::memcpy(scalars.data(), &word, sizeof(word));
  std::array<float, scalars.size()> values;
  for (size_t i = 0; i < scalars.size(); ++i) {
    values[i] = widen(scalars[i]);
  }
  return values;
}

template <bool TRANSPOSED>
void load_matrices(uint32_t (&words)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    ::cuda_host_shim::fail("a row of a matrix at an address that is no multiple of 16");
  }
  const auto warp = ::cuda_host_shim::offer(static_cast<const char*>(row));
  const unsigned i = ::cuda_host_shim::lane() / 4, j = ::cuda_host_shim::lane() % 4;
  for (unsigned matrix = 0; matrix < 4; ++matrix) {
    char* word = reinterpret_cast<char*>(&words[matrix]);
    if constexpr (TRANSPOSED) {
      std::memcpy(word, warp(8 * matrix + 2 * j) + 2 * i, 2);
      std::memcpy(word + 2, warp(8 * matrix + 2 * j + 1) + 2 * i, 2);
    } else {
      std::memcpy(word, warp(8 * matrix + i) + 4 * j, 4);
    }
  }
}

template <class S>
void mma(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  using Words = std::array<uint32_t, 6>;
  const auto warp = ::cuda_host_shim::offer(Words{a[0], a[1], a[2], a[3], b[0], b[1]});
  const unsigned lane = ::cuda_host_shim::lane();
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned upper = i / 2;  // whether the row is one of the second eight
    const unsigned column = 2 * (lane % 4) + i % 2;
    for (unsigned word = 0; word < 8; ++word) {
      const auto left = unpack<S>(warp(lane / 4 * 4 + word % 4)[upper + word / 4 * 2]);
      const auto right = unpack<S>(warp(column * 4 + word % 4)[4 + word / 4]);
      for (size_t k = 0; k < left.size(); ++k) {
        sum[i] += left[k] * right[k];
      }
    }
  }
}

}  // namespace ikem::cuda
