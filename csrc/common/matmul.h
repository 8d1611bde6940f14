// Products of matrices by PyTorch, from kernels that hold pointers. Inside torch::stable::parallel_for each call
// runs on the thread that makes it.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <type_traits>

namespace ikem {

template <class C>
struct Matrix {
  C* data;
  int64_t rows, columns, row_stride, column_stride;

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
  operator Matrix<const C>() const { return {data, rows, columns, row_stride, column_stride}; }
};

template <class C>
Matrix<C> contiguous_matrix(C* data, int64_t rows, int64_t columns) {
  return {data, rows, columns, columns, 1};
}

// out = a b, or out += a b.
template <class C>
void multiply(Matrix<C> out, std::type_identity_t<Matrix<const C>> a, std::type_identity_t<Matrix<const C>> b,
              bool accumulate) {
  const auto tensor = [](const auto& matrix) {
    const int64_t sizes[] = {matrix.rows, matrix.columns};
    const int64_t strides[] = {matrix.row_stride, matrix.column_stride};
    return torch::stable::from_blob(
        const_cast<C*>(matrix.data), {sizes, 2}, {strides, 2},
        torch::stable::Device(torch::headeronly::DeviceType::CPU),
        std::is_same_v<C, double> ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float);
  };
  const auto out_tensor = tensor(out), a_tensor = tensor(a), b_tensor = tensor(b);
  if (accumulate) {
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_cpu_addmm_out(out_tensor.get(), out_tensor.get(), a_tensor.get(), b_tensor.get(), 1.0, 1.0));
  } else {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out_tensor.get(), a_tensor.get(), b_tensor.get()));
  }
}

}  // namespace ikem
