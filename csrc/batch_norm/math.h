// Formulas of batch normalization, for host and device.
#pragma once

#include <cmath>
#include <type_traits>

#include "batch_norm/kernel.h"

namespace ikem::batch_norm {

// The lower 32 bits of words, which stand one by one or in the lanes of a vector, there as wide as those.
template <class W>
IKEM_INLINE W low_word(W words) {
  if constexpr (std::is_integral_v<W>) {
    return words;
  } else {
    return sizeof(words[0]) == 8 ? words & 0xffffffffu : words;
  }
}

// A bijection of words whose output bits each depend on all input bits: two rounds of multiplying and shifting, with
// the constants that Wellons found to be the least biased.
template <class W>
IKEM_INLINE W mixed(W words) {
  words ^= words >> 16;
  words = low_word(words * 0x7feb352du);
  words ^= words >> 15;
  words = low_word(words * 0x846ca68bu);
  return words ^ words >> 16;
}

// 32 random bits for each place.
template <class W>
IKEM_INLINE W random_bits(uint64_t seed, W places) {
  return mixed(mixed(low_word(places + static_cast<uint32_t>(seed))) ^ static_cast<uint32_t>(seed >> 32));
}

template <class C>
IKEM_INLINE C inverse_deviation(C variance, double eps) {
  return static_cast<C>(1 / sqrt(static_cast<double>(variance) + eps));
}

}  // namespace ikem::batch_norm
