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
  Values norm_weight, norm_bias, norm_mean, norm_variance;

  explicit Operands(const Shape& shape)
      : x(random_values(shape.clips * shape.in * shape.frames * shape.joints)),
        weight(random_values(shape.out * shape.in * shape.taps)),
        bias(random_values(shape.out)),
        grad_y(random_values(shape.clips * shape.out * shape.out_frames() * shape.joints)),
        norm_weight(random_values(shape.in)),
        norm_bias(random_values(shape.in)),
        norm_mean(random_values(shape.in)),
        norm_variance(random_values(shape.in)) {
    for (double& value : norm_variance) {
      value = value * value + 0.1;
    }
    // In no dtype another side of the ReLU.
    for (Values* values : {&x, &norm_weight, &norm_bias, &norm_mean, &norm_variance}) {
      narrowed<ikem::BFloat16>(*values);
    }
  }
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

const char* const NAMES[] = {"y",
                             "gradient of x",
                             "gradient of weight",
                             "gradient of bias",
                             "moments",
                             "gradient of the norm's weight",
                             "gradient of the norm's bias"};

// The output, the gradients of x, weight and bias, the moments of the output and, with a norm, the gradients of its
// weight and bias; none where the kernels refuse.
template <class S>
std::vector<Values> run(const Shape& shape, const Operands& operands, int dtype, bool allow_tf32, bool norm) {
  using C = Compute<S>;
  const auto x = rounded<S>(operands.x), weight = rounded<S>(operands.weight), bias = rounded<S>(operands.bias);
  const auto grad_y = rounded<S>(operands.grad_y);
  const auto norm_weight = rounded<C>(operands.norm_weight), norm_bias = rounded<C>(operands.norm_bias);
  const auto norm_mean = rounded<C>(operands.norm_mean), norm_variance = rounded<C>(operands.norm_variance);
  auto y = grad_y, grad_x = x, grad_weight = weight, grad_bias = bias;
  auto grad_norm_weight = norm_weight, grad_norm_bias = norm_bias;
  std::vector<C> moments(static_cast<size_t>(2 * shape.out));
  const std::vector<int64_t> x_strides = strides_of(shape.in, shape.frames, shape);
  const std::vector<int64_t> y_strides = strides_of(shape.out, shape.out_frames(), shape);
  const int64_t weight_strides[] = {shape.in * shape.taps, shape.taps, 1};
  Arguments arguments{};
  arguments.clips = shape.clips;
  arguments.in_channels = shape.in;
  arguments.out_channels = shape.out;
  arguments.frames = shape.frames;
  arguments.out_frames = shape.out_frames();
  arguments.joints = shape.joints;
  arguments.taps = shape.taps;
  arguments.stride = shape.stride;
  arguments.dilation = shape.dilation;
  arguments.padding = shape.padding;
  arguments.allow_tf32 = allow_tf32;
  arguments.channels_last = shape.channels_last;
  arguments.training = 1;
  arguments.eps = 1e-5;
  arguments.x = x.data();
  arguments.weight = weight.data();
  arguments.bias = bias.data();
  arguments.x_strides = x_strides.data();
  arguments.weight_strides = weight_strides;
  if (norm) {
    arguments.norm_weight = norm_weight.data();
    arguments.norm_bias = norm_bias.data();
    arguments.norm_mean = norm_mean.data();
    arguments.norm_variance = norm_variance.data();
  }
  const char* error = temporal_conv_forward(dtype, &arguments, y.data(), y_strides.data(), moments.data());
  if (error == nullptr) {
    error =
        temporal_conv_backward(dtype, &arguments, grad_y.data(), y_strides.data(), grad_x.data(), grad_weight.data(),
                               grad_bias.data(), grad_norm_weight.data(), grad_norm_bias.data());
  }
  if (error != nullptr) {
    std::fprintf(stderr, "%s\n", error);
    return {};
  }
  std::vector<Values> results{widened(y), widened(grad_x), widened(grad_weight), widened(grad_bias), widened(moments)};
  if (norm) {
    results.push_back(widened(grad_norm_weight));
    results.push_back(widened(grad_norm_bias));
  }
  return results;
}

// To a part of the largest value.
bool agree(const std::vector<Values>& truth, const std::vector<Values>& found, double tolerance) {
  bool good = truth.size() >= 5 && found.size() == truth.size();
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
    good = agree(NAMES[i], scaled[0], scaled[1]);
  }
  return good;
}

bool check(const Shape& shape) {
  bool good = true;
  for (const bool norm : {false, true}) {
    const Operands operands(shape);
    const std::vector<Values> truth = run<double>(shape, operands, 1, false, norm);
    good = good && agree(truth, run<float>(shape, operands, 0, false, norm), 1e-5) &&
           agree(truth, run<float>(shape, operands, 0, true, norm), 1e-2) &&
           agree(truth, run<ikem::BFloat16>(shape, operands, 2, false, norm), 5e-2) &&
           agree(truth, run<ikem::Half>(shape, operands, 3, false, norm), 1e-2);
  }
  return good;
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
