// Lines of numbers to frequencies and back. Included by cpu.cpp alone.
//
// A line is what one frame holds, all joints and channels, and stays as it is: a transform acts on some lines in a row,
// as a product of matrices. Half of it is spared by taking sums and differences of lines at equal distances from the
// middle first, of which the cosines and the sines each see one.
#pragma once

#include <cmath>

#include "common/planes.h"
#include "temporal_conv/kernel.h"

namespace ikem::temporal_conv::IKEM_SIMD_LEVEL {
namespace {

using namespace ::ikem::IKEM_SIMD_LEVEL;

// Where the factors of the products lie, counted in products: for each pair of frequencies the two parts `a` and `b`
// and their sum, and for the one or two frequencies that are real one number.
struct Places {
  explicit Places(const Problem& problem) : pairs(problem.pairs()), singles(problem.single_frequencies()) {}

  const int64_t pairs, singles;
  const int64_t a = 0, single = pairs, b = pairs + singles, sum = b + pairs;
};

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
template <class C>
class Transform {
 public:
  Transform(const Problem& problem, Side side)
      : places_(problem), side_(side), length_(side == Side::input ? problem.window : problem.tile) {
    const Angles<C> angles(problem.points);
    const bool input = side == Side::input;
    const C scale = input ? C(1) : C(1) / static_cast<C>(problem.points);
    for (int64_t i = 0; i <= half_; ++i) {
      for (int64_t k = 0; k < places_.singles; ++k) {
        cosine(input ? places_.pairs + k : k, i) = scale * angles.cosine(frequency_of_single(k, problem.points), i);
      }
      for (int64_t k = 0; k < places_.pairs; ++k) {
        // Backward `b` is the negative of the real part.
        cosine(input ? k : places_.singles + k, i) =
            (input ? C(1) : C(-2)) * scale * angles.cosine(frequency_of_pair(k), i);
        sine(k, i) = (input ? C(-1) : C(-2)) * scale * angles.sine(frequency_of_pair(k), i);
      }
    }
  }

  // `line(i)` is the i-th line, or null where there are zeros. Products are `product` apart.
  template <class Line>
  void analyze(Line line, int64_t width, C* products, int64_t product) const {
    for (int64_t first = 0; first < width; first += BLOCK) {
      const int64_t now = smaller(BLOCK, width - first);
      fold(line, first, now);
      C* const to = products + first;
      const int64_t cosines = side_ == Side::input ? places_.a : places_.single;
      const int64_t sines = side_ == Side::input ? places_.b : places_.a;
      multiply<C>(places_.pairs + places_.singles, now, half_ + 1, {cosines_, half_ + 1, 1}, even_, BLOCK,
                  to + cosines * product, product, false);
      if (half_ > 0) {
        multiply<C>(places_.pairs, now, half_, {sines_ + 1, half_ + 1, 1}, odd_ + BLOCK, BLOCK, to + sines * product,
                    product, false);
      } else {
        for (int64_t k = 0; k < places_.pairs; ++k) {
          set_zero(to + (sines + k) * product, now);
        }
      }
      for (int64_t k = 0; k < places_.pairs; ++k) {
        const C* const a = to + (places_.a + k) * product;
        const C* const b = to + (places_.b + k) * product;
        C* const sum = to + (places_.sum + k) * product;
        for (int64_t i = 0; i < now; i += L) {
          store(sum + i, side_ == Side::input ? load(a + i) + load(b + i) : load(a + i) - load(b + i));
        }
      }
    }
  }

  // `line(i)` is the i-th line, or null where nobody asks for it; what is made is added to it or takes its place.
  template <class Line>
  void synthesize(const C* products, int64_t product, int64_t width, Line line, bool add) const {
    for (int64_t first = 0; first < width; first += BLOCK) {
      const int64_t now = smaller(BLOCK, width - first);
      combine(products + first, product, now);
      multiply<C>(half_ + 1, now, places_.pairs + places_.singles, {cosines_, 1, half_ + 1}, real_, BLOCK, even_, BLOCK,
                  false);
      multiply<C>(half_, now, places_.pairs, {sines_ + 1, 1, half_ + 1}, imaginary_, BLOCK, odd_ + BLOCK, BLOCK, false);
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

  // The real and the imaginary parts of what the products of matrices make, or of the gradients.
  void combine(const C* products, int64_t product, int64_t now) const {
    const bool output = side_ == Side::output;
    for (int64_t k = 0; k < places_.pairs; ++k) {
      const C* const a = products + (places_.a + k) * product;
      const C* const b = products + (places_.b + k) * product;
      const C* const sum = products + (places_.sum + k) * product;
      C* const real = real_ + (output ? places_.singles + k : k) * BLOCK;
      C* const imaginary = imaginary_ + k * BLOCK;
      for (int64_t i = 0; i < now; i += L) {
        // As a matrix of `output` has it, the real part is negative.
        store(real + i, output ? load(b + i) - load(sum + i) : load(a + i) + load(sum + i));
        store(imaginary + i, output ? load(a + i) + load(sum + i) : load(b + i) + load(sum + i));
      }
    }
    for (int64_t k = 0; k < places_.singles; ++k) {
      memcpy(real_ + (output ? k : places_.pairs + k) * BLOCK, products + (places_.single + k) * product,
             sizeof(C) * static_cast<size_t>(now));
    }
  }

  const Places places_;
  const Side side_;
  const int64_t length_;
  const int64_t half_ = length_ / 2, middle_ = (length_ - 1) / 2;
  const Array<C> cosines_{(places_.pairs + places_.singles) * (half_ + 1)};
  const Array<C> sines_{places_.pairs * (half_ + 1)};
  const Array<C> even_{(half_ + 1) * BLOCK}, odd_{(half_ + 1) * BLOCK};
  const Array<C> real_{(places_.pairs + places_.singles) * BLOCK}, imaginary_{places_.pairs * BLOCK};
};

// The taps of the weights as factors of the products, (products, taps of a phase): tap i stands on the circle where the
// input of output u is found, from u on.
template <class C>
Array<C> tap_factors(const Problem& problem) {
  const Places places(problem);
  const Angles<C> angles(problem.points);
  const int64_t taps = problem.phase_taps;
  Array<C> factors(problem.products() * taps);
  // Windows and tiles lie around the circle's zero with their middles.
  const int64_t first = (problem.tile - 1) / 2 - (problem.window - 1) / 2 - problem.window_first;
  for (int64_t i = 0; i < taps; ++i) {
    for (int64_t k = 0; k < places.singles; ++k) {
      factors[(places.single + k) * taps + i] = angles.cosine(frequency_of_single(k, problem.points), first + i);
    }
    for (int64_t k = 0; k < places.pairs; ++k) {
      const C real = angles.cosine(frequency_of_pair(k), first + i);
      const C imaginary = angles.sine(frequency_of_pair(k), first + i);
      factors[(places.sum + k) * taps + i] = real;
      factors[(places.a + k) * taps + i] = imaginary - real;
      factors[(places.b + k) * taps + i] = real + imaginary;
    }
  }
  return factors;
}

}  // namespace
}  // namespace ikem::temporal_conv::IKEM_SIMD_LEVEL
