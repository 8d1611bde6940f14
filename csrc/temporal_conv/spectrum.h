// Lines of numbers to frequencies and back. Included by cpu.cpp alone.
//
// A line is what one frame holds, all joints and channels, and stays as it is: a transform acts on some lines in a row,
// as a product of matrices. Half of it is spared by taking sums and differences of lines at equal distances from the
// middle first, of which the cosines and the sines each see one.
#pragma once

#include <cmath>

#include "common/bfloat16_product.h"
#include "common/planes.h"
#include "temporal_conv/kernel.h"

namespace ikem::temporal_conv::IKEM_SIMD_LEVEL {
namespace {

using namespace ::ikem::IKEM_SIMD_LEVEL;

// How spectra are multiplied. Both ways have matrices of `Number`, which are multiplied, and of C, their products.
//
// With real products there is one of each for each of the pairs of frequencies' two parts `a` and `b` and their sum,
// and for the one or two frequencies that are real.
template <class T>
struct RealProducts {
  using C = T;
  using Number = T;
  static constexpr bool PAIRED = false;

  explicit RealProducts(const Problem& problem) : pairs(problem.pairs()), singles(problem.single_frequencies()) {}

  // Where the sum over all frames is found.
  int64_t total() const { return single; }

  // One of the matrices; `product` lies between one product and the next.
  template <class Between>
  void multiply(int64_t factor, int64_t rows, int64_t columns, int64_t depth, Factor<Number> a, const Number* b,
                int64_t b_row, C* products, int64_t product, int64_t row, bool accumulate, Between&& between) const {
    IKEM_SIMD_LEVEL::multiply<C>(rows, columns, depth, a, b, b_row, products + factor * product, row, accumulate,
                                 between);
  }

  const int64_t pairs, singles;
  const int64_t a = 0, single = pairs, b = pairs + singles, sum = b + pairs;
};

#ifdef IKEM_MULTIPLIES_PAIRS

// With pairs, two bfloat16 are the real and the imaginary part of a number, or the numbers of the frequencies that are
// real. Products are those frequencies, then the real parts of all others, then their imaginary parts. The right factor
// is conjugated: weights are stored so forward, and their gradient comes so.
struct PairProducts {
  using C = float;
  using Number = Pair;
  static constexpr bool PAIRED = true;

  explicit PairProducts(const Problem& problem) : pairs(problem.pairs()), singles(problem.single_frequencies()) {}

  int64_t total() const { return 0; }

  template <class Between>
  void multiply(int64_t factor, int64_t rows, int64_t columns, int64_t depth, Factor<Number> a, const Number* b,
                int64_t b_row, C* products, int64_t product, int64_t row, bool accumulate, Between&& between) const {
    if (factor > 0) {
      const PairSums sums{products + (singles + factor - 1) * product, row, pairs * product};
      multiply_pairs<Pairs::complex>(rows, columns, depth, a, b, b_row, sums, accumulate, between);
    } else if (singles == 2) {
      multiply_pairs<Pairs::apart>(rows, columns, depth, a, b, b_row, {products, row, product}, accumulate, between);
    } else {
      multiply_pairs<Pairs::dot>(rows, columns, depth, a, b, b_row, {products, row, 0}, accumulate, between);
    }
  }

  // From rows in the order of the products.
  void pack(const C* numbers, int64_t row, int64_t size, Number* factors, int64_t factor) const {
    for (int64_t k = 0; k <= pairs; ++k, factors += factor) {
      const C* const first = numbers + (k > 0 ? singles + k - 1 : 0) * row;
      const int64_t second = k > 0 ? pairs * row : row;
      const bool alone = k == 0 && singles == 1;
      for (int64_t i = 0; i < size; i += lanes<C>) {
        store(factors + i, pairs_of(load(first + i), alone ? Vector<C>{} : load(first + second + i)));
      }
    }
  }

  const int64_t pairs, singles;
};

#endif

// cos and sin of 2 pi k t / points.
template <class C>
class Angles {
 public:
  explicit Angles(int64_t points) : points_(points), cosines_(points), sines_(points) {
    for (int64_t i = 0; i < points; ++i) {
      const double angle = 2 * 3.14159265358979323846 * static_cast<double>(i) / static_cast<double>(points);
      cosines_[i] = static_cast<C>(std::cos(angle));
      sines_[i] = static_cast<C>(std::sin(angle));
    }
  }

  C cosine(int64_t k, int64_t t) const { return cosines_[at(k * t)]; }
  C sine(int64_t k, int64_t t) const { return sines_[at(k * t)]; }

 private:
  int64_t at(int64_t product) const { return (product % points_ + points_) % points_; }

  const int64_t points_;
  const Array<C> cosines_, sines_;
};

// The k-th of the pairs, or of the singles, as a frequency.
inline int64_t frequency_of_pair(int64_t k) { return k + 1; }
inline int64_t frequency_of_single(int64_t k, int64_t points) { return k * (points / 2); }

enum class Side { input, output };

// The transform of the window of inputs, or the transposed of that which makes the outputs. `analyze` goes to
// frequencies: inputs forward, gradients of outputs backward. `synthesize` comes from the products of these with the
// weights: outputs forward, gradients of inputs backward.
template <class P>
class Transform {
 public:
  using C = typename P::C;
  using Number = typename P::Number;

  Transform(const Problem& problem, const P& products, Side side)
      : products_(products), side_(side), length_(side == Side::input ? problem.window : problem.tile) {
    const Angles<C> angles(problem.points);
    const bool input = side == Side::input;
    const C scale = input ? C(1) : C(1) / static_cast<C>(problem.points);
    // Backward `b` is the negative of the real part, unless they are paired.
    const C twice = input ? C(1) : P::PAIRED ? C(2) : C(-2);
    for (int64_t i = 0; i <= half_; ++i) {
      for (int64_t k = 0; k < products_.singles; ++k) {
        cosine(first_single_ + k, i) = scale * angles.cosine(frequency_of_single(k, problem.points), i);
      }
      for (int64_t k = 0; k < products_.pairs; ++k) {
        cosine(first_pair_ + k, i) = twice * scale * angles.cosine(frequency_of_pair(k), i);
        sine(k, i) = (input ? C(-1) : C(-2)) * scale * angles.sine(frequency_of_pair(k), i);
      }
    }
  }

  // `line(i)` is the i-th line, or null where there are zeros. Factors are `factor` apart.
  template <class Line>
  void analyze(Line line, int64_t width, Number* factors, int64_t factor) const {
    for (int64_t first = 0; first < width; first += BLOCK) {
      const int64_t now = smaller(BLOCK, width - first);
      fold(line, first, now);
      if constexpr (P::PAIRED) {
        to_frequencies(now, numbers_, numbers_ + reals_ * BLOCK, BLOCK);
        products_.pack(numbers_, BLOCK, now, factors + first, factor);
      } else {
        C* const to = factors + first;
        const int64_t cosines = side_ == Side::input ? products_.a : products_.single;
        const int64_t sines = side_ == Side::input ? products_.b : products_.a;
        to_frequencies(now, to + cosines * factor, to + sines * factor, factor);
        add_parts(to, factor, now);
      }
    }
  }

  // `line(i)` is the i-th line, or null where nobody asks for it; what is made is added to it or takes its place.
  template <class Line>
  void synthesize(const C* products, int64_t product, int64_t width, Line line, bool add) const {
    for (int64_t first = 0; first < width; first += BLOCK) {
      const int64_t now = smaller(BLOCK, width - first);
      if constexpr (P::PAIRED) {
        from_frequencies(now, products + first, products + reals_ * product + first, product);
      } else {
        combine(products + first, product, now);
        from_frequencies(now, numbers_, numbers_ + reals_ * BLOCK, BLOCK);
      }
      for (int64_t h = 0; h <= half_; ++h) {
        C* const after = line(middle_ + h);
        C* const before = h > 0 && middle_ - h >= 0 ? line(middle_ - h) : nullptr;
        unfold(h, now, after != nullptr ? after + first : nullptr, C(1), add);
        unfold(h, now, before != nullptr ? before + first : nullptr, C(-1), add);
      }
    }
  }

 private:
  static constexpr int64_t L = lanes<C>;
  // Of a line at a time, so that what is folded stays in the innermost cache.
  static constexpr int64_t BLOCK = 24 * L;

  C& cosine(int64_t row, int64_t i) { return cosines_[row * (half_ + 1) + i]; }
  C& sine(int64_t row, int64_t i) { return sines_[row * (half_ + 1) + i]; }

  template <class Line>
  void fold(Line line, int64_t first, int64_t now) const {
    for (int64_t h = 0; h <= half_; ++h) {
      const C* const after = line(middle_ + h);
      const C* const before = h > 0 && middle_ - h >= 0 ? line(middle_ - h) : nullptr;
      for (int64_t i = 0; i < now; i += L) {
        const Vector<C> a = after != nullptr ? load(after + first + i) : Vector<C>{};
        const Vector<C> b = before != nullptr ? load(before + first + i) : Vector<C>{};
        store(even_ + h * BLOCK + i, a + b);
        store(odd_ + h * BLOCK + i, a - b);
      }
    }
  }

  void unfold(int64_t h, int64_t now, C* to, C sign, bool add) const {
    if (to == nullptr) {
      return;
    }
    for (int64_t i = 0; i < now; i += L) {
      const Vector<C> even = load(even_ + h * BLOCK + i);
      const Vector<C> made = h > 0 ? even + sign * load(odd_ + h * BLOCK + i) : even;
      store(to + i, add ? load(to + i) + made : made);
    }
  }

  void to_frequencies(int64_t now, C* real, C* imaginary, int64_t row) const {
    multiply<C>(reals_, now, half_ + 1, {cosines_, half_ + 1, 1}, even_, BLOCK, real, row, false);
    if (half_ > 0) {
      multiply<C>(products_.pairs, now, half_, {sines_ + 1, half_ + 1, 1}, odd_ + BLOCK, BLOCK, imaginary, row, false);
    } else {
      for (int64_t k = 0; k < products_.pairs; ++k) {
        set_zero(imaginary + k * row, now);
      }
    }
  }

  void from_frequencies(int64_t now, const C* real, const C* imaginary, int64_t row) const {
    multiply<C>(half_ + 1, now, reals_, {cosines_, 1, half_ + 1}, real, row, even_, BLOCK, false);
    multiply<C>(half_, now, products_.pairs, {sines_ + 1, 1, half_ + 1}, imaginary, row, odd_ + BLOCK, BLOCK, false);
  }

  void add_parts(C* to, int64_t factor, int64_t now) const {
    for (int64_t k = 0; k < products_.pairs; ++k) {
      const C* const a = to + (products_.a + k) * factor;
      const C* const b = to + (products_.b + k) * factor;
      C* const sum = to + (products_.sum + k) * factor;
      for (int64_t i = 0; i < now; i += L) {
        store(sum + i, side_ == Side::input ? load(a + i) + load(b + i) : load(a + i) - load(b + i));
      }
    }
  }

  // The real and the imaginary parts of what the products of matrices make, or of the gradients.
  void combine(const C* products, int64_t product, int64_t now) const {
    const bool output = side_ == Side::output;
    for (int64_t k = 0; k < products_.pairs; ++k) {
      const C* const a = products + (products_.a + k) * product;
      const C* const b = products + (products_.b + k) * product;
      const C* const sum = products + (products_.sum + k) * product;
      C* const real = numbers_ + (first_pair_ + k) * BLOCK;
      C* const imaginary = numbers_ + (reals_ + k) * BLOCK;
      for (int64_t i = 0; i < now; i += L) {
        // As a matrix of `output` has it, the real part is negative.
        store(real + i, output ? load(b + i) - load(sum + i) : load(a + i) + load(sum + i));
        store(imaginary + i, output ? load(a + i) + load(sum + i) : load(b + i) + load(sum + i));
      }
    }
    for (int64_t k = 0; k < products_.singles; ++k) {
      memcpy(numbers_ + (first_single_ + k) * BLOCK, products + (products_.single + k) * product,
             sizeof(C) * static_cast<size_t>(now));
    }
  }

  const P products_;
  const Side side_;
  const int64_t length_;
  const int64_t half_ = length_ / 2, middle_ = (length_ - 1) / 2;
  const int64_t reals_ = products_.pairs + products_.singles;
  // Among the rows of cosines; the sines' are those of the pairs.
  const bool singles_first_ = P::PAIRED || side_ == Side::output;
  const int64_t first_single_ = singles_first_ ? 0 : products_.pairs;
  const int64_t first_pair_ = singles_first_ ? products_.singles : 0;
  const Array<C> cosines_{reals_ * (half_ + 1)};
  const Array<C> sines_{products_.pairs * (half_ + 1)};
  const Array<C> even_{(half_ + 1) * BLOCK}, odd_{(half_ + 1) * BLOCK};
  const Array<C> numbers_{(reals_ + products_.pairs) * BLOCK};  // real parts, then imaginary ones
};

// The taps of the weights as rows of factors, (numbers, taps of a phase), in the order of the products: tap i stands on
// the circle where the input of output u is found, from u on.
template <class P>
Array<typename P::C> tap_factors(const Problem& problem, const P& products, bool conjugate) {
  using C = typename P::C;
  const Angles<C> angles(problem.points);
  const int64_t taps = problem.phase_taps;
  Array<C> factors(problem.products() * taps);
  // Windows and tiles lie around the circle's zero with their middles.
  const int64_t first = (problem.tile - 1) / 2 - (problem.window - 1) / 2 - problem.window_first;
  for (int64_t i = 0; i < taps; ++i) {
    for (int64_t k = 0; k < products.singles; ++k) {
      factors[(products.total() + k) * taps + i] = angles.cosine(frequency_of_single(k, problem.points), first + i);
    }
    for (int64_t k = 0; k < products.pairs; ++k) {
      const C real = angles.cosine(frequency_of_pair(k), first + i);
      const C imaginary = angles.sine(frequency_of_pair(k), first + i);
      if constexpr (P::PAIRED) {
        factors[(products.singles + k) * taps + i] = real;
        factors[(products.singles + products.pairs + k) * taps + i] = conjugate ? -imaginary : imaginary;
      } else {
        factors[(products.sum + k) * taps + i] = real;
        factors[(products.a + k) * taps + i] = imaginary - real;
        factors[(products.b + k) * taps + i] = real + imaginary;
      }
    }
  }
  return factors;
}

}  // namespace
}  // namespace ikem::temporal_conv::IKEM_SIMD_LEVEL
