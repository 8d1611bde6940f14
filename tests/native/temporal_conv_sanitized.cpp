// The kernels of the temporal convolution over many shapes against the formula written out. Meant to be built with
// -fsanitize=address,undefined; ends with 0 if all agree.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include "pairs.h"
#include "temporal_conv/kernel.h"
#include "values.h"

using namespace ikem;
using namespace ikem::temporal_conv;

namespace {

struct Shape {
  int64_t clips, in, out, frames, joints, taps, stride, dilation, padding;
  bool channels_last;
};

// Instead of the size of tiles: the sum over taps, or in tile registers.
constexpr int64_t DIRECT = 0, TILED = -1;

// The problem in tiles of a size, in the plainest way: no place of a window is left out.
Problem problem_of(const Shape& shape, int64_t tile, bool paired) {
  Problem problem{};
  problem.clips = shape.clips;
  problem.in_channels = shape.in;
  problem.out_channels = shape.out;
  problem.frames = shape.frames;
  problem.joints = shape.joints;
  problem.taps = shape.taps;
  problem.stride = shape.stride;
  problem.dilation = shape.dilation;
  problem.padding = shape.padding;
  problem.out_frames = (shape.frames + 2 * shape.padding - shape.dilation * (shape.taps - 1) - 1) / shape.stride + 1;
  problem.paired = paired;
  if (tile == DIRECT || tile == TILED) {
    problem.direct = true;
    problem.tiled = tile == TILED;
    problem.classes = problem.phases = 1;
    problem.clips_at_once = problem.tiled ? 2 : 1;
    problem.phase_taps = shape.taps;
    return problem;
  }
  const int64_t divisor = std::gcd(shape.stride, shape.dilation);
  problem.classes = shape.dilation / divisor;
  problem.phases = std::min(shape.stride / divisor, shape.taps);
  problem.frame_step = shape.stride * problem.classes;
  problem.phase_taps = (shape.taps + problem.phases - 1) / problem.phases;
  problem.tile = tile;
  problem.tiles = ((problem.out_frames + problem.classes - 1) / problem.classes + tile - 1) / tile;
  problem.window = problem.points = tile + problem.phase_taps - 1;
  problem.clips_at_once = 2;
  return problem;
}

template <class S>
Strided<S, 4> features(S* data, int64_t channels, int64_t frames, int64_t joints, bool channels_last) {
  const int64_t clip = channels * frames * joints;
  return channels_last ? Strided<S, 4>{data, {clip, 1, joints * channels, channels}}
                       : Strided<S, 4>{data, {clip, frames * joints, joints, 1}};
}

// What the kernels make for a norm behind y, and a norm before x needs, against what they are of.
template <class C>
bool agree_moments(const Values& y, const PartialMoments<C>& moments, const Problem& problem, bool channels_last,
                   double tolerance) {
  const int64_t positions = problem.out_frames * problem.joints, channels = problem.out_channels;
  Values means(static_cast<size_t>(problem.clips * channels)), squares(means.size());
  const auto at = [&](int64_t part, int64_t i) {
    const int64_t n = part / channels, c = part % channels;
    return y[n * channels * positions + (channels_last ? i * channels + c : c * positions + i)];
  };
  for (int64_t part = 0; part < problem.clips * channels; ++part) {
    for (int64_t i = 0; i < positions; ++i) {
      means[part] += at(part, i) / static_cast<double>(positions);
    }
    for (int64_t i = 0; i < positions; ++i) {
      squares[part] += (at(part, i) - means[part]) * (at(part, i) - means[part]);
    }
  }
  const double size = largest(y);
  return agree("means", means, Values(moments.means, moments.means + means.size()), tolerance * size) &&
         agree("squares", squares, Values(moments.squares, moments.squares + squares.size()),
               tolerance * size * size * static_cast<double>(positions));
}

template <class S>
bool check(const Shape& shape, int64_t tile, bool normed, double tolerance) {
  using C = Compute<S>;
  const Problem problem = problem_of(shape, tile, std::is_same_v<S, BFloat16>);
  const auto [clips, in, out, frames, joints, taps, stride, dilation, padding, last] = shape;
  Values x = random_values(clips * in * frames * joints), weight = random_values(out * in * taps);
  Values bias = random_values(out), grad_y = random_values(clips * out * problem.out_frames * joints);
  Values mean = random_values(in), scale = random_values(in), shift = random_values(in);
  const std::vector<S> given_x = narrowed<S>(x), given_weight = narrowed<S>(weight), given_bias = narrowed<S>(bias);
  const std::vector<S> given_grad_y = narrowed<S>(grad_y);
  const std::vector<C> given_mean = narrowed<C>(mean), given_scale = narrowed<C>(scale),
                       given_shift = narrowed<C>(shift);
  const Norm<C> norm = normed ? Norm<C>{given_mean.data(), given_scale.data(), given_shift.data()} : Norm<C>{};
  const auto x_view = features(given_x.data(), in, frames, joints, last);
  const auto y_view = features(given_grad_y.data(), out, problem.out_frames, joints, last);
  const Strided<const S, 3> weight_view{given_weight.data(), {in * taps, taps, 1}};
  std::vector<S> made_y(grad_y.size()), made_grad_x(x.size()), made_grad_weight(weight.size());

  std::vector<C> spectrum(static_cast<size_t>(spectrum_size(problem, in, out)));
  plain::transform_weight<S>(problem, weight_view, false, spectrum.data(), 0, in);
  std::vector<C> means(static_cast<size_t>(clips * out)), squares(means.size());
  const PartialMoments<C> moments{means.data(), squares.data()};
  plain::forward<S>(problem, x_view, norm, spectrum.data(), given_bias.data(),
                    features(made_y.data(), out, problem.out_frames, joints, last), moments, 0,
                    (clips + problem.clips_at_once - 1) / problem.clips_at_once);

  std::vector<C> back(static_cast<size_t>(spectrum_size(problem, out, in)));
  plain::transform_weight<S>(problem, weight_view, true, back.data(), 0, out);
  const int64_t chunks = (clips + 1) / 2;
  std::vector<C> weights(static_cast<size_t>(gradient_size(problem) * chunks));
  std::vector<C> biases(static_cast<size_t>(padded_channels(out) * chunks));
  std::vector<C> norm_sums(static_cast<size_t>(chunks * in)), norm_products(norm_sums.size());
  const Gradients<S> gradients{features(made_grad_x.data(), in, frames, joints, last), weights.data(), biases.data(),
                               normed ? norm_sums.data() : nullptr, norm_products.data()};
  plain::backward<S>(problem, x_view, norm, y_view, back.data(), gradients, chunks, 0, chunks);
  plain::finish_weight<S>(problem, weights.data(), chunks, made_grad_weight.data(), 0, in);
  const Values y = widened(made_y), grad_x = widened(made_grad_x), grad_weight = widened(made_grad_weight);
  Values grad_bias(bias.size());
  for (int64_t i = 0; i < chunks; ++i) {
    for (int64_t o = 0; o < out; ++o) {
      grad_bias[o] += biases[i * padded_channels(out) + o];
    }
  }

  Values seen(x.size()), true_norm_sums(static_cast<size_t>(in)), true_norm_products(static_cast<size_t>(in));
  Values true_y(y.size()), true_grad_x(grad_x.size()), true_grad_weight(weight.size()), true_grad_bias(bias.size());
  const auto at = [](const auto& view, int64_t n, int64_t c, int64_t t, int64_t v) {
    return n * view.strides[0] + c * view.strides[1] + t * view.strides[2] + v * view.strides[3];
  };
  const auto for_each_input = [&](auto f) {
    for (int64_t n = 0; n < clips; ++n) {
      for (int64_t c = 0; c < in; ++c) {
        for (int64_t i = 0; i < frames * joints; ++i) {
          f(c, at(x_view, n, c, i / joints, i % joints));
        }
      }
    }
  };
  for_each_input(
      [&](int64_t c, int64_t i) { seen[i] = normed ? std::max(0.0, (x[i] - mean[c]) * scale[c] + shift[c]) : x[i]; });
  // Where terms of either sign cancel, what a sum is off by goes with their sizes.
  Values weight_sizes(true_grad_weight.size());
  for (int64_t n = 0; n < clips; ++n) {
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t t = 0; t < problem.out_frames; ++t) {
        for (int64_t v = 0; v < joints; ++v) {
          const int64_t here = at(y_view, n, o, t, v);
          true_y[here] += bias[o];
          true_grad_bias[o] += grad_y[here];
          for (int64_t k = 0; k < taps; ++k) {
            const int64_t frame = stride * t + dilation * k - padding;
            for (int64_t c = 0; c < in && frame >= 0 && frame < frames; ++c) {
              const int64_t there = at(x_view, n, c, frame, v), w = (o * in + c) * taps + k;
              true_y[here] += weight[w] * seen[there];
              true_grad_x[there] += weight[w] * grad_y[here];
              true_grad_weight[w] += seen[there] * grad_y[here];
              weight_sizes[w] += std::fabs(seen[there] * grad_y[here]);
            }
          }
        }
      }
    }
  }
  if (normed) {
    Values sum_sizes(true_norm_sums.size()), product_sizes(true_norm_products.size());
    for_each_input([&](int64_t c, int64_t i) {
      true_grad_x[i] = seen[i] > 0 ? true_grad_x[i] : 0;
      true_norm_sums[c] += true_grad_x[i];
      true_norm_products[c] += true_grad_x[i] * (x[i] - mean[c]);
      sum_sizes[c] += std::fabs(true_grad_x[i]);
      product_sizes[c] += std::fabs(true_grad_x[i] * (x[i] - mean[c]));
    });
    for (int64_t i = in; i < chunks * in; ++i) {
      norm_sums[i % in] += norm_sums[i];
      norm_products[i % in] += norm_products[i];
    }
    norm_sums.resize(static_cast<size_t>(in));
    norm_products.resize(static_cast<size_t>(in));
    if (!agree("sums for the norm", true_norm_sums, widened(norm_sums), tolerance * largest(sum_sizes)) ||
        !agree("products for the norm", true_norm_products, widened(norm_products),
               tolerance * largest(product_sizes))) {
      return false;
    }
  }
  return agree_moments(y, moments, problem, last, tolerance) && agree_for_their_size("y", true_y, y, tolerance) &&
         agree_for_their_size("gradient of x", true_grad_x, grad_x, tolerance) &&
         agree("gradient of weight", true_grad_weight, grad_weight, tolerance * largest(weight_sizes)) &&
         agree_for_their_size("gradient of bias", true_grad_bias, grad_bias, tolerance);
}

}  // namespace

int main() {
  const bool pairs = multiplies_pairs();
  for (const Shape& shape : {
           Shape{3, 3, 5, 13, 4, 9, 1, 1, 4, false},
           Shape{2, 16, 18, 7, 3, 9, 2, 1, 4, true},
           Shape{3, 18, 16, 12, 5, 5, 1, 2, 4, true},
           Shape{1, 2, 33, 20, 1, 3, 2, 3, 3, false},
           Shape{2, 4, 4, 9, 2, 4, 3, 2, 0, true},
           Shape{2, 5, 1, 6, 2, 1, 2, 1, 1, false},
           Shape{3, 35, 34, 5, 34, 3, 2, 1, 1, true},
           Shape{2, 1, 20, 2, 3, 2, 1, 1, 5, true},
           Shape{2, 16, 5, 8, 3, 2, 2, 1, 0, false},
       }) {
    for (const int64_t tile : {TILED, DIRECT, int64_t{1}, int64_t{4}, int64_t{7}}) {
      for (const bool normed : {false, true}) {
        if ((tile != TILED && !check<double>(shape, tile, normed, 1e-9)) ||
            (pairs && !check<BFloat16>(shape, tile, normed, 0.02))) {
          std::fprintf(stderr, "%lld to %lld channels, tiles of %lld\n", static_cast<long long>(shape.in),
                       static_cast<long long>(shape.out), static_cast<long long>(tile));
          return 1;
        }
      }
    }
  }
  return 0;
}
