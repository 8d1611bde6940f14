// The graph convolution by adjacencies that are mixed of relations, against the one by these adjacencies, over many
// shapes. Meant to be built with -fsanitize=address,undefined; ends with 0 if all agree.
#include <cmath>
#include <vector>

#include "graph_conv/kernel.h"
#include "values.h"

using namespace ikem::graph_conv;
using ikem::Strided;

namespace {

struct Shape {
  int64_t clips, in, out, frames, joints, out_joints, parts, relations;
};

struct Results {
  Values y, grad_x, grad_weight, grad_bias, grad_adjacency, grad_mixing;
};

struct Case {
  explicit Case(const Shape& shape) : shape(shape) {}

  const Shape shape;
  const int64_t area = shape.joints * shape.out_joints;
  const Values x = random_values(shape.clips * shape.in * shape.frames * shape.joints);
  const Values weight = random_values(shape.parts * shape.out * shape.in);
  const Values bias = random_values(shape.parts * shape.out);
  const Values relations = random_values(shape.clips * shape.parts * shape.relations * area);
  const Values mixing = random_values(shape.parts * shape.out * shape.relations);
  const Values grad_y = random_values(shape.clips * shape.out * shape.frames * shape.out_joints);

  // By relations and mixing, or by an adjacency that is given.
  Results run(const double* adjacency, bool refined, int64_t tile_frames, bool ranges) const {
    const auto [clips, in, out, frames, joints, out_joints, parts, count] = shape;
    const int64_t tiles = (frames + tile_frames - 1) / tile_frames;
    const Problem problem{1,
                          clips,
                          parts,
                          in,
                          out,
                          frames,
                          joints,
                          out_joints,
                          true,
                          true,
                          Order::transform_first,
                          false,
                          false,
                          tile_frames,
                          tiles,
                          refined ? count : 0};
    const int64_t each = refined ? count : out;
    Operands<double> operands{{x.data(), {0, in * frames * joints, frames * joints, joints, 1}},
                              {weight.data(), {0, out * in, in, 1}},
                              {bias.data(), {0, out, 1}},
                              {adjacency, {0, parts * each * area, each * area, area, out_joints, 1}},
                              {}};
    if (refined) {
      operands.mixing = {mixing.data(), {out * count, count, 1}};
    }
    const Chunks chunks = ranges ? Chunks{clips * tiles, 1, tiles} : Chunks{clips, 1, 1};
    const int64_t weight_size = weight_partial_size(problem), part = adjacency_size(problem);
    const int64_t mixing_size = parts * out * problem.relations;
    Results results{Values(grad_y.size()),
                    Values(x.size()),
                    Values(weight.size()),
                    Values(bias.size()),
                    Values(static_cast<size_t>(clips * part)),
                    Values(static_cast<size_t>(mixing_size))};
    const auto sums = [&](int64_t size) { return Values(static_cast<size_t>(chunks.per_group * size), NAN); };
    Values weights = sums(weight_size), biases = sums(parts * out), adjacencies = sums(ranges ? part : 0);
    Values mixings = sums(mixing_size);
    const Strided<double, 5> y{results.y.data(), {0, out * frames * out_joints, frames * out_joints, out_joints, 1}};
    const Strided<const double, 5> grad{grad_y.data(), {y.strides[0], y.strides[1], y.strides[2], y.strides[3], 1}};
    plain::forward<double>(problem, operands, y, {}, 0, clips * tiles);
    const Gradients<double> gradients{{results.grad_x.data(), {0, in * frames * joints, frames * joints, joints, 1}},
                                      weights.data(),
                                      biases.data(),
                                      ranges ? adjacencies.data() : nullptr,
                                      ranges ? nullptr : results.grad_adjacency.data(),
                                      refined ? mixings.data() : nullptr};
    plain::backward<double>(problem, operands, grad, gradients, chunks, 0, chunks.per_group);
    for (int64_t i = 0; i < parts * out; ++i) {
      plain::reduce<double>(weights.data() + i, chunks.per_group, weight_size, weight_partial_row(problem),
                            results.grad_weight.data() + i * in, in);
    }
    plain::reduce<double>(biases.data(), chunks.per_group, parts * out, 1, results.grad_bias.data(), parts * out);
    plain::reduce<double>(mixings.data(), chunks.per_group, mixing_size, 1, results.grad_mixing.data(), mixing_size);
    for (int64_t n = 0; ranges && n < clips; ++n) {
      plain::reduce<double>(adjacencies.data() + n * tiles * part, tiles, part, 1,
                            results.grad_adjacency.data() + n * part, part);
    }
    return results;
  }

  template <class F>
  void for_each_term(F f) const {
    const auto [clips, in, out, frames, joints, out_joints, parts, count] = shape;
    for (int64_t n = 0; n < clips; ++n) {
      for (int64_t k = 0; k < parts; ++k) {
        for (int64_t o = 0; o < out; ++o) {
          for (int64_t r = 0; r < count; ++r) {
            for (int64_t i = 0; i < area; ++i) {
              f(((n * parts + k) * out + o) * area + i, ((n * parts + k) * count + r) * area + i,
                (k * out + o) * count + r);
            }
          }
        }
      }
    }
  }

  bool check() const {
    Values adjacency(static_cast<size_t>(shape.clips * shape.parts * shape.out * area));
    for_each_term([&](int64_t a, int64_t b, int64_t m) { adjacency[a] += mixing[m] * relations[b]; });
    bool good = true;
    for (const int64_t tile_frames : {int64_t{1}, (shape.frames + 1) / 2, shape.frames}) {
      for (const bool ranges : {true, false}) {
        const Results truth = run(adjacency.data(), false, tile_frames, ranges);
        Values grad_relations(relations.size()), grad_mixing(mixing.size());
        for_each_term([&](int64_t a, int64_t b, int64_t m) {
          grad_relations[b] += truth.grad_adjacency[a] * mixing[m];
          grad_mixing[m] += truth.grad_adjacency[a] * relations[b];
        });
        const Results ours = run(relations.data(), true, tile_frames, ranges);
        good = good && agree("y", truth.y, ours.y) && agree("gradient of x", truth.grad_x, ours.grad_x) &&
               agree("gradient of weight", truth.grad_weight, ours.grad_weight) &&
               agree("gradient of bias", truth.grad_bias, ours.grad_bias) &&
               agree("gradient of relations", grad_relations, ours.grad_adjacency) &&
               agree("gradient of mixing", grad_mixing, ours.grad_mixing);
      }
    }
    return good;
  }
};

}  // namespace

int main() {
  bool good = true;
  for (const int64_t out : {1, 5, 35}) {
    for (const int64_t relations : {1, 8, 19}) {
      for (const int64_t frames : {1, 2, 9}) {
        good = good && Case({2, 3, out, frames, 5, 7, 3, relations}).check();
        good = good && Case({1, 17, out, frames, 1, 25, 1, relations}).check();
      }
    }
  }
  return good ? 0 : 1;
}
