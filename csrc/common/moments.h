// Means and variances of channels, as batch norm needs them, merged from those of parts.
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

}  // namespace ikem
