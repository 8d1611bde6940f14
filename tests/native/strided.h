// Tensors as they come from Python: data, which may be null, and strides.
#pragma once

#include <cstring>

#include "common/strided.h"

namespace {

template <int AXES, class S, class Data>
ikem::Strided<S, AXES> strided(Data* data, const int64_t* strides) {
  ikem::Strided<S, AXES> result{static_cast<S*>(data), {}};
  if (data != nullptr) {
    std::memcpy(result.strides, strides, sizeof(result.strides));
  }
  return result;
}

}  // namespace
