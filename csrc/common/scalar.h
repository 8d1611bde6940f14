// Scalars that tensors hold and the type that kernels compute in; for the host and for CUDA, without torch.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define IKEM_INLINE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define IKEM_INLINE __forceinline
#else
// Never left out of line: see common/simd.h.
#define IKEM_INLINE inline __attribute__((always_inline))
#endif

namespace ikem {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

IKEM_INLINE float float_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

IKEM_INLINE uint32_t bits_from_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// `widen` reads a scalar in the type to compute in; `narrow<S>` rounds back to the nearest, ties to even.
IKEM_INLINE float widen(float value) { return value; }
IKEM_INLINE double widen(double value) { return value; }
IKEM_INLINE float widen(int8_t value) { return value; }
IKEM_INLINE float widen(BFloat16 value) { return float_from_bits(static_cast<uint32_t>(value.bits) << 16); }

IKEM_INLINE float widen(Half value) {
  const uint32_t magnitude = (value.bits & 0x7fffu) << 13;
  // The exponent's bias differs by 112; the product also makes subnormal halves right.
  const float scaled = float_from_bits(magnitude) * float_from_bits((127 + 112) << 23);
  const uint32_t not_finite = (value.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return float_from_bits(bits_from_float(scaled) | not_finite | (value.bits & 0x8000u) << 16);
}

template <class S>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class S>
using Compute = typename ComputeType<S>::type;

template <class S>
struct Narrow;

template <>
struct Narrow<float> {
  static IKEM_INLINE float from(float value) { return value; }
};

template <>
struct Narrow<double> {
  static IKEM_INLINE double from(double value) { return value; }
};

template <>
struct Narrow<BFloat16> {
  static IKEM_INLINE BFloat16 from(float value) {
    const uint32_t bits = bits_from_float(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return {static_cast<uint16_t>(value != value ? 0x7fc0u : rounded)};
  }
};

template <>
struct Narrow<Half> {
  static IKEM_INLINE Half from(float value) {
    const uint32_t sign = bits_from_float(value) & 0x80000000u;
    const uint32_t bits = bits_from_float(value) ^ sign;
    // Below 2^-14 the float's last bit is aligned with the subnormal half's by adding 0.5.
    const uint32_t half = 0x3f000000u;
    const uint32_t subnormal = bits_from_float(float_from_bits(bits) + float_from_bits(half)) - half;
    const uint32_t normal = (bits - (112u << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
    const uint32_t not_finite = bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t magnitude = bits >= 0x47800000u ? not_finite : bits < 0x38800000u ? subnormal : normal;
    return {static_cast<uint16_t>(magnitude | sign >> 16)};
  }
};

template <class S, class C>
IKEM_INLINE S narrow(C value) {
  return Narrow<S>::from(value);
}

}  // namespace ikem
