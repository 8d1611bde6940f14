// Products of matrices of bfloat16 with sums in float32. Included by kernels alone (see common/vector.h).
//
// An instruction multiplies pairs of bfloat16 and adds both products to a sum, which is twice the work of a
// multiply-add in float32. It is newer than the SIMD levels, and no compiler's flag that these have admits it: what is
// here is there at the level whose vectors it has, IKEM_MULTIPLIES_PAIRS says so, and may be called where
// `simd_multiplies_bfloat16()` does. Elsewhere kernels widen bfloat16 and multiply in float32, which gives other bits:
// nothing is rounded on the way, and it is faster than to imitate the pairs.
#pragma once

#include "common/planes.h"

namespace ikem::IKEM_SIMD_LEVEL {
namespace {

// Two bfloat16, the first of which in the lower half.
using Pair = uint32_t;

}  // namespace
}  // namespace ikem::IKEM_SIMD_LEVEL

#ifdef __AVX512BW__
#define IKEM_MULTIPLIES_PAIRS

namespace ikem::IKEM_SIMD_LEVEL {
namespace {

// The sum and two products for each lane: first that of the upper halves is added and rounded, then that of the lower.
// Numbers below 2^-126 count as zero.
IKEM_INLINE Vector<float> add_products(Vector<float> sum, Vector<Pair> a, Vector<Pair> b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

// All of the first, then all of the second, rounded to nearest, ties to even.
IKEM_INLINE Vector<Pair> rounded(Vector<float> first, Vector<float> second) {
  Vector<Pair> pairs;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(pairs) : "v"(second), "v"(first));
  return pairs;
}

IKEM_INLINE Vector<Pair> pairs_of(Vector<float> lower, Vector<float> upper) {
  typedef uint16_t Shorts __attribute__((vector_size(VECTOR_BYTES)));
  constexpr int L = lanes<float>;
  const Shorts shorts = reinterpret_cast<Shorts>(rounded(lower, upper));
  return [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    return reinterpret_cast<Vector<Pair>>(__builtin_shufflevector(shorts, shorts, (I / 2 + I % 2 * L)...));
  }(std::make_integer_sequence<int, 2 * L>{});
}

// Pairs of neighbours in each row, zero after the last number. Rows are read in whole vectors.
inline void pair_columns(const float* from, int64_t from_row, int64_t rows, int64_t columns, Pair* to, int64_t to_row) {
  constexpr int64_t L = lanes<float>;
  for (int64_t r = 0; r < rows; ++r, from += from_row, to += to_row) {
    for (int64_t c = 0; c < columns; c += 2 * L) {
      store(to + c / 2, rounded(load(from + c), c + L < columns ? load(from + c + L) : Vector<float>{}));
    }
    if (columns % 2 != 0) {
      to[columns / 2] &= 0xffffu;
    }
  }
}

template <class S>
void pair_widened_rows(const S* from, int64_t from_row, int64_t rows, int64_t columns, Pair* to, int64_t to_row) {
  const auto read = [](const S* at) { return load_widened<float>(at); };
  for (int64_t r = 0; r < rows; r += 2, from += 2 * from_row, to += to_row) {
    for (int64_t c = 0; c < columns; c += lanes<float>) {
      store(to + c, pairs_of(read(from + c), r + 1 < rows ? read(from + from_row + c) : Vector<float>{}));
    }
  }
}

// Pairs of two rows each, zero after the last row.
inline void pair_rows(const float* from, int64_t from_row, int64_t rows, int64_t columns, Pair* to, int64_t to_row) {
  pair_widened_rows(from, from_row, rows, columns, to, to_row);
}
inline void pair_rows(const BFloat16* from, int64_t from_row, int64_t rows, int64_t columns, Pair* to, int64_t to_row) {
  pair_widened_rows(from, from_row, rows, columns, to, to_row);
}

// What a product makes of the pairs (a, a') of the left factor and (b, b') of the right:
//   dot       a b + a' b': pairs lie along the depth
//   complex   a b + a' b' and a' b - a b': the left factor times the conjugate of the right one
//   apart     a b and a' b'
enum class Pairs { dot, complex, apart };

template <Pairs KIND>
constexpr int SUMS = KIND == Pairs::dot ? 1 : 2;

template <Pairs KIND, int SUM>
IKEM_INLINE Vector<Pair> right_factor(Vector<Pair> b) {
  if constexpr (KIND == Pairs::complex && SUM == 1) {
    return (b << 16 | b >> 16) ^ 0x8000u;
  } else if constexpr (KIND == Pairs::apart) {
    return SUM == 0 ? b & 0xffffu : b & 0xffff0000u;
  } else {
    return b;
  }
}

// Where the sums go: matrices of rows `row` apart, the second, if there is one, `part` behind the first.
struct PairSums {
  float* data;
  int64_t row, part;
};

// As `add_product` in common/vector.h.
template <Pairs KIND, int R, int V, class Between>
IKEM_INLINE void add_pairs(Vector<float> (&sum)[R][V * SUMS<KIND>], int64_t depth, Factor<Pair> a, const Pair* b,
                           int64_t b_row, Between& between) {
  constexpr int L = lanes<float>, S = SUMS<KIND>;
  for (int64_t now; depth > 0; depth -= now) {
    now = depth < Between::STEPS ? depth : Between::STEPS;
    for (int64_t d = 0; d < now; ++d, a.data += a.column, b += b_row) {
      Vector<Pair> right[V * S];
      for_each_sum<1, V * S>([&](auto, auto i) { right[i] = right_factor<KIND, i % S>(load(b + i / S * L)); });
      for_each_sum<R, V * S>(
          [&](auto r, auto i) { sum[r][i] = add_products(sum[r][i], Vector<Pair>{} + a.data[r * a.row], right[i]); });
    }
    between(now * R * V * S);
  }
}

template <int R, int V, class Between>
IKEM_INLINE void add_product(Vector<float> (&sum)[R][V], int64_t depth, Factor<Pair> a, const Pair* b, int64_t b_row,
                             Between& between) {
  add_pairs<Pairs::dot, R, V>(sum, depth, a, b, b_row, between);
}

template <Pairs KIND, int R, int V, class Between>
void multiply_pairs_block(int64_t depth, Factor<Pair> a, const Pair* b, int64_t b_row, const PairSums& out,
                          bool accumulate, Between& between) {
  constexpr int L = lanes<float>, S = SUMS<KIND>;
  Vector<float> sum[R][V * S];
  const auto place = [&](int r, int i) { return out.data + r * out.row + i % S * out.part + i / S * L; };
  if (accumulate) {
    for_each_sum<R, V * S>([&](auto r, auto i) { sum[r][i] = load(place(r, i)); });
  } else {
    for_each_sum<R, V * S>([&](auto r, auto i) { sum[r][i] = Vector<float>{}; });
  }
  add_pairs<KIND, R, V>(sum, depth, a, b, b_row, between);
  for_each_sum<R, V * S>([&](auto r, auto i) { store(place(r, i), sum[r][i]); });
}

// As `multiply` in common/vector.h; depth and columns count pairs. The right factor of `dot` is (depth, columns, 2).
template <Pairs KIND, class Between = Nothing>
void multiply_pairs(int64_t rows, int64_t columns, int64_t depth, Factor<Pair> a, const Pair* b, int64_t b_row,
                    const PairSums& out, bool accumulate, Between&& between = {}) {
  constexpr int64_t L = lanes<float>;
  for_each_block<SUMS<KIND>>(rows, round_up(columns, L) / L, [&](auto r, auto v, int64_t row, int64_t vector) {
    multiply_pairs_block<KIND, r, v>(depth, Factor<Pair>{a.data + row * a.row, a.row, a.column}, b + vector * L, b_row,
                                     PairSums{out.data + row * out.row + vector * L, out.row, out.part}, accumulate,
                                     between);
  });
}

}  // namespace
}  // namespace ikem::IKEM_SIMD_LEVEL

#endif
