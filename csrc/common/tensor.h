// Tensors of the stable ABI as kernels want them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <vector>

#include "common/scalar.h"

namespace ikem {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls f(S{}) with the scalar type of the tensor; `name` is the tensor's in the error message.
template <class F>
auto dispatch_floating(const Tensor& tensor, const char* name, F f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    case ScalarType::Half:
      return f(Half{});
    default:
      STD_TORCH_CHECK(false, name, ": expected float32, float64, bfloat16 or float16");
  }
}

// The type that tensors of type `stored` are computed in.
inline ScalarType compute_type(ScalarType stored) {
  return stored == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Copies the strides of the tensor's last five axes.
inline void copy_strides(const Tensor& tensor, int64_t* strides) {
  const auto all = tensor.strides();
  for (int64_t axis = 0; axis < 5; ++axis) {
    strides[axis] = all[all.size() - 5 + axis];
  }
}

// Whether features (..., C, T, V) lie in memory with the channels innermost.
inline bool has_channels_last(const Tensor& x) { return x.size(-3) > 1 && x.stride(-3) == 1 && !x.is_contiguous(); }

// Features of other sizes, (..., C, T, V), whose last three axes lie in memory as those of x do: channels last, or else
// contiguous.
inline Tensor empty_features(const Tensor& x, std::vector<int64_t> sizes) {
  if (!has_channels_last(x)) {
    return torch::stable::new_empty(x, sizes);
  }
  std::vector<int64_t> strides(sizes.size());
  std::rotate(sizes.end() - 3, sizes.end() - 2, sizes.end());  // in the order of memory
  int64_t stride = 1;
  for (size_t axis = sizes.size(); axis-- > 0;) {
    strides[axis] = stride;
    stride *= std::max<int64_t>(sizes[axis], 1);
  }
  for (std::vector<int64_t>* each : {&sizes, &strides}) {
    std::rotate(each->end() - 3, each->end() - 1, each->end());
  }
  // Not a transposed tensor: autograd would take that for a view made within an operation, which nobody may change in
  // place.
  int32_t dtype = 0;
  int32_t device = 0;
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  dtype, device, x.get_device_index(), &made));
  return Tensor(made);
}

}  // namespace ikem
