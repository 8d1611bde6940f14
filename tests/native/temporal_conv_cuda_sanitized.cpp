// The CUDA kernels of the temporal convolution on the host, over many shapes: what they give in float64, they have to
// give in all dtypes as far as those reach. Meant to be built with -fsanitize=address,undefined; ends with 0 if all
// agree.
#include <algorithm>

#include "temporal_conv_on_host.cpp"
#include "values.h"

namespace {

struct Shape {
  int64_t clips, in, out, frames, joints, taps, stride, dilation, padding;
  bool channels_last;

  int64_t out_frames() const { return (frames + 2 * padding - dilation * (taps - 1) - 1) / stride + 1; }
};

struct Operands {
  Values x, weight, bias, grad_y;

  explicit Operands(const Shape& shape)
      : x(random_values(shape.clips * shape.in * shape.frames * shape.joints)),
        weight(random_values(shape.out * shape.in * shape.taps)),
        bias(random_values(shape.out)),
        grad_y(random_values(shape.clips * shape.out * shape.out_frames() * shape.joints)) {}
};

template <class S>
std::vector<S> rounded(const Values& values) {
  std::vector<S> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(),
                 [](double value) { return ikem::narrow<S>(static_cast<Compute<S>>(value)); });
  return result;
}

std::vector<int64_t> strides_of(int64_t channels, int64_t frames, const Shape& shape) {
  const int64_t joints = shape.joints, clip = channels * frames * joints;
  return shape.channels_last ? std::vector<int64_t>{clip, 1, joints * channels, channels}
                             : std::vector<int64_t>{clip, frames * joints, joints, 1};
}

// The output, and the gradients of x, weight and bias; none where the kernels refuse.
template <class S>
std::vector<Values> run(const Shape& shape, const Operands& operands, int dtype, bool allow_tf32) {
  const auto x = rounded<S>(operands.x), weight = rounded<S>(operands.weight), bias = rounded<S>(operands.bias);
  const auto grad_y = rounded<S>(operands.grad_y);
  auto y = grad_y, grad_x = x, grad_weight = weight, grad_bias = bias;
  const std::vector<int64_t> x_strides = strides_of(shape.in, shape.frames, shape);
  const std::vector<int64_t> y_strides = strides_of(shape.out, shape.out_frames(), shape);
  const int64_t weight_strides[] = {shape.in * shape.taps, shape.taps, 1};
  const Arguments arguments{shape.clips,        shape.in,      shape.out,        shape.frames,
                            shape.out_frames(), shape.joints,  shape.taps,       shape.stride,
                            shape.dilation,     shape.padding, allow_tf32,       x.data(),
                            weight.data(),      bias.data(),   x_strides.data(), weight_strides};
  const char* error = temporal_conv_forward(dtype, &arguments, y.data(), y_strides.data());
  if (error == nullptr) {
    error = temporal_conv_backward(dtype, &arguments, grad_y.data(), y_strides.data(), grad_x.data(),
                                   grad_weight.data(), grad_bias.data());
  }
  if (error != nullptr) {
    std::fprintf(stderr, "%s\n", error);
    return {};
  }
  return {widened(y), widened(grad_x), widened(grad_weight), widened(grad_bias)};
}

// To a part of the largest value.
bool agree(const std::vector<Values>& truth, const std::vector<Values>& found, double tolerance) {
  bool good = truth.size() == 4 && found.size() == 4;
  for (size_t i = 0; good && i < truth.size(); ++i) {
    double largest = 0;
    for (const double value : truth[i]) {
      largest = std::fmax(largest, std::fabs(value));
    }
    Values scaled[] = {truth[i], found[i]};
    for (Values& values : scaled) {
      for (double& value : values) {
        value *= 1e-9 / (tolerance * largest);
      }
    }
    const char* names[] = {"y", "gradient of x", "gradient of weight", "gradient of bias"};
    good = agree(names[i], scaled[0], scaled[1]);
  }
  return good;
}

bool check(const Shape& shape) {
  const Operands operands(shape);
  const std::vector<Values> truth = run<double>(shape, operands, 1, false);
  return agree(truth, run<float>(shape, operands, 0, false), 1e-5) &&
         agree(truth, run<float>(shape, operands, 0, true), 1e-2) &&
         agree(truth, run<ikem::BFloat16>(shape, operands, 2, false), 5e-2) &&
         agree(truth, run<ikem::Half>(shape, operands, 3, false), 1e-2);
}

}  // namespace

int main() {
  for (const Shape& shape : {
           Shape{2, 3, 5, 9, 4, 11, 1, 1, 5, false},
           Shape{1, 17, 70, 7, 3, 3, 2, 1, 1, true},
           Shape{1, 40, 20, 12, 5, 5, 1, 2, 4, true},
           Shape{1, 2, 33, 14, 1, 3, 2, 3, 3, false},
           Shape{2, 5, 1, 6, 2, 1, 2, 1, 1, false},
           Shape{1, 2, 3, 2, 260, 2, 1, 1, 0, false},
       }) {
    if (!check(shape)) {
      std::fprintf(stderr, "%lld to %lld channels, %lld taps\n", static_cast<long long>(shape.in),
                   static_cast<long long>(shape.out), static_cast<long long>(shape.taps));
      return 1;
    }
  }
  return 0;
}
