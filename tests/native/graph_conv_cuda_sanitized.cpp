// The CUDA kernels of the graph convolution on the host, in all dtypes, over many shapes: what the two orders of
// summing give has to agree. Meant to be built with -fsanitize=address,undefined; ends with 0 if all agree.
#include <cstdio>
#include <random>
#include <string>

#include "graph_conv_on_host.cpp"

namespace {

std::mt19937 generator(0);

template <class S>
using Values = std::vector<S>;

template <class S>
Values<S> random_values(int64_t count, double zeros = 0) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  Values<S> values(static_cast<size_t>(count));
  for (S& value : values) {
    value = ikem::narrow<S>(static_cast<Compute<S>>(uniform(generator) < zeros ? 0 : normal(generator)));
  }
  return values;
}

// Agreement to a part of the largest value.
template <class S>
bool agree(const std::string& what, const Values<S>& a, const Values<S>& b, double tolerance) {
  double largest = 0;
  for (const S& value : a) {
    largest = std::fmax(largest, std::fabs(static_cast<double>(ikem::widen(value))));
  }
  for (size_t i = 0; i < a.size(); ++i) {
    const double left = ikem::widen(a[i]), right = ikem::widen(b[i]);
    if (!(std::fabs(left - right) <= tolerance * largest)) {
      std::fprintf(stderr, "%s, element %zu: %.9g and %.9g\n", what.c_str(), i, left, right);
      return false;
    }
  }
  return true;
}

struct Shape {
  int64_t clips, in, out, frames, joints, out_joints, parts;
  bool per_clip, per_channel, channels_last;
};

template <class S>
bool check(const Shape& shape, int dtype, bool allow_tf32, double tolerance) {
  const auto [clips, in, out, frames, joints, out_joints, parts, per_clip, per_channel, last] = shape;
  const int64_t matrix = joints * out_joints;
  const int64_t part = (per_channel ? out : 1) * matrix;
  const auto strides = [&](int64_t channels, int64_t across) {
    const int64_t clip = channels * frames * across;
    return last ? std::vector<int64_t>{0, clip, 1, across * channels, channels}
                : std::vector<int64_t>{0, clip, frames * across, across, 1};
  };
  const std::vector<int64_t> x_strides = strides(in, joints), y_strides = strides(out, out_joints);
  const int64_t weight_strides[] = {0, out * in, in, 1}, bias_strides[] = {0, out, 1};
  const int64_t adjacency_strides[] = {0, per_clip ? parts * part : 0, part, per_channel ? matrix : 0, out_joints, 1};
  const auto x = random_values<S>(clips * in * frames * joints);
  const auto weight = random_values<S>(parts * out * in);
  const auto bias = random_values<S>(parts * out);
  const auto adjacency = random_values<S>((per_clip ? clips : 1) * parts * part, 0.6);
  const auto grad_y = random_values<S>(clips * out * frames * out_joints);

  Values<S> results[2][5];
  Values<Compute<S>> moments[2];
  for (int64_t transform_first = per_channel ? 1 : 0; transform_first < 2; ++transform_first) {
    const Arguments arguments{1,
                              clips,
                              parts,
                              in,
                              out,
                              frames,
                              joints,
                              out_joints,
                              per_clip,
                              per_channel,
                              transform_first,
                              allow_tf32,
                              x.data(),
                              weight.data(),
                              bias.data(),
                              adjacency.data(),
                              x_strides.data(),
                              weight_strides,
                              bias_strides,
                              adjacency_strides};
    auto& [y, grad_x, grad_weight, grad_bias, grad_adjacency] = results[transform_first];
    y = grad_y;
    grad_x = x;
    grad_weight = weight;
    grad_bias = bias;
    grad_adjacency = adjacency;
    moments[transform_first].resize(2 * out);
    const char* error =
        graph_conv_forward(dtype, &arguments, y.data(), y_strides.data(), moments[transform_first].data());
    if (error == nullptr) {
      error = graph_conv_backward(dtype, &arguments, grad_y.data(), y_strides.data(), grad_x.data(), grad_weight.data(),
                                  grad_bias.data(), grad_adjacency.data());
    }
    if (error != nullptr) {
      std::fprintf(stderr, "%s\n", error);
      return false;
    }
  }
  bool good = true;
  const char* names[] = {"y", "gradient of x", "gradient of weight", "gradient of bias", "gradient of adjacency"};
  for (int i = 0; i < 5; ++i) {
    good = good && agree(names[i], results[per_channel ? 1 : 0][i], results[1][i], tolerance);
  }
  return good && agree("moments", moments[per_channel ? 1 : 0], moments[1], tolerance);
}

bool check_dtypes(const Shape& shape) {
  return check<float>(shape, 0, false, 1e-5) && check<float>(shape, 0, true, 1e-2) &&
         check<double>(shape, 1, false, 1e-12) && check<ikem::BFloat16>(shape, 2, false, 5e-2) &&
         check<ikem::Half>(shape, 3, false, 1e-2);
}

}  // namespace

int main() {
  bool good = true;
  for (const bool channels_last : {false, true}) {
    for (int per = 0; per < 3; ++per) {
      good = good && check_dtypes({2, 3, 17, 2, 5, 7, 3, per > 0, per > 1, channels_last});
      good = good && check_dtypes({1, 40, 3, 9, 25, 3, 1, per > 0, per > 1, channels_last});
    }
  }
  good = good && check_dtypes({1, 3, 2, 1, 131, 34, 2, false, false, false});
  good = good && check_dtypes({1, 2, 33, 1, 3, 131, 4, false, false, false});
  return good ? 0 : 1;
}
