// Compiled once per SIMD level (see common/simd.h). Every reduction runs over a fixed number of lanes that are
// added up in a fixed order.
#include <limits>

#include "contrast/kernel.h"
#include "contrast/math.h"

#define LANES _Pragma("omp simd") for

namespace ikem::contrast::IKEM_SIMD_LEVEL {
namespace {

constexpr int64_t NUM_LANES = 32;

// Reduces term(0) ... term(size - 1) with an associative operation.
template <class C, class Term, class Reduce>
IKEM_INLINE C reduce(int64_t size, C start, Term term, Reduce combine) {
  C lanes[NUM_LANES];
  for (int64_t lane = 0; lane < NUM_LANES; ++lane) {
    lanes[lane] = start;
  }
  int64_t first = 0;
  for (; first + NUM_LANES <= size; first += NUM_LANES) {
    LANES (int64_t lane = 0; lane < NUM_LANES; ++lane) {
      lanes[lane] = combine(lanes[lane], term(first + lane));
    }
  }
  for (int64_t lane = 0; first + lane < size; ++lane) {
    lanes[lane] = combine(lanes[lane], term(first + lane));
  }
  for (int64_t half = NUM_LANES / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) {
      lanes[lane] = combine(lanes[lane], lanes[lane + half]);
    }
  }
  return lanes[0];
}

template <class C, class Term>
IKEM_INLINE C maximum(int64_t size, Term term) {
  return reduce(size, -std::numeric_limits<C>::infinity(), term, [](C a, C b) { return a > b ? a : b; });
}

template <class C, class Term>
IKEM_INLINE C sum(int64_t size, Term term) {
  return reduce(size, C(0), term, [](C a, C b) { return a + b; });
}

// Raises the total's maximum to that of the terms; returns the factor by which what was summed before shrinks.
template <class C>
IKEM_INLINE C raise(C max, ExpSum<C>& total) {
  if (!(max > total.max)) {
    return C(1);
  }
  const C factor = exp_nonpositive(total.max - max);
  total.max = max;
  total.sum *= factor;
  return factor;
}

template <class C, class Term>
IKEM_INLINE void add_terms(int64_t size, Term term, ExpSum<C>& total) {
  raise(maximum<C>(size, term), total);
  const C max = total.max;
  total.sum += sum<C>(size, [=](int64_t i) { return exp_nonpositive(term(i) - max); });
}

}  // namespace

template <class S>
void widen_matrix(const S* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
                  Compute<S>* out) {
  for (int64_t row = 0; row < rows; ++row) {
    const S* from = data + row * row_stride;
    Compute<S>* to = out + row * columns;
    LANES (int64_t column = 0; column < columns; ++column) {
      to[column] = widen(from[column * column_stride]);
    }
  }
}

template <class C>
void add_exponentials(const C* s, int64_t size, C scale, ExpSum<C>& total) {
  add_terms(size, [=](int64_t i) { return scale * s[i]; }, total);
}

template <class C>
void add_exponentials(const C* s, const C* t, int64_t size, C scale, ExpSum<C>& total) {
  add_terms(size, [=](int64_t i) { return scale * (s[i] * t[i]); }, total);
}

template <class C>
C weigh(C* s, int64_t size, C scale, ExpSum<C>& total) {
  const C factor = raise(maximum<C>(size, [=](int64_t i) { return scale * s[i]; }), total);
  const C max = total.max;
  LANES (int64_t i = 0; i < size; ++i) {
    s[i] = exp_nonpositive(scale * s[i] - max);
  }
  total.sum += sum<C>(size, [=](int64_t i) { return s[i]; });
  return factor;
}

template <class C>
void add_nearest(const C* s, int64_t size, int64_t first, Nearest<C>& nearest) {
  const int64_t capacity = nearest.capacity;
  const bool full = nearest.count == capacity;
  if (capacity == 0 || (full && !(maximum<C>(size, [=](int64_t i) { return s[i]; }) > nearest.values[capacity - 1]))) {
    return;
  }
  for (int64_t i = 0; i < size; ++i) {
    if (nearest.count == capacity && !(s[i] > nearest.values[capacity - 1])) {
      continue;
    }
    int64_t place = nearest.count < capacity ? nearest.count++ : capacity - 1;
    for (; place > 0 && s[i] > nearest.values[place - 1]; --place) {
      nearest.values[place] = nearest.values[place - 1];
      nearest.indices[place] = nearest.indices[place - 1];
    }
    nearest.values[place] = s[i];
    nearest.indices[place] = first + i;
  }
}

template <class C>
void exponential_gradient(const C* s, int64_t size, C scale, C log_sum, C weight, C* grad) {
  LANES (int64_t i = 0; i < size; ++i) {
    grad[i] = weight * exp_nonpositive(scale * s[i] - log_sum);
  }
}

template <class C>
void add_product_gradient(const C* s, const C* t, int64_t size, C scale, C log_sum, C weight, C* grad_s, C* grad_t) {
  if (grad_t == nullptr) {
    LANES (int64_t i = 0; i < size; ++i) {
      grad_s[i] += weight * exp_nonpositive(scale * (s[i] * t[i]) - log_sum) * t[i];
    }
    return;
  }
  LANES (int64_t i = 0; i < size; ++i) {
    const C e = weight * exp_nonpositive(scale * (s[i] * t[i]) - log_sum);
    grad_s[i] += e * t[i];
    grad_t[i] += e * s[i];
  }
}

#define INSTANTIATE(S) template void widen_matrix<S>(const S*, int64_t, int64_t, int64_t, int64_t, Compute<S>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)
#undef INSTANTIATE

#define INSTANTIATE(C)                                                           \
  template void add_exponentials<C>(const C*, int64_t, C, ExpSum<C>&);           \
  template void add_exponentials<C>(const C*, const C*, int64_t, C, ExpSum<C>&); \
  template C weigh<C>(C*, int64_t, C, ExpSum<C>&);                               \
  template void add_nearest<C>(const C*, int64_t, int64_t, Nearest<C>&);         \
  template void exponential_gradient<C>(const C*, int64_t, C, C, C, C*);         \
  template void add_product_gradient<C>(const C*, const C*, int64_t, C, C, C, C*, C*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace ikem::contrast::IKEM_SIMD_LEVEL
