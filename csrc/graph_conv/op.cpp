// Compiled twice: into the operations library, where it defines the operations and their CPU side, and, with
// IKEM_CUDA_OPERATIONS, into the CUDA library. Arguments are checked with friendly messages in
// ikem_ext/graph_conv.py; the checks here are those without which a kernel could read astray.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "batch_norm/passes.h"
#include "common/tensor.h"
#include "graph_conv/kernel.h"
#ifdef IKEM_CUDA_OPERATIONS
#include "common/cuda_stream.h"
#endif

namespace ikem::graph_conv {
namespace {

using Integers = std::vector<int64_t>;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Element strides; axes that are not `present` get the stride 0.
template <class S, int AXES>
Strided<S, AXES> strided(const Tensor& tensor, const bool (&present)[AXES]) {
  Strided<S, AXES> result;
  result.data = static_cast<S*>(const_cast<void*>(tensor.const_data_ptr()));
  int64_t axis = 0;
  for (int i = 0; i < AXES; ++i) {
    result.strides[i] = present[i] ? tensor.stride(axis++) : 0;
  }
  return result;
}

// The arguments that both operations share, and the problem that they pose.
struct Arguments {
  const Tensor &x, &weight;
  const std::optional<Tensor>& bias;
  const Tensor& adjacency;  // or relations between joints, where there is a mixing
  const std::optional<Tensor> mixing;
  const bool grouped = x.dim() == 5;
  const int64_t adjacency_axes = adjacency.dim() - (grouped ? 1 : 0);
  Problem problem{};

  Arguments(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& adjacency,
            const std::optional<Tensor>& mixing = std::nullopt)
      : x(x), weight(weight), bias(bias), adjacency(adjacency), mixing(mixing) {
    STD_TORCH_CHECK(x.dim() == 4 || x.dim() == 5, "x: expected shape (N, C_in, T, V) or (G, N, C_in, T, V)");
    STD_TORCH_CHECK(weight.dim() == x.dim() - 1, "weight: expected as many leading dimensions as x has");
    STD_TORCH_CHECK(adjacency_axes >= 3 && adjacency_axes <= 5,
                    "adjacency: expected shape (K, V, W), (N, K, V, W) or (N, K, C_out, V, W)");
    problem.groups = grouped ? x.size(0) : 1;
    problem.clips = x.size(-4);
    problem.in_channels = x.size(-3);
    problem.frames = x.size(-2);
    problem.joints = x.size(-1);
    problem.parts = weight.size(-3);
    problem.out_channels = weight.size(-2);
    problem.out_joints = adjacency.size(-1);
    problem.per_clip = adjacency_axes >= 4;
    problem.per_channel = adjacency_axes == 5;
#ifndef IKEM_CUDA_OPERATIONS
    problem.paired = x.scalar_type() == ScalarType::BFloat16 && simd_multiplies_bfloat16();
    problem.tiled = problem.paired && simd_multiplies_tiles();
#endif
    require("weight", weight, {problem.parts, problem.out_channels, problem.in_channels});
    if (bias.has_value()) {
      require("bias", *bias, {problem.parts, problem.out_channels});
    }
    if (mixing.has_value()) {
      STD_TORCH_CHECK(!grouped && problem.per_channel && mixing->dim() == 3 && mixing->size(2) > 0,
                      "mixing: expected shape (K, C_out, R) with R > 0, and relations of shape (N, K, R, V, W)");
      problem.relations = mixing->size(2);
      require("mixing", *mixing, {problem.parts, problem.out_channels, problem.relations});
    }
    Integers sizes{problem.parts, problem.joints, problem.out_joints};
    if (problem.per_channel) {
      sizes.insert(sizes.begin() + 1, mixing.has_value() ? problem.relations : problem.out_channels);
    }
    if (problem.per_clip) {
      sizes.insert(sizes.begin(), problem.clips);
    }
    require("adjacency", adjacency, sizes);
  }

  template <class S>
  Operands<S> operands() const {
    Operands<S> operands{};
    operands.x = strided<const S>(x, {grouped, true, true, true, true});
    operands.weight = strided<const S>(weight, {grouped, true, true, true});
    if (bias.has_value()) {
      operands.bias = strided<const S>(*bias, {grouped, true, true});
    }
    operands.adjacency =
        strided<const S>(adjacency, {grouped, problem.per_clip, true, problem.per_channel, true, true});
    if (mixing.has_value()) {
      operands.mixing = strided<const S>(*mixing, {true, true, true});
    }
    return operands;
  }

  void require(const char* name, const Tensor& tensor, Integers sizes) const {
    if (grouped) {
      sizes.insert(sizes.begin(), problem.groups);
    }
    const auto own = tensor.sizes();
    STD_TORCH_CHECK(tensor.device() == x.device(), name, ": expected to be on the device that x is on");
    STD_TORCH_CHECK(
        std::equal(own.begin(), own.end(), sizes.begin(), sizes.end()) && tensor.scalar_type() == x.scalar_type(), name,
        ": expected another shape or dtype");
  }

  Integers output_sizes() const {
    Integers sizes{problem.clips, problem.out_channels, problem.frames, problem.out_joints};
    if (grouped) {
      sizes.insert(sizes.begin(), problem.groups);
    }
    return sizes;
  }

  template <class C>
  Tensor empty_partials(int64_t count) const {
    return torch::stable::new_empty(x, Integers{count}, compute_type(x.scalar_type()));
  }
};

// How much arithmetic a pass is, in multiply-adds: the sums over channels that it makes, the sums over joints, and the
// adjacency's gradient. A multiply-add of a sum over joints takes about twice as long as one of a product.
struct Work {
  int64_t sums_over_channels, sums_over_joints;
  bool adjacency_gradient;

  int64_t of(const Problem& problem, Order order, int64_t values) const {
    const bool aggregate = order == Order::aggregate_first;
    const int64_t channels = aggregate ? problem.in_channels : problem.out_channels;
    const int64_t joints = aggregate ? problem.out_joints : problem.joints;
    // The K-fold features that the adjacency's gradient needs are there when aggregation comes first and x wants its
    // gradient; otherwise they are made for it.
    return sums_over_channels * problem.parts * problem.in_channels * problem.out_channels * joints +
           2 * sums_over_joints * values * channels +
           (adjacency_gradient ? problem.parts * problem.joints * problem.out_joints * channels : 0);
  }
};

// How many values of an adjacency are not zero. On a GPU, where to look at them would make the CPU wait for it, a
// skeleton's are assumed: one for each joint and part.
template <class S>
int64_t count_values(const Problem& problem, const Strided<const S, 6>& adjacency) {
#ifdef IKEM_CUDA_OPERATIONS
  static_cast<void>(adjacency);
  return problem.parts * problem.out_joints;
#else
  int64_t count = 0;
  for (int64_t k = 0; k < problem.parts; ++k) {
    for (int64_t v = 0; v < problem.joints; ++v) {
      for (int64_t w = 0; w < problem.out_joints; ++w) {
        const int64_t* strides = adjacency.strides;
        count += widen(adjacency.data[k * strides[2] + v * strides[4] + w * strides[5]]) != 0;
      }
    }
  }
  return count;
#endif
}

// Chooses the cheaper order; the first group's first adjacency speaks for all.
template <class S>
void choose_order(Problem& problem, const Operands<S>& operands, const Work& aggregate, const Work& transform) {
  const int64_t values = problem.groups * problem.clips > 0 ? count_values(problem, operands.adjacency) : 0;
  const bool aggregate_first = !problem.per_channel && aggregate.of(problem, Order::aggregate_first, values) <=
                                                           transform.of(problem, Order::transform_first, values);
  problem.order = aggregate_first ? Order::aggregate_first : Order::transform_first;
}

#ifdef IKEM_CUDA_OPERATIONS

template <class S>
void run(const Arguments& arguments, const Problem& problem, const Operands<S>& operands, const Strided<S, 5>& y,
         const WantedMoments<Compute<S>>& moments, bool allow_tf32) {
  const int32_t device = arguments.x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const char* error = cuda::forward(problem, operands, y, moments, allow_tf32, current_cuda_stream(device));
  STD_TORCH_CHECK(error == nullptr, "graph_conv: ", error);
}

template <class S>
void run_forward(const Arguments& arguments, Problem& problem, const Operands<S>& operands, const Strided<S, 5>& y,
                 bool allow_tf32) {
  run<S>(arguments, problem, operands, y, {}, allow_tf32);
}

// Makes y, and of each group the mean and the variance of its channels, (G, 2, C_out).
template <class S, class C = Compute<S>>
void run_with_moments(const Arguments& arguments, Problem& problem, const Operands<S>& operands, const Tensor& result,
                      C* moments, bool allow_tf32) {
  const Strided<S, 5> y = strided<S>(result, {arguments.grouped, true, true, true, true});
  const int64_t parts = problem.groups * problem.out_channels * cuda::count_parts<S>(problem);
  const Tensor memory = torch::stable::new_empty(
      arguments.x, Integers{parts * static_cast<int64_t>(sizeof(Moments<C>))}, ScalarType::Byte);
  run<S>(arguments, problem, operands, y, {moments, static_cast<Moments<C>*>(memory.mutable_data_ptr())}, allow_tf32);
}

#else

// A tile stays in a core's own cache, and there are enough of them to go round.
void choose_tiles(Problem& problem, size_t scalar_bytes) {
  constexpr int64_t TILE_BYTES = 512 * 1024;
  constexpr int64_t MIN_TILES = 16;
  const bool aggregate = problem.order == Order::aggregate_first;
  const int64_t narrow = aggregate ? problem.in_channels : problem.out_channels;
  const int64_t plain = aggregate ? problem.out_channels : problem.in_channels;
  const int64_t frame_bytes = static_cast<int64_t>(scalar_bytes) * (problem.out_joints + problem.joints) *
                              (problem.parts * narrow + narrow + plain) / 2;
  // An adjacency per channel is itself the most of what is read, once for each tile.
  const int64_t tile_bytes = problem.per_channel ? 4 * TILE_BYTES : TILE_BYTES;
  const int64_t by_cache = tile_bytes / std::max<int64_t>(frame_bytes, 1);
  const int64_t by_number = divide_up(problem.groups * problem.clips * problem.frames, MIN_TILES);
  const int64_t most = std::clamp<int64_t>(std::min(by_cache, by_number), 1, std::max<int64_t>(problem.frames, 1));
  const int64_t tiles = divide_up(std::max<int64_t>(problem.frames, 1), most);
  // With an adjacency per channel that is given, frames stand in the lanes of vectors.
  const int64_t multiple = problem.per_channel && problem.relations == 0 ? 16 : 1;
  problem.tile_frames = std::min(divide_up(divide_up(problem.frames, tiles), multiple) * multiple, problem.frames);
  problem.tiles_per_clip = problem.frames > 0 ? divide_up(problem.frames, problem.tile_frames) : 0;
}

// Enough chunks for many threads, but none with so few positions that its sums cost more than they bring.
Chunks choose_chunks(const Problem& problem) {
  constexpr int64_t MAX_CHUNKS = 64;
  constexpr int64_t MIN_POSITIONS = 1024;
  const int64_t positions = problem.clips * problem.frames * std::max(problem.joints, problem.out_joints);
  const int64_t wanted =
      std::clamp<int64_t>(positions / MIN_POSITIONS, 1, std::max<int64_t>(MAX_CHUNKS / problem.groups, 1));
  if (wanted <= problem.clips) {
    const int64_t clips = divide_up(problem.clips, wanted);
    return {divide_up(problem.clips, clips), clips, 1};
  }
  const int64_t ranges = std::min(divide_up(wanted, problem.clips), problem.tiles_per_clip);
  return {problem.clips * ranges, 1, ranges};
}

// Less arithmetic than this is not worth waking a thread for.
constexpr int64_t MIN_WORK_PER_THREAD = 1 << 21;

int64_t grain(const Problem& problem, int64_t tasks) {
  const int64_t work = problem.groups * problem.clips * problem.frames * std::max(problem.joints, problem.out_joints) *
                       problem.parts * problem.in_channels * problem.out_channels;
  return std::max<int64_t>(1, tasks * MIN_WORK_PER_THREAD / std::max<int64_t>(work, 1));
}

template <class S>
void forward_tasks(const Problem& problem, const Operands<S>& operands, Strided<S, 5> y,
                   const PartialMoments<Compute<S>>& moments, int64_t first, int64_t last) {
  IKEM_DISPATCH_SIMD(forward<S>(problem, operands, y, moments, first, last))
}

template <class S>
void backward_chunks(const Problem& problem, const Operands<S>& operands, Strided<const S, 5> grad_y,
                     const Gradients<S>& gradients, const Chunks& chunks, int64_t first, int64_t last) {
  IKEM_DISPATCH_SIMD(backward<S>(problem, operands, grad_y, gradients, chunks, first, last))
}

template <class S>
void reduce_partials(const Compute<S>* partials, int64_t count, int64_t stride, int64_t step, S* out,
                     int64_t size){IKEM_DISPATCH_SIMD(reduce<S>(partials, count, stride, step, out, size))}

int64_t count_tasks(const Problem& problem) {
  return problem.groups * problem.clips * problem.tiles_per_clip;
}

template <class S>
void run_tasks(const Problem& problem, const Operands<S>& operands, const Strided<S, 5>& y,
               const PartialMoments<Compute<S>>& moments) {
  const int64_t tasks = count_tasks(problem);
  torch::stable::parallel_for(0, tasks, grain(problem, tasks), [&](int64_t first, int64_t last) {
    forward_tasks(problem, operands, y, moments, first, last);
  });
}

template <class S>
void run_forward(const Arguments&, Problem& problem, const Operands<S>& operands, const Strided<S, 5>& y, bool) {
  choose_tiles(problem, sizeof(Compute<S>));
  run_tasks(problem, operands, y, {});
}

// Makes y, and of each group the mean and the variance of its channels, (G, 2, C_out).
template <class S, class C = Compute<S>>
void run_with_moments(const Arguments& arguments, Problem& problem, const Operands<S>& operands, const Tensor& result,
                      C* moments, bool) {
  const Strided<S, 5> y = strided<S>(result, {arguments.grouped, true, true, true, true});
  if (problem.per_channel) {  // whose kernel has frames in the lanes: the moments take a pass of their own
    run_forward(arguments, problem, operands, y, false);
    const batch_norm::Layout layout = batch_norm::layout_of(result);
    for (int64_t group = 0; group < problem.groups; ++group) {
      C* const mean = moments + group * 2 * problem.out_channels;
      batch_norm::find_moments<S>(layout, y.data + group * layout.numel(), mean, mean + problem.out_channels);
    }
    return;
  }
  choose_tiles(problem, sizeof(C));
  const int64_t channels = problem.out_channels;
  std::vector<C> means(static_cast<size_t>(count_tasks(problem) * channels)), squares(means.size());
  const PartialMoments<C> partial{means.data(), squares.data()};
  run_tasks(problem, operands, y, partial);
  const int64_t parts = problem.clips * problem.tiles_per_clip;
  const auto positions = [&](int64_t part) {
    const int64_t first = part % problem.tiles_per_clip * problem.tile_frames;
    return std::min(problem.tile_frames, problem.frames - first) * problem.out_joints;
  };
  for (int64_t group = 0; group < problem.groups; ++group) {
    C* const mean = moments + group * 2 * channels;
    merge_moments(partial.at(group * parts, channels), parts, channels, positions, mean, mean + channels);
  }
}

#endif

Tensor forward_of(const Arguments& arguments, bool allow_tf32) {
  const Tensor& x = arguments.x;
  Tensor y = empty_features(x, arguments.output_sizes());
  if (y.numel() == 0) {
    return y;
  }
  dispatch_floating(x, "x", [&](auto scalar) {
    using S = decltype(scalar);
    const Operands<S> operands = arguments.operands<S>();
    Problem problem = arguments.problem;
    choose_order(problem, operands, {1, 1, false}, {1, 1, false});
    run_forward(arguments, problem, operands, strided<S>(y, {arguments.grouped, true, true, true, true}), allow_tf32);
  });
  return y;
}

std::tuple<Tensor, Tensor> graph_conv_moments(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                              const Tensor& adjacency, bool allow_tf32) {
  const Arguments arguments(x, weight, bias, adjacency);
  const auto& sizes = arguments.problem;
  Tensor y = empty_features(x, arguments.output_sizes());
  const Tensor moments = torch::stable::new_zeros(
      x, arguments.grouped ? Integers{sizes.groups, 2, sizes.out_channels} : Integers{2, sizes.out_channels},
      compute_type(x.scalar_type()));
  if (y.numel() == 0) {
    return {y, moments};
  }
  dispatch_floating(x, "x", [&](auto scalar) {
    using S = decltype(scalar);
    const Operands<S> operands = arguments.operands<S>();
    Problem problem = arguments.problem;
    choose_order(problem, operands, {1, 1, false}, {1, 1, false});
    run_with_moments(arguments, problem, operands, y, static_cast<Compute<S>*>(moments.mutable_data_ptr()), allow_tf32);
  });
  return {y, moments};
}

// TF32 is for CUDA alone.
Tensor graph_conv(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, const Tensor& adjacency,
                  bool allow_tf32) {
  return forward_of(Arguments(x, weight, bias, adjacency), allow_tf32);
}

// The backward pass of one dtype.
template <class S>
class Backward {
  using C = Compute<S>;

 public:
  Backward(const Arguments& arguments, const Tensor& grad_y, bool for_x, bool for_weight, bool for_bias,
           bool for_adjacency, bool for_mixing = false)
      : arguments_(arguments),
        operands_(arguments.operands<S>()),
        grad_y_(strided<const S>(grad_y, {arguments.grouped, true, true, true, true})),
        problem_(arguments.problem) {
    const Tensor& like = arguments.x;
    const auto empty = [&](bool wanted, const Tensor& tensor) {
      const auto sizes = tensor.sizes();
      return torch::stable::new_empty(like, wanted ? Integers(sizes.begin(), sizes.end()) : Integers{0});
    };
    const auto x_sizes = like.sizes();
    x = for_x ? empty_features(like, Integers(x_sizes.begin(), x_sizes.end())) : empty(false, like);
    weight = empty(for_weight, arguments.weight);
    bias = empty(for_bias, for_bias ? *arguments.bias : like);
    adjacency = empty(for_adjacency, arguments.adjacency);
    mixing = empty(for_mixing, for_mixing ? *arguments.mixing : like);
    choose_order(problem_, operands_, {for_weight + (for_x || for_adjacency), for_weight + for_x, for_adjacency},
                 {for_weight + for_x + for_adjacency, for_weight || for_x, for_adjacency});
  }

#ifdef IKEM_CUDA_OPERATIONS

  void run(bool allow_tf32) {
    const Tensor& like = arguments_.x;
    const cuda::Workspace sizes = cuda::workspace<S>(problem_);
    const Tensor weights = arguments_.empty_partials<C>(weight.numel() > 0 ? sizes.weight : 0);
    const Tensor biases = arguments_.empty_partials<C>(bias.numel() > 0 ? sizes.bias : 0);
    const Tensor adjacencies = arguments_.empty_partials<C>(adjacency.numel() > 0 ? sizes.adjacency : 0);
    const Gradients<S> gradients = gradients_of(weights, biases, adjacencies);
    const cuda::Results<S> results{data<S>(weight), data<S>(bias), data<S>(adjacency)};
    const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
    const char* error = cuda::backward(problem_, operands_, grad_y_, gradients, results, allow_tf32,
                                       current_cuda_stream(like.get_device_index()));
    STD_TORCH_CHECK(error == nullptr, "graph_conv_backward: ", error);
  }

#else

  void run(bool) {
    choose_tiles(problem_, sizeof(C));
    const Problem& problem = problem_;
    const bool anything = problem.clips * problem.frames > 0;
    const Chunks chunks = anything ? choose_chunks(problem) : Chunks{0, 1, 0};
    const int64_t total = problem.groups * chunks.per_group;
    const int64_t bias_size = problem.parts * problem.out_channels;
    const bool whole = problem.per_clip && chunks.ranges == 1;
    const int64_t slots = problem.per_clip ? problem.groups * problem.clips * chunks.ranges : total;
    const auto partials = [&](const Tensor& gradient, int64_t size) {
      return arguments_.empty_partials<C>(gradient.numel() > 0 ? size : 0);
    };
    const Tensor weights = partials(weight, total * weight_partial_size(problem));
    const Tensor biases = partials(bias, total * bias_size);
    const Tensor adjacencies = partials(adjacency, whole ? 0 : slots * adjacency_size(problem));
    const int64_t mixing_size = bias_size * problem.relations;
    const Tensor mixings = partials(mixing, total * mixing_size);
    Gradients<S> gradients = gradients_of(weights, biases, adjacencies);
    gradients.mixing = data<C>(mixings);
    gradients.whole_adjacency = whole ? data<S>(adjacency) : nullptr;
    torch::stable::parallel_for(0, total, grain(problem, total), [&](int64_t first, int64_t last) {
      backward_chunks(problem, operands_, grad_y_, gradients, chunks, first, last);
    });

    reduce_weight(gradients.weight, chunks);
    reduce_groups(bias, gradients.bias, problem.groups, chunks.per_group, bias_size);
    reduce_groups(mixing, gradients.mixing, problem.groups, chunks.per_group, mixing_size);
    if (!whole) {
      const int64_t count = problem.per_clip ? chunks.ranges : chunks.per_group;
      const int64_t outputs = problem.per_clip ? problem.groups * problem.clips : problem.groups;
      reduce_groups(adjacency, gradients.adjacency, outputs, count, adjacency_size(problem));
    }
  }

#endif

  Tensor x, weight, bias, adjacency, mixing;

 private:
  // Those that are asked for, made of partial sums.
  Gradients<S> gradients_of(const Tensor& weights, const Tensor& biases, const Tensor& adjacencies) const {
    Gradients<S> gradients{};
    if (x.numel() > 0) {
      gradients.x = strided<S>(x, {arguments_.grouped, true, true, true, true});
    }
    gradients.weight = data<C>(weights);
    gradients.bias = data<C>(biases);
    gradients.adjacency = data<C>(adjacencies);
    return gradients;
  }

  template <class T>
  static T* data(const Tensor& tensor) {
    return tensor.numel() > 0 ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
  }

#ifndef IKEM_CUDA_OPERATIONS

  void reduce_weight(const C* partials, const Chunks& chunks) {
    if (weight.numel() == 0) {
      return;
    }
    const Problem& problem = problem_;
    S* out = static_cast<S*>(weight.mutable_data_ptr());
    const int64_t size = weight_partial_size(problem);
    const int64_t row = weight_partial_row(problem);
    const int64_t rows_per_group = problem.parts * problem.out_channels;
    const int64_t channels = problem.in_channels;
    torch::stable::parallel_for(0, problem.groups * rows_per_group, ROWS_PER_THREAD, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t k = i % rows_per_group / problem.out_channels;
        const int64_t o = i % problem.out_channels;
        const C* from = partials + i / rows_per_group * chunks.per_group * size;
        if (problem.order == Order::aggregate_first) {
          reduce_partials<S>(from + o * row + k * channels, chunks.per_group, size, 1, out + i * channels, channels);
        } else {
          reduce_partials<S>(from + k * problem.out_channels + o, chunks.per_group, size, row, out + i * channels,
                             channels);
        }
      }
    });
  }

  // out[i] = the sum of partials[i][0 .. count)
  void reduce_groups(const Tensor& gradient, const C* partials, int64_t outputs, int64_t count, int64_t size) {
    if (gradient.numel() == 0) {
      return;
    }
    S* out = static_cast<S*>(gradient.mutable_data_ptr());
    const int64_t grain = std::max<int64_t>(1, MIN_SUMS_PER_THREAD / (std::max<int64_t>(count, 1) * size));
    torch::stable::parallel_for(0, outputs, grain, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        reduce_partials<S>(partials + i * count * size, count, size, 1, out + i * size, size);
      }
    });
  }

  static constexpr int64_t ROWS_PER_THREAD = 64;
  static constexpr int64_t MIN_SUMS_PER_THREAD = 1 << 16;

#endif

  const Arguments& arguments_;
  const Operands<S> operands_;
  const Strided<const S, 5> grad_y_;
  Problem problem_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor> graph_conv_backward(const Tensor& grad_y, const Tensor& x,
                                                               const Tensor& weight, std::optional<Tensor> bias,
                                                               const Tensor& adjacency, bool for_x, bool for_weight,
                                                               bool for_bias, bool for_adjacency, bool allow_tf32) {
  const Arguments arguments(x, weight, bias, adjacency);
  const auto& problem = arguments.problem;
  arguments.require("grad_y", grad_y, {problem.clips, problem.out_channels, problem.frames, problem.out_joints});
  STD_TORCH_CHECK(!for_bias || bias.has_value(), "for_bias: there is no bias");
  return dispatch_floating(x, "x", [&](auto scalar) {
    Backward<decltype(scalar)> backward(arguments, grad_y, for_x, for_weight, for_bias, for_adjacency);
    backward.run(allow_tf32);
    return std::tuple(backward.x, backward.weight, backward.bias, backward.adjacency);
  });
}

#ifndef IKEM_CUDA_OPERATIONS

Tensor refined_graph_conv(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, const Tensor& relations,
                          const Tensor& mixing) {
  return forward_of(Arguments(x, weight, bias, relations, mixing), false);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> refined_graph_conv_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, const Tensor& relations,
    const Tensor& mixing, bool for_x, bool for_weight, bool for_bias, bool for_relations, bool for_mixing) {
  const Arguments arguments(x, weight, bias, relations, mixing);
  const auto& problem = arguments.problem;
  arguments.require("grad_y", grad_y, {problem.clips, problem.out_channels, problem.frames, problem.out_joints});
  STD_TORCH_CHECK(!for_bias || bias.has_value(), "for_bias: there is no bias");
  return dispatch_floating(x, "x", [&](auto scalar) {
    Backward<decltype(scalar)> backward(arguments, grad_y, for_x, for_weight, for_bias, for_relations, for_mixing);
    backward.run(false);
    return std::tuple(backward.x, backward.weight, backward.bias, backward.adjacency, backward.mixing);
  });
}

#endif

}  // namespace
}  // namespace ikem::graph_conv

#ifdef IKEM_CUDA_OPERATIONS
STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CUDA, library) {
#else
STABLE_TORCH_LIBRARY_FRAGMENT(ikem_ext, library) {
  library.def("graph_conv(Tensor x, Tensor weight, Tensor? bias, Tensor adjacency, bool allow_tf32) -> Tensor");
  library.def(
      "graph_conv_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor? bias, Tensor adjacency, bool for_x, "
      "bool for_weight, bool for_bias, bool for_adjacency, bool allow_tf32) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "graph_conv_moments(Tensor x, Tensor weight, Tensor? bias, Tensor adjacency, bool allow_tf32) "
      "-> (Tensor, Tensor)");
  library.def("refined_graph_conv(Tensor x, Tensor weight, Tensor? bias, Tensor relations, Tensor mixing) -> Tensor");
  library.def(
      "refined_graph_conv_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor? bias, Tensor relations, "
      "Tensor mixing, bool for_x, bool for_weight, bool for_bias, bool for_relations, bool for_mixing) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CPU, library) {
#endif
  library.impl("graph_conv", TORCH_BOX(&ikem::graph_conv::graph_conv));
  library.impl("graph_conv_backward", TORCH_BOX(&ikem::graph_conv::graph_conv_backward));
  library.impl("graph_conv_moments", TORCH_BOX(&ikem::graph_conv::graph_conv_moments));
#ifndef IKEM_CUDA_OPERATIONS
  library.impl("refined_graph_conv", TORCH_BOX(&ikem::graph_conv::refined_graph_conv));
  library.impl("refined_graph_conv_backward", TORCH_BOX(&ikem::graph_conv::refined_graph_conv_backward));
#endif
}
