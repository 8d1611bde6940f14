// The kernels of batch norm, for the CPU and (on the host) for CUDA, over many shapes and against each other. Meant to
// be built with -fsanitize=address,undefined; ends with 0 if all agree.
#include "batch_norm_on_host.cpp"
#include "values.h"

namespace {

constexpr int FLOAT64 = 1;  // among the dtypes of scalars.h
constexpr double EPS = 1e-5;

struct Shape {
  Layout layout;
  bool residual, relu, bytes;  // bytes: they tell what went through the ReLU
  double dropout;
  int64_t shift = 0;  // where x starts: one element on, no pack may
};

// What both passes make of the same numbers.
struct Results {
  Values y, mean, variance, grad_x, grad_weight, grad_bias, grad_residual;

  explicit Results(const Shape& shape)
      : y(numel(shape)), mean(channels(shape)), variance(mean), grad_x(y), grad_weight(mean), grad_bias(mean) {
    grad_residual.resize(shape.residual ? numel(shape) : 0);
  }

  double* residual() { return grad_residual.empty() ? nullptr : grad_residual.data(); }

 private:
  static size_t numel(const Shape& shape) { return static_cast<size_t>(shape.layout.numel()); }
  static size_t channels(const Shape& shape) { return static_cast<size_t>(shape.layout.channels); }
};

std::vector<int8_t> positive(const Values& y) {
  std::vector<int8_t> bytes;
  for (const double value : y) {
    bytes.push_back(value > 0);
  }
  return bytes;
}

Results on_cpu(const Shape& shape, const Arguments& a, const Values& grad_y) {
  using namespace ikem::batch_norm::IKEM_SIMD_LEVEL;
  const Layout& layout = shape.layout;
  const size_t channels = static_cast<size_t>(layout.channels);
  const double count = static_cast<double>(layout.per_channel());
  const Chunks whole{1, layout.outer};
  Results results(shape);
  moments(layout, data<double>(a.x), whole, 0, 1, results.mean.data(), results.variance.data());
  Values scale(channels), by_x(channels), constant(channels);
  const auto* weight = data<double>(a.weight);
  for (size_t c = 0; c < channels; ++c) {
    results.variance[c] /= count;
    scale[c] = weight[c] * inverse_deviation(results.variance[c], EPS);
  }
  Dropout dropout = dropout_of(a);
  dropout.seed = *dropout.seed_memory;
  const Forward<double> forward_pass{
      layout,  data<double>(a.x), data<double>(a.residual), results.mean.data(), scale.data(), data<double>(a.bias),
      dropout, shape.relu,        results.y.data()};
  forward(forward_pass, 0, layout.outer);
  const std::vector<int8_t> bytes = positive(results.y);
  const Backward<double> pass{layout,
                              grad_y.data(),
                              shape.relu && !shape.bytes ? results.y.data() : nullptr,
                              shape.relu && shape.bytes ? bytes.data() : nullptr,
                              data<double>(a.x),
                              results.mean.data(),
                              dropout};
  gradient_sums(pass, whole, 0, 1, results.grad_bias.data(), results.grad_weight.data(), results.residual());
  for (size_t c = 0; c < channels; ++c) {
    const double inverse = inverse_deviation(results.variance[c], EPS);
    by_x[c] = -scale[c] * inverse * inverse * results.grad_weight[c] / count;
    constant[c] = -scale[c] * results.grad_bias[c] / count;
    results.grad_weight[c] *= inverse;
  }
  gradient(pass, Coefficients<double>{scale.data(), by_x.data(), constant.data()}, results.grad_x.data(), 0,
           layout.outer);
  return results;
}

Results on_cuda(const Shape& shape, Arguments a, const Values& grad_y) {
  Results results(shape);
  const char* error = batch_norm_forward(FLOAT64, &a, results.y.data(), results.mean.data(), results.variance.data());
  const std::vector<int8_t> bytes = positive(results.y);
  a.mean = results.mean.data();
  a.variance = results.variance.data();
  if (error == nullptr) {
    error = batch_norm_backward(FLOAT64, &a, grad_y.data(), shape.relu && !shape.bytes ? results.y.data() : nullptr,
                                shape.relu && shape.bytes ? bytes.data() : nullptr, results.grad_x.data(),
                                results.grad_weight.data(), results.grad_bias.data(), results.residual());
  }
  if (error != nullptr) {
    std::fprintf(stderr, "%s\n", error);
    std::exit(1);
  }
  return results;
}

bool check(const Shape& shape) {
  const auto& [outer, channels, inner] = shape.layout;
  const int64_t numel = shape.layout.numel();
  const Values x = random_values(shape.shift + numel), residual = random_values(numel), grad_y = random_values(numel);
  const Values weight = random_values(channels), bias = random_values(channels);
  const Arguments arguments{outer,
                            channels,
                            inner,
                            1,
                            shape.relu,
                            -1234567890123,
                            shape.dropout,
                            EPS,
                            x.data() + shape.shift,
                            weight.data(),
                            bias.data(),
                            nullptr,
                            nullptr,
                            shape.residual ? residual.data() : nullptr};
  const Results cpu = on_cpu(shape, arguments, grad_y), cuda = on_cuda(shape, arguments, grad_y);
  const bool good = agree("y", cpu.y, cuda.y) && agree("mean", cpu.mean, cuda.mean) &&
                    agree("variance", cpu.variance, cuda.variance) && agree("grad_x", cpu.grad_x, cuda.grad_x) &&
                    agree("grad_weight", cpu.grad_weight, cuda.grad_weight) &&
                    agree("grad_bias", cpu.grad_bias, cuda.grad_bias) &&
                    agree("grad_residual", cpu.grad_residual, cuda.grad_residual);
  if (!good) {
    std::fprintf(stderr, "with %ld by %ld by %ld\n", static_cast<long>(outer), static_cast<long>(channels),
                 static_cast<long>(inner));
  }
  return good;
}

}  // namespace

int main() {
  bool good = true;
  for (const Layout& layout : {Layout{40, 3, 1}, Layout{90, 16, 1}, Layout{7, 514, 1}, Layout{2500, 2, 1},
                               Layout{3, 4, 35}, Layout{2, 5, 16}, Layout{5, 3, 1}, Layout{9, 2, 625}}) {
    good = check({layout, true, true, false, 0.3}) && good;
    good = check({layout, false, true, true, 0}) && good;
    good = check({layout, false, false, false, 0.5, 1}) && good;
  }
  return good ? 0 : 1;
}
