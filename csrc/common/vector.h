// Vectors as wide as the SIMD level has them, in the notation of GCC and Clang, and a product of matrices on them.
// Only for kernels, which are compiled once per SIMD level: everything here is local to the file that includes it.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "common/scalar.h"

namespace ikem::IKEM_SIMD_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

template <class C>
struct VectorOf {
  typedef C type __attribute__((vector_size(VECTOR_BYTES)));
};
template <class C>
using Vector = typename VectorOf<C>::type;

template <class C>
constexpr int lanes = VECTOR_BYTES / static_cast<int>(sizeof(C));

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// The length of a row that holds `columns`: whole vectors, and an odd number of cache lines so that rows do not compete
// for the same places of the cache.
template <class C>
constexpr int64_t row_length(int64_t columns) {
  constexpr int64_t line = 64 / sizeof(C);
  return (round_up(columns, line) / line | 1) * line;
}

template <class C>
IKEM_INLINE Vector<C> load(const C* from) {
  Vector<C> vector;
  memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <class C>
IKEM_INLINE void store(C* to, Vector<C> vector) {
  memcpy(to, &vector, sizeof(vector));
}

// For `mask ? vector : vector`, lane by lane.
template <class C>
using Mask = decltype(Vector<C>{} < Vector<C>{});

template <class C>
IKEM_INLINE Mask<C> first_lanes(int64_t count) {
  Mask<C> mask;
  for (int i = 0; i < lanes<C>; ++i) {
    mask[i] = i < count ? -1 : 0;
  }
  return mask;
}

template <class C>
IKEM_INLINE C sum_of_lanes(Vector<C> vector) {
  C parts[lanes<C>];
  store(parts, vector);
  for (int width = lanes<C> / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      parts[i] += parts[i + width];
    }
  }
  return parts[0];
}

// The lanes of `a` and `b` by turns, from their lower or their upper halves.
template <class C, bool UPPER, int... I>
IKEM_INLINE Vector<C> interleave(Vector<C> a, Vector<C> b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, ((I % 2) * lanes<C> + I / 2 + (UPPER ? lanes<C> / 2 : 0))...);
}

// Transposes a square of vectors: each step turns the bits of (row, lane) by one place.
template <class C>
IKEM_INLINE void transpose(Vector<C> (&rows)[lanes<C>]) {
  constexpr int L = lanes<C>;
  constexpr auto order = std::make_integer_sequence<int, L>{};
  for (int step = 1; step < L; step *= 2) {
    Vector<C> next[L];
    for (int i = 0; i < L / 2; ++i) {
      next[2 * i] = interleave<C, false>(rows[i], rows[i + L / 2], order);
      next[2 * i + 1] = interleave<C, true>(rows[i], rows[i + L / 2], order);
    }
    for (int i = 0; i < L; ++i) {
      rows[i] = next[i];
    }
  }
}

// The sums over lanes of as many vectors as each has lanes, which are lost. Each is made in the order of sum_of_lanes.
template <class C>
IKEM_INLINE Vector<C> sums_of_lanes(Vector<C> (&rows)[lanes<C>]) {
  transpose<C>(rows);
  for (int width = lanes<C> / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      rows[i] += rows[i + width];
    }
  }
  return rows[0];
}

// The sum of f of `count` vectors, `row` apart. Several sums by turns, so that none waits for the one before.
template <class C, class F>
IKEM_INLINE Vector<C> sum_of_rows(const C* rows, int64_t row, int64_t count, F f) {
  Vector<C> sums[4] = {};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int j = 0; j < 4; ++j) {
      sums[j] += f(load(rows + (i + j) * row));
    }
  }
  for (; i < count; ++i) {
    sums[0] += f(load(rows + i * row));
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// A left factor of a product, element (i, j) at data[i * row + j * column].
template <class C>
struct Factor {
  const C* data;
  int64_t row, column;
};

// Calls f(r, v) for all r below R and v below V as constants: an array of vectors that is indexed with nothing else
// stays in registers. Where a loop did it, the compiler kept the array in memory before and after the sum.
template <int R, int V, class F>
IKEM_INLINE void for_each_sum(F f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I / V>{}, std::integral_constant<int, I % V>{}), ...);
  }(std::make_integer_sequence<int, R * V>{});
}

// What is done on the way while a product is made: after every so many steps of a sum, and a little at a time, so that
// the sum does not wait.
struct Nothing {
  static constexpr int64_t STEPS = INT64_MAX;
  void operator()(int64_t) const {}
};

// sum += a b, of R rows by V vectors that stay in registers.
template <int R, int V, class C, class Between>
IKEM_INLINE void add_product(Vector<C> (&sum)[R][V], int64_t depth, Factor<C> a, const C* b, int64_t b_row,
                             Between& between) {
  constexpr int L = lanes<C>;
  for (int64_t now; depth > 0; depth -= now) {
    now = depth < Between::STEPS ? depth : Between::STEPS;
    for (int64_t d = 0; d < now; ++d, a.data += a.column, b += b_row) {
      Vector<C> right[V];
      for (int v = 0; v < V; ++v) {
        right[v] = load(b + v * L);
      }
      for_each_sum<R, V>([&](auto r, auto v) { sum[r][v] += a.data[r * a.row] * right[v]; });
    }
    between(now * R * V);
  }
}

// What a sum begins with: rows `row` apart, or zeros where there are no data.
template <class C>
struct Start {
  const C* data = nullptr;
  int64_t row = 0;
};

// Has `add(sum)` add to R rows by V vectors, which are `out` then, while they are in registers.
template <int R, int V, class C, class F>
IKEM_INLINE void in_registers(const Start<C>& start, C* out, int64_t out_row, F add) {
  constexpr int L = lanes<C>;
  Vector<C> sum[R][V];
  if (start.data != nullptr) {
    for_each_sum<R, V>([&](auto r, auto v) { sum[r][v] = load(start.data + r * start.row + v * L); });
  } else {
    for_each_sum<R, V>([&](auto r, auto v) { sum[r][v] = Vector<C>{}; });
  }
  add(sum);
  for_each_sum<R, V>([&](auto r, auto v) { store(out + r * out_row + v * L, sum[r][v]); });
}

// How many rows of V vectors there are registers for, beside the vectors of the right factor.
template <int V>
constexpr int MOST_ROWS = VECTOR_BYTES == 64 && V > 1 ? 24 / V : 12 / V;

// Calls f(R, first row) for blocks of R rows, a constant of at most MOST; as equal as can be, so that none is so small
// that its sums wait for each other.
template <int MOST, class F>
void for_each_block_of_rows(int64_t rows, F f) {
  [&]<int... R>(std::integer_sequence<int, R...>) {
    constexpr void (*blocks[])(
        F&, int64_t) = {[](F& of, int64_t first) { of(std::integral_constant<int, R + 1>{}, first); }...};
    const int64_t count = round_up(rows, MOST) / MOST;
    for (int64_t i = 0, first = 0; i < count; ++i) {
      const int64_t now = (rows - first) / (count - i);
      blocks[now - 1](f, first);
      first += now;
    }
  }(std::make_integer_sequence<int, MOST>{});
}

// Calls f(R, V, first row, first vector) for blocks of R rows by V vectors, constants, each of which takes `SUMS`
// registers. From the last columns to the first, and in each from the first row to the last.
template <int SUMS, class F>
void for_each_block(int64_t rows, int64_t vectors, F f) {
  constexpr int64_t MOST_VECTORS = SUMS == 1 ? 3 : 2;
  const auto columns = [&](auto v) {
    for_each_block_of_rows<MOST_ROWS<SUMS * v>>(rows, [&](auto r, int64_t first) { f(r, v, first, vectors); });
  };
  for (int64_t parts = round_up(vectors, MOST_VECTORS) / MOST_VECTORS; parts > 0; --parts) {
    const int64_t now = vectors / parts;
    vectors -= now;
    if (now == 1) {
      columns(std::integral_constant<int, 1>{});
    } else if (now == 2) {
      columns(std::integral_constant<int, 2>{});
    } else if constexpr (MOST_VECTORS == 3) {
      columns(std::integral_constant<int, 3>{});
    }
  }
}

// out = a b, or out += a b; `columns` counts the elements that matter. Rows of b are read, and rows of out written, in
// whole vectors: from the last columns to the first, and in each from the first row to the last, so that what is
// written beyond a row's end may be the next row's beginning, unless the product is added. `between(n)` is called after
// every n multiply-adds of vectors or so, for what can be done on the way.
template <class C, class Between = Nothing>
void multiply(int64_t rows, int64_t columns, int64_t depth, Factor<C> a, const C* b, int64_t b_row, C* out,
              int64_t out_row, bool accumulate, Between&& between = {}) {
  constexpr int64_t L = lanes<C>;
  for_each_block<1>(rows, round_up(columns, L) / L, [&](auto r, auto v, int64_t row, int64_t vector) {
    C* const to = out + row * out_row + vector * L;
    in_registers<r, v>({accumulate ? to : nullptr, out_row}, to, out_row, [&](Vector<C>(&sum)[r][v]) {
      add_product(sum, depth, Factor<C>{a.data + row * a.row, a.row, a.column}, b + vector * L, b_row, between);
    });
  });
}

// One of the products that a sum consists of.
template <class T>
struct Term {
  const T *a, *b;
  int64_t depth;
};
template <class T>
struct Terms {
  const Term<T>* data;
  int64_t count;
};

// Likewise for the sum of some products, of factors that lie alike: no more is written than the sum. The data of `a`
// are those of the terms. T: the numbers that are multiplied, C, or pairs of bfloat16 (common/bfloat16_product.h).
template <class T, class C>
void multiply_sum(int64_t rows, int64_t columns, const Terms<T>& terms, Factor<T> a, int64_t b_row,
                  const Start<C>& start, C* out, int64_t out_row) {
  constexpr int64_t L = lanes<C>;
  for_each_block<1>(rows, round_up(columns, L) / L, [&](auto r, auto v, int64_t row, int64_t vector) {
    C* const to = out + row * out_row + vector * L;
    const C* const from = start.data != nullptr ? start.data + row * start.row + vector * L : nullptr;
    in_registers<r, v>({from, start.row}, to, out_row, [&](Vector<C>(&sum)[r][v]) {
      Nothing nothing;
      for (int64_t i = 0; i < terms.count; ++i) {
        const Term<T>& term = terms.data[i];
        add_product(sum, term.depth, Factor<T>{term.a + row * a.row, a.row, a.column}, term.b + vector * L, b_row,
                    nothing);
      }
    });
  });
}

}  // namespace
}  // namespace ikem::IKEM_SIMD_LEVEL
