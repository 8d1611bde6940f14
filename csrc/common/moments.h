// Means and variances of channels, as batch norm needs them, and the sums that its gradient needs, made part by part.
#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace ikem {

// Of each part of the positions and each channel the mean, and the sum of the squared deviations from it: both (parts,
// channels). Without data: not asked for.
template <class C>
struct PartialMoments {
  C *means = nullptr, *squares = nullptr;

  IKEM_INLINE bool wanted() const { return means != nullptr; }
  IKEM_INLINE PartialMoments at(int64_t part, int64_t channels) const {
    return {means + part * channels, squares + part * channels};
  }
};

// Mean and biased variance of each channel; `count(part)` is how many positions a part has. The parts are merged in
// their order (Chan et al., "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979).
template <class C, class Count>
void merge_moments(const PartialMoments<C>& partial, int64_t parts, int64_t channels, Count count, C* mean,
                   C* variance) {
  for (int64_t c = 0; c < channels; ++c) {
    double total = 0, middle = 0, square = 0;
    for (int64_t part = 0; part < parts; ++part) {
      const double more = static_cast<double>(count(part));
      const double off = partial.means[part * channels + c] - middle;
      square += partial.squares[part * channels + c] + off * off * total * more / (total + more);
      total += more;
      middle += off * more / total;
    }
    mean[c] = static_cast<C>(middle);
    variance[c] = static_cast<C>(total > 0 ? square / total : 0);
  }
}

// Mean, sum of squared deviations from it, and number of some values.
template <class C>
struct Moments {
  C mean, squares, count;
};

// Of both together (Chan et al., as above).
template <class C>
IKEM_INLINE Moments<C> merged(const Moments<C>& a, const Moments<C>& b) {
  const C count = a.count + b.count;
  const C share = count > 0 ? b.count / count : C(0);
  const C off = b.mean - a.mean;
  return {a.mean + off * share, a.squares + b.squares + off * off * a.count * share, count};
}

// For CUDA: where the means and variances of channels go, (groups, 2, channels), and room for the moments of the parts
// that they are merged from, (groups, channels, parts). Without data: not asked for.
template <class C>
struct WantedMoments {
  C* result = nullptr;
  Moments<C>* parts = nullptr;
};

// Sums over some values of a channel: of the gradient at the normalized x, and of its product with x - mean.
template <class C>
struct PartialGradientSums {
  C of_gradient, of_product;
};

}  // namespace ikem
