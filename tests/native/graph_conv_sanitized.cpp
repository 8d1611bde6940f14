// The kernels of the graph convolution over many shapes: both orders of summing against the formula written out and
// against each other. Meant to be built with -fsanitize=address,undefined; ends with 0 if all agree.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <utility>
#include <vector>

#include "graph_conv/kernel.h"
#include "pairs.h"
#include "values.h"

using namespace ikem::graph_conv;
using ikem::Strided;

namespace {

// (1, N, C, T, V), contiguous or with the channels last.
template <class S>
Strided<S, 5> features(S* data, int64_t channels, int64_t frames, int64_t joints, bool channels_last) {
  const int64_t clip = channels * frames * joints;
  return channels_last ? Strided<S, 5>{data, {0, clip, 1, joints * channels, channels}}
                       : Strided<S, 5>{data, {0, clip, frames * joints, joints, 1}};
}

struct Shape {
  int64_t clips, in, out, frames, joints, out_joints, parts;
  bool per_clip, per_channel, channels_last;
};

struct Results {
  Values y, grad_x, grad_weight, grad_bias, grad_adjacency;
  Values mean, variance;  // of the channels of y; not made with an adjacency per channel
};

template <class S>
struct Case {
  using C = ikem::Compute<S>;

  explicit Case(const Shape& shape) : shape(shape) {}

  const Shape shape;
  const int64_t adjacencies = (shape.per_clip ? shape.clips : 1) * shape.parts * (shape.per_channel ? shape.out : 1);
  Values x = random_values(shape.clips * shape.in * shape.frames * shape.joints);
  Values weight = random_values(shape.parts * shape.out * shape.in);
  Values bias = random_values(shape.parts * shape.out);
  Values adjacency = random_values(adjacencies * shape.joints * shape.out_joints, 0.6);
  Values grad_y = random_values(shape.clips * shape.out * shape.frames * shape.out_joints);
  // As the kernels get them.
  const std::vector<S> given_x = narrowed<S>(x), given_weight = narrowed<S>(weight), given_bias = narrowed<S>(bias);
  const std::vector<S> given_adjacency = narrowed<S>(adjacency), given_grad_y = narrowed<S>(grad_y);

  int64_t part_stride() const { return (shape.per_channel ? shape.out : 1) * shape.joints * shape.out_joints; }

  // With `ranges`, each chunk is one tile, and all sums are made of partial sums; without, it is one clip, and the
  // gradient of an adjacency per clip is written as a whole.
  Results run(Order order, int64_t tile_frames, bool ranges, bool tiled) const {
    const auto [clips, in, out, frames, joints, out_joints, parts, per_clip, per_channel, last] = shape;
    const int64_t tiles = (frames + tile_frames - 1) / tile_frames;
    const bool paired = std::is_same_v<S, ikem::BFloat16>;
    const Problem problem{1,        clips,       parts, in,     out,   frames,      joints, out_joints,
                          per_clip, per_channel, order, paired, tiled, tile_frames, tiles};
    const Operands<S> operands{features(given_x.data(), in, frames, joints, last),
                               {given_weight.data(), {0, out * in, in, 1}},
                               {given_bias.data(), {0, out, 1}},
                               {given_adjacency.data(),
                                {0, per_clip ? parts * part_stride() : 0, part_stride(),
                                 per_channel ? joints * out_joints : 0, out_joints, 1}}};
    std::vector<S> y(grad_y.size()), grad_x(x.size()), grad_weight(weight.size()), grad_bias(bias.size());
    std::vector<S> grad_adjacency(adjacency.size());
    std::vector<C> means(static_cast<size_t>(clips * tiles * out)), squares(means.size());
    std::vector<C> mean(static_cast<size_t>(out)), variance(mean.size());
    plain::forward<S>(problem, operands, features(y.data(), out, frames, out_joints, last),
                      {means.data(), squares.data()}, 0, clips * tiles);
    if (!per_channel) {
      const auto positions = [&](int64_t part) {
        return std::min(tile_frames, frames - part % tiles * tile_frames) * out_joints;
      };
      ikem::merge_moments<C>({means.data(), squares.data()}, clips * tiles, out, positions, mean.data(),
                             variance.data());
    }

    const Chunks chunks = ranges ? Chunks{clips * tiles, 1, tiles} : Chunks{clips, 1, 1};
    const bool whole = per_clip && !ranges;
    const int64_t weight_size = weight_partial_size(problem);
    const int64_t adjacency_part = adjacency_size(problem);
    std::vector<C> weights(static_cast<size_t>(chunks.per_group * weight_size), NAN);
    std::vector<C> biases(static_cast<size_t>(chunks.per_group * parts * out), NAN);
    std::vector<C> adjacency_sums(static_cast<size_t>(whole ? 0 : chunks.per_group * adjacency_part), NAN);
    const Gradients<S> gradients{features(grad_x.data(), in, frames, joints, last), weights.data(), biases.data(),
                                 whole ? nullptr : adjacency_sums.data(), whole ? grad_adjacency.data() : nullptr};
    plain::backward<S>(problem, operands, features(given_grad_y.data(), out, frames, out_joints, last), gradients,
                       chunks, 0, chunks.per_group);
    const bool aggregate = order == Order::aggregate_first;
    const int64_t row = weight_partial_row(problem);
    for (int64_t k = 0; k < parts; ++k) {
      for (int64_t o = 0; o < out; ++o) {
        plain::reduce<S>(weights.data() + (aggregate ? o * row + k * in : k * out + o), chunks.per_group, weight_size,
                         aggregate ? 1 : row, grad_weight.data() + (k * out + o) * in, in);
      }
    }
    plain::reduce<S>(biases.data(), chunks.per_group, parts * out, 1, grad_bias.data(), parts * out);
    const int64_t sums = per_clip ? tiles : chunks.per_group;
    for (int64_t i = 0; !whole && i < (per_clip ? clips : 1); ++i) {
      plain::reduce<S>(adjacency_sums.data() + i * sums * adjacency_part, sums, adjacency_part, 1,
                       grad_adjacency.data() + i * adjacency_part, adjacency_part);
    }
    return {widened(y),    widened(grad_x),  widened(grad_weight), widened(grad_bias), widened(grad_adjacency),
            widened(mean), widened(variance)};
  }

  // The formula, and its gradients, term by term.
  Results written_out() const {
    const auto [clips, in, out, frames, joints, out_joints, parts, per_clip, per_channel, last] = shape;
    Results results{Values(grad_y.size()),           Values(x.size()),
                    Values(weight.size()),           Values(bias.size()),
                    Values(adjacency.size()),        Values(static_cast<size_t>(out)),
                    Values(static_cast<size_t>(out))};
    const Strided<const double, 5> x_view = features(x.data(), in, frames, joints, last);
    const Strided<const double, 5> y_view = features(grad_y.data(), out, frames, out_joints, last);
    const auto at = [](const Strided<const double, 5>& view, int64_t n, int64_t c, int64_t t, int64_t v) {
      return n * view.strides[1] + c * view.strides[2] + t * view.strides[3] + v * view.strides[4];
    };
    for (int64_t n = 0; n < clips; ++n) {
      for (int64_t k = 0; k < parts; ++k) {
        for (int64_t o = 0; o < out; ++o) {
          for (int64_t t = 0; t < frames; ++t) {
            for (int64_t v = 0; v < joints; ++v) {
              double transformed = bias[k * out + o];
              for (int64_t c = 0; c < in; ++c) {
                transformed += weight[(k * out + o) * in + c] * x[at(x_view, n, c, t, v)];
              }
              double gradient = 0;
              for (int64_t w = 0; w < out_joints; ++w) {
                const int64_t a = ((per_clip ? n * parts : 0) + k) * part_stride() +
                                  ((per_channel ? o * joints : 0) + v) * out_joints + w;
                const int64_t y = at(y_view, n, o, t, w);
                results.y[y] += adjacency[a] * transformed;
                results.grad_adjacency[a] += grad_y[y] * transformed;
                gradient += grad_y[y] * adjacency[a];
              }
              results.grad_bias[k * out + o] += gradient;
              for (int64_t c = 0; c < in; ++c) {
                results.grad_weight[(k * out + o) * in + c] += gradient * x[at(x_view, n, c, t, v)];
                results.grad_x[at(x_view, n, c, t, v)] += gradient * weight[(k * out + o) * in + c];
              }
            }
          }
        }
      }
    }
    const int64_t positions = frames * out_joints;
    const double count = static_cast<double>(clips * positions);
    for (int64_t c = 0; !per_channel && c < out; ++c) {
      const auto for_each = [&](auto f) {
        for (int64_t i = 0; i < clips * positions; ++i) {
          f(results.y[at(y_view, i / positions, c, i % positions / out_joints, i % out_joints)]);
        }
      };
      for_each([&](double y) { results.mean[c] += y / count; });
      for_each([&](double y) { results.variance[c] += (y - results.mean[c]) * (y - results.mean[c]) / count; });
    }
    return results;
  }
};

template <class S>
bool check(const Shape& shape, double tolerance) {
  const Case<S> drawn(shape);
  const Results truth = drawn.written_out();
  const double size = largest(truth.y);
  bool good = true;
  for (const Order order : {Order::aggregate_first, Order::transform_first}) {
    if (order == Order::aggregate_first && shape.per_channel) {
      continue;
    }
    for (const int64_t tile_frames : {int64_t{1}, (shape.frames + 1) / 2, shape.frames}) {
      for (const auto& [ranges, tiled] : {std::pair{true, false}, {false, false}, {true, true}, {false, true}}) {
        if (tiled && !std::is_same_v<S, ikem::BFloat16>) {
          continue;
        }
        const Results ours = drawn.run(order, tile_frames, ranges, tiled);
        good = good && agree("mean", truth.mean, ours.mean, tolerance * size) &&
               agree("variance", truth.variance, ours.variance, tolerance * size * size) &&
               agree_for_their_size("y", truth.y, ours.y, tolerance) &&
               agree_for_their_size("gradient of x", truth.grad_x, ours.grad_x, tolerance) &&
               agree_for_their_size("gradient of weight", truth.grad_weight, ours.grad_weight, tolerance) &&
               agree_for_their_size("gradient of bias", truth.grad_bias, ours.grad_bias, tolerance) &&
               agree_for_their_size("gradient of adjacency", truth.grad_adjacency, ours.grad_adjacency, tolerance);
      }
    }
  }
  return good;
}

bool check(const Shape& shape) {
  return check<double>(shape, 1e-9) && (shape.per_channel || !multiplies_pairs() || check<ikem::BFloat16>(shape, 0.02));
}

}  // namespace

int main() {
  bool good = true;
  for (const bool channels_last : {false, true}) {
    for (int per = 0; per < 3; ++per) {
      for (const int64_t channels : {1, 3, 16, 19}) {
        for (const int64_t frames : {1, 2, 9}) {
          good = good && check({2, channels, 17, frames, 5, 7, 3, per > 0, per > 1, channels_last});
          good = good && check({1, 9, channels, frames, 6, 1, 2, per > 0, per > 1, channels_last});
          good = good && check({1, 4, channels, frames, 1, 25, 1, per > 0, per > 1, channels_last});
        }
      }
    }
  }
  return good ? 0 : 1;
}
