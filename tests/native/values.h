// Random numbers for the programs that run kernels, and the comparison of what they made of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "common/scalar.h"

namespace {

using Values = std::vector<double>;

std::mt19937 generator(0);

Values random_values(int64_t count, double zeros = 0) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  Values values(static_cast<size_t>(count));
  for (double& value : values) {
    value = uniform(generator) < zeros ? 0 : normal(generator);
  }
  return values;
}

bool agree(const char* what, const Values& a, const Values& b, double tolerance = 1e-9) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(std::fabs(a[i] - b[i]) <= tolerance * (1 + std::fabs(a[i])))) {
      std::fprintf(stderr, "%s, element %zu: %.17g and %.17g\n", what, i, a[i], b[i]);
      return false;
    }
  }
  return true;
}

// Rounds the values, too.
template <class S>
std::vector<S> narrowed(Values& values) {
  std::vector<S> result;
  for (double& value : values) {
    result.push_back(ikem::narrow<S>(static_cast<ikem::Compute<S>>(value)));
    value = ikem::widen(result.back());
  }
  return result;
}

template <class S>
Values widened(const std::vector<S>& values) {
  Values result;
  for (const S value : values) {
    result.push_back(ikem::widen(value));
  }
  return result;
}

double largest(const Values& values) {
  double largest = 0;
  for (const double value : values) {
    largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

// Whether errors are at most `tolerance` of the largest number.
bool agree_for_their_size(const char* what, const Values& truth, const Values& values, double tolerance) {
  return agree(what, truth, values, tolerance * largest(truth));
}

}  // namespace
