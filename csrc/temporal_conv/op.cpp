// Compiled twice: into the operations library, where it defines the operations and their CPU side, and, with
// IKEM_CUDA_OPERATIONS, into the CUDA library. Arguments are checked with friendly messages in
// ikem_ext/temporal_conv.py; the checks here are those without which a kernel could read astray.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "batch_norm/passes.h"
#include "common/tensor.h"
#include "temporal_conv/kernel.h"
#ifdef IKEM_CUDA_OPERATIONS
#include "common/cuda_stream.h"
#endif

namespace ikem::temporal_conv {
namespace {

using Integers = std::vector<int64_t>;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class S, int AXES>
Strided<S, AXES> strided(const Tensor& tensor) {
  Strided<S, AXES> result;
  result.data = static_cast<S*>(const_cast<void*>(tensor.const_data_ptr()));
  for (int axis = 0; axis < AXES; ++axis) {
    result.strides[axis] = tensor.stride(axis);
  }
  return result;
}

#ifndef IKEM_CUDA_OPERATIONS

// What a transform of some lines costs, in multiply-adds of vectors: its products, which are small, and the loads and
// stores around them.
int64_t transform_cost(const Problem& problem, int64_t length) {
  const int64_t half = length / 2;
  const int64_t products = (problem.pairs() + problem.single_frequencies()) * (half + 1) + problem.pairs() * half;
  return products * 3 / 2 + 3 * (length + problem.products());
}

int64_t cost(const Problem& problem) {
  const int64_t in_vectors = padded_channels(problem.in_channels) / 16;
  const int64_t out_vectors = padded_channels(problem.out_channels) / 16;
  const int64_t products = problem.products() * problem.phases * problem.in_channels * out_vectors;
  return problem.tiles * (products + problem.phases * in_vectors * transform_cost(problem, problem.window) +
                          out_vectors * transform_cost(problem, problem.tile));
}

// The first and the last place of a single tile's inputs that no padding takes, over all classes and phases.
std::pair<int64_t, int64_t> places_of_inputs(const Problem& problem, int64_t last_place) {
  int64_t first = last_place, last = 0;
  for (int64_t residue = 0; residue < problem.classes; ++residue) {
    for (int64_t phase = 0; phase < problem.phases; ++phase) {
      const int64_t offset = problem.stride * residue + problem.phase_offset(phase);
      first = std::min(first, offset >= 0 ? 0 : divide_up(-offset, problem.frame_step));
      if (offset < problem.frames) {
        last = std::max(last, (problem.frames - 1 - offset) / problem.frame_step);
      }
    }
  }
  last = std::clamp<int64_t>(last, 0, last_place);
  return {std::min(first, last), last};
}

// The tiles whose transforms and products are the least work. Weights in frequencies grow with the size of the circle,
// so that it is bounded.
void choose_tiles(Problem& problem) {
  constexpr int64_t MAX_POINTS = 36;
  const int64_t outputs = divide_up(problem.out_frames, problem.classes);
  Problem best = problem;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int64_t tile = outputs; tile > 0; --tile) {
    Problem with = problem;
    with.tiles = divide_up(outputs, tile);
    with.tile = tile;
    const int64_t last_place = tile + problem.phase_taps - 2;
    with.window_first = 0;
    with.window = with.points = last_place + 1;
    if (with.tiles == 1) {
      const auto [first, last] = places_of_inputs(problem, last_place);
      with.window_first = first;
      with.window = last - first + 1;
      with.points = std::max({last + 1, last_place - first + 1, tile});
    }
    if (const int64_t work = cost(with); work < least && (with.points <= MAX_POINTS || tile == 1)) {
      least = work;
      best = with;
    }
  }
  problem = best;
}

// Rows enough that the weights, which all pass by, are not read for a few alone; beyond that as many as a core's own
// cache holds. Pairs are half as many bytes of weights.
void choose_clips_at_once(Problem& problem, size_t scalar_bytes) {
  const int64_t min_rows = problem.paired ? 48 : 64;
  constexpr int64_t TASK_BYTES = 512 * 1024;
  constexpr int64_t MIN_TASKS = 8;
  const int64_t rows = std::max<int64_t>(1, problem.classes * problem.tiles * problem.joints);
  const int64_t bytes = static_cast<int64_t>(scalar_bytes) * rows *
                        (problem.factors() * problem.phases * padded_channels(problem.in_channels) +
                         problem.products() * padded_channels(problem.out_channels));
  const int64_t wanted = std::max(divide_up(min_rows, rows), TASK_BYTES / bytes);
  problem.clips_at_once = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, divide_up(problem.clips, MIN_TASKS)));
}

// Some clips together where the sums of the weights' gradient are larger than what a clip adds to them, so that they
// are read and written less often; of these no more than a core's own cache holds.
void choose_clips_of_tiles(Problem& problem) {
  constexpr int64_t TASK_BYTES = 1024 * 1024;
  constexpr int64_t MIN_TASKS = 16;
  const int64_t bytes = 2 * problem.joints *
                        (problem.out_frames * padded_channels(problem.out_channels) +
                         (problem.frames + 2 * problem.padding) * padded_channels(problem.in_channels));
  const int64_t sums = gradient_size(problem) * static_cast<int64_t>(sizeof(float));
  problem.clips_at_once = std::clamp<int64_t>(std::min(sums, TASK_BYTES) / std::max<int64_t>(bytes, 1), 1,
                                              std::max<int64_t>(1, divide_up(problem.clips, MIN_TASKS)));
}

// Of a single tap frequencies would spare nothing, and of few channels in pairs less than their transforms cost, which
// stay in float32 (docs/performance.md, "Few channels, and one tap"). Tiles are multiplied faster than transformed.
void choose_form(Problem& problem, size_t scalar_bytes) {
  constexpr int64_t FEW_CHANNELS = 8, MOST_TAPS = 9;
  const bool few = problem.paired && problem.taps <= MOST_TAPS && problem.in_channels <= FEW_CHANNELS &&
                   problem.out_channels <= FEW_CHANNELS;
  problem.direct = problem.tiled || problem.taps == 1 || few;
  if (!problem.direct) {
    choose_tiles(problem);
    return choose_clips_at_once(problem, scalar_bytes);
  }
  problem.classes = problem.phases = problem.clips_at_once = 1;
  problem.phase_taps = problem.taps;
  if (problem.tiled) {
    choose_clips_of_tiles(problem);
  }
}

#endif

struct Arguments {
  const Tensor &x, &weight;
  Problem problem{};

  Arguments(const Tensor& x, const Tensor& weight, int64_t stride, int64_t padding, int64_t dilation)
      : x(x), weight(weight) {
    STD_TORCH_CHECK(x.dim() == 4, "x: expected shape (N, C_in, T, V)");
    STD_TORCH_CHECK(weight.dim() == 3 && weight.size(1) == x.size(1) && weight.scalar_type() == x.scalar_type(),
                    "weight: expected shape (C_out, C_in, K) and the dtype of x");
    STD_TORCH_CHECK(weight.size(2) > 0 && stride > 0 && padding >= 0 && dilation > 0,
                    "expected a tap, stride and dilation above 0, and padding not below");
    require_device("weight", weight);
    problem.clips = x.size(0);
    problem.in_channels = x.size(1);
    problem.frames = x.size(2);
    problem.joints = x.size(3);
    problem.out_channels = weight.size(0);
    problem.taps = weight.size(2);
    problem.stride = stride;
    problem.dilation = dilation;
    problem.padding = padding;
    const int64_t reach = problem.frames + 2 * padding - dilation * (problem.taps - 1) - 1;
    STD_TORCH_CHECK(reach >= 0, "x: expected as many frames, with padding, as the kernel spans");
    problem.out_frames = reach / stride + 1;
    const int64_t divisor = std::gcd(stride, dilation);
    problem.classes = dilation / divisor;
    problem.phases = std::min(stride / divisor, problem.taps);
    problem.frame_step = stride * problem.classes;
    problem.phase_taps = divide_up(problem.taps, problem.phases);
#ifndef IKEM_CUDA_OPERATIONS
    problem.paired = x.scalar_type() == ScalarType::BFloat16 && simd_multiplies_bfloat16();
    problem.tiled = problem.paired && simd_multiplies_tiles();
    choose_form(problem, x.scalar_type() == ScalarType::Double ? sizeof(double) : sizeof(float));
#endif
  }

  Integers output_sizes() const { return {problem.clips, problem.out_channels, problem.out_frames, problem.joints}; }

  template <class C>
  Tensor empty_numbers(int64_t count) const {
    return torch::stable::new_empty(x, Integers{count}, compute_type(x.scalar_type()));
  }

  template <class T>
  Tensor empty_parts(int64_t count) const {
    return torch::stable::new_empty(x, Integers{count * static_cast<int64_t>(sizeof(T))}, ScalarType::Byte);
  }

  void require_device(const char* name, const Tensor& tensor) const {
    STD_TORCH_CHECK(tensor.device() == x.device(), name, ": expected to be on the device that x is on");
  }

  // Less arithmetic than this is not worth waking a thread for.
  int64_t grain(int64_t tasks) const {
    constexpr int64_t MIN_WORK_PER_THREAD = 1 << 21;
    const int64_t work =
        problem.clips * problem.out_frames * problem.joints * problem.taps * problem.in_channels * problem.out_channels;
    return std::max<int64_t>(1, tasks * MIN_WORK_PER_THREAD / std::max<int64_t>(work, 1));
  }
};

template <class T>
T* data(const Tensor& tensor) {
  return tensor.numel() > 0 ? static_cast<T*>(const_cast<void*>(tensor.const_data_ptr())) : nullptr;
}

Tensor make_output(const Arguments& arguments, const std::optional<Tensor>& bias) {
  const Problem& problem = arguments.problem;
  STD_TORCH_CHECK(!bias.has_value() || (bias->dim() == 1 && bias->size(0) == problem.out_channels &&
                                        bias->scalar_type() == arguments.x.scalar_type()),
                  "bias: expected shape (C_out,) and the dtype of x");
  if (bias.has_value()) {
    arguments.require_device("bias", *bias);
  }
  return empty_features(arguments.x, arguments.output_sizes());
}

std::optional<Tensor> dense(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional(torch::stable::contiguous(*tensor)) : std::nullopt;
}

// A norm and ReLU that x goes through first, by numbers of its channels in the type that it is computed in.
struct NormTensors {
  Tensor weight, bias, moments;  // (C_in,), (C_in,), and mean and variance, (2, C_in)
  double eps;
  bool training;  // the moments are those of x

  NormTensors(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& moments, double eps,
              bool training)
      : weight(numbers("norm_weight", x, weight, false)),
        bias(numbers("norm_bias", x, bias, false)),
        moments(numbers("norm_moments", x, moments, true)),
        eps(eps),
        training(training) {}

  template <class C>
  const C* mean() const {
    return data<C>(moments);
  }
  template <class C>
  const C* variance() const {
    return mean<C>() + weight.size(0);
  }

 private:
  static Tensor numbers(const char* name, const Tensor& x, const Tensor& tensor, bool pairs) {
    STD_TORCH_CHECK(tensor.dim() == (pairs ? 2 : 1) && (!pairs || tensor.size(0) == 2) &&
                        tensor.size(-1) == x.size(1) && tensor.scalar_type() == compute_type(x.scalar_type()) &&
                        tensor.device() == x.device(),
                    name, ": expected numbers of the channels in the type that x is computed in, on its device");
    return torch::stable::contiguous(tensor);
  }
};

#ifndef IKEM_CUDA_OPERATIONS

template <class S>
void transform_channels(const Problem& problem, const Strided<const S, 3>& weight, bool backward, Compute<S>* spectrum,
                        int64_t first, int64_t last) {
  IKEM_DISPATCH_SIMD(transform_weight<S>(problem, weight, backward, spectrum, first, last))
}
template <class S>
void forward_tasks(const Problem& problem, const Strided<const S, 4>& x, const Norm<Compute<S>>& norm,
                   const Compute<S>* spectrum, const S* bias, const Strided<S, 4>& y,
                   const PartialMoments<Compute<S>>& moments, int64_t first, int64_t last) {
  IKEM_DISPATCH_SIMD(forward<S>(problem, x, norm, spectrum, bias, y, moments, first, last))
}
template <class S>
void backward_chunks(const Problem& problem, const Strided<const S, 4>& x, const Norm<Compute<S>>& norm,
                     const Strided<const S, 4>& grad_y, const Compute<S>* spectrum, const Gradients<S>& gradients,
                     int64_t chunks, int64_t first, int64_t last) {
  IKEM_DISPATCH_SIMD(backward<S>(problem, x, norm, grad_y, spectrum, gradients, chunks, first, last))
}
template <class S>
void finish_channels(const Problem& problem, const Compute<S>* partials, int64_t chunks, S* grad_weight, int64_t first,
                     int64_t last) {
  IKEM_DISPATCH_SIMD(finish_weight<S>(problem, partials, chunks, grad_weight, first, last))
}

template <class S>
Tensor spectrum_of(const Arguments& arguments, bool backward) {
  using C = Compute<S>;
  const Problem& problem = arguments.problem;
  const int64_t summed = backward ? problem.out_channels : problem.in_channels;
  const int64_t made = backward ? problem.in_channels : problem.out_channels;
  Tensor spectrum = arguments.empty_numbers<C>(spectrum_size(problem, summed, made));
  const Strided<const S, 3> weight = strided<const S, 3>(arguments.weight);
  torch::stable::parallel_for(0, summed, arguments.grain(summed), [&](int64_t first, int64_t last) {
    transform_channels<S>(problem, weight, backward, data<C>(spectrum), first, last);
  });
  return spectrum;
}

// By what a norm, if there is one, multiplies each channel.
template <class C>
std::vector<C> scale_of(const NormTensors* norm) {
  std::vector<C> scale(norm != nullptr ? static_cast<size_t>(norm->weight.size(0)) : 0);
  for (size_t c = 0; c < scale.size(); ++c) {
    scale[c] = data<C>(norm->weight)[c] * batch_norm::inverse_deviation(norm->variance<C>()[c], norm->eps);
  }
  return scale;
}

template <class C>
Norm<C> norm_of(const NormTensors* norm, const std::vector<C>& scale) {
  return norm != nullptr ? Norm<C>{norm->mean<C>(), scale.data(), data<C>(norm->bias)} : Norm<C>{};
}

template <class S>
void run_tasks(const Arguments& arguments, const std::optional<Tensor>& bias, const NormTensors* norm, const Tensor& y,
               const PartialMoments<Compute<S>>& moments) {
  using C = Compute<S>;
  Problem problem = arguments.problem;
  if (problem.tiled) {
    problem.clips_at_once = 1;  // some together are for the sums of the gradient
  }
  const Tensor spectrum = spectrum_of<S>(arguments, /*backward=*/false);
  const std::vector<C> scale = scale_of<C>(norm);
  const int64_t tasks = divide_up(problem.clips, problem.clips_at_once);
  torch::stable::parallel_for(0, tasks, arguments.grain(tasks), [&](int64_t first, int64_t last) {
    forward_tasks<S>(problem, strided<const S, 4>(arguments.x), norm_of(norm, scale), data<C>(spectrum),
                     bias.has_value() ? data<S>(*bias) : nullptr, strided<S, 4>(y), moments, first, last);
  });
}

// `norm` may be null, and so may `made`, where the mean and the variance of each channel of y go.
template <class S>
void run_forward(const Arguments& arguments, const std::optional<Tensor>& bias, const NormTensors* norm,
                 const Tensor& y, Compute<S>* made, bool) {
  if (made == nullptr) {
    return run_tasks<S>(arguments, bias, norm, y, {});
  }
  const Problem& problem = arguments.problem;
  std::vector<Compute<S>> means(static_cast<size_t>(problem.clips * problem.out_channels)), squares(means.size());
  const PartialMoments<Compute<S>> partial{means.data(), squares.data()};
  run_tasks<S>(arguments, bias, norm, y, partial);
  const auto positions = [&](int64_t) { return problem.out_frames * problem.joints; };
  merge_moments(partial, problem.clips, problem.out_channels, positions, made, made + problem.out_channels);
}

// Enough chunks for some threads, but none of which the sums take more memory than they are worth; a power of two, so
// that two or four threads have the same to do.
int64_t choose_chunks(const Problem& problem, size_t scalar_bytes) {
  constexpr int64_t MIN_CHUNKS = 2, MAX_CHUNKS = 16;
  constexpr int64_t SUMS_BYTES = 20 * 1024 * 1024;
  const int64_t bytes = gradient_size(problem) * static_cast<int64_t>(scalar_bytes);
  int64_t chunks = MIN_CHUNKS;
  while (2 * chunks <= MAX_CHUNKS && 2 * chunks * bytes <= SUMS_BYTES) {
    chunks *= 2;
  }
  return std::min(chunks, divide_up(problem.clips, problem.clips_at_once));
}

#else

template <class C>
cuda::GivenNorm<C> given_norm(const NormTensors* norm, const Tensor& scale) {
  return norm == nullptr ? cuda::GivenNorm<C>{}
                         : cuda::GivenNorm<C>{data<C>(norm->weight), data<C>(norm->bias), norm->mean<C>(),
                                              norm->variance<C>(),   norm->eps,           data<C>(scale)};
}

// `norm` may be null, and so may `made`, where the mean and the variance of each channel of y go.
template <class S>
void run_forward(const Arguments& arguments, const std::optional<Tensor>& bias, const NormTensors* norm,
                 const Tensor& y, Compute<S>* made, bool allow_tf32) {
  using C = Compute<S>;
  const Problem& problem = arguments.problem;
  const Tensor& x = arguments.x;
  const int32_t device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Tensor packed = torch::stable::new_empty(x, Integers{cuda::packed_size<S>(problem, /*for_gradient=*/false)});
  const Tensor scale = arguments.empty_numbers<C>(norm != nullptr ? problem.in_channels : 0);
  const Tensor parts = arguments.empty_parts<Moments<C>>(
      made != nullptr ? problem.out_channels * cuda::count_parts<S>(problem, /*for_gradient=*/false) : 0);
  const WantedMoments<C> moments{made, made != nullptr ? data<Moments<C>>(parts) : nullptr};
  const char* error = cuda::forward<S>(problem, strided<const S, 4>(x), given_norm<C>(norm, scale),
                                       strided<const S, 3>(arguments.weight), data<S>(packed),
                                       bias.has_value() ? data<S>(*bias) : nullptr, strided<S, 4>(y), moments,
                                       allow_tf32, current_cuda_stream(device));
  STD_TORCH_CHECK(error == nullptr, "temporal_conv: ", error);
}

#endif

// TF32 is for CUDA alone.
Tensor temporal_conv(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, int64_t stride, int64_t padding,
                     int64_t dilation, bool allow_tf32) {
  const Arguments arguments(x, weight, stride, padding, dilation);
  const Tensor y = make_output(arguments, bias);
  if (y.numel() > 0) {
    dispatch_floating(x, "x", [&](auto scalar) {
      run_forward<decltype(scalar)>(arguments, dense(bias), nullptr, y, nullptr, allow_tf32);
    });
  }
  return y;
}

// Of a norm's weight and bias.
struct NormGradients {
  Tensor weight, bias;
};

// The backward pass.
class Backward {
 public:
  Backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight, int64_t stride, int64_t padding,
           int64_t dilation, bool for_x, bool for_weight, bool for_bias)
      : arguments_(x, weight, stride, padding, dilation), grad_y_(grad_y) {
    const Problem& problem = arguments_.problem;
    const Integers expected = arguments_.output_sizes();
    const auto sizes = grad_y.sizes();
    STD_TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), expected.begin(), expected.end()) &&
                        grad_y.scalar_type() == x.scalar_type(),
                    "grad_y: expected the shape and dtype of the output");
    arguments_.require_device("grad_y", grad_y);
    const auto x_sizes = x.sizes();
    this->x =
        for_x ? empty_features(x, Integers(x_sizes.begin(), x_sizes.end())) : torch::stable::new_empty(x, Integers{0});
    this->weight = torch::stable::new_zeros(
        x, for_weight ? Integers{problem.out_channels, problem.in_channels, problem.taps} : Integers{0});
    bias = torch::stable::new_zeros(x, for_bias ? Integers{problem.out_channels} : Integers{0});
  }

  bool is_empty() const { return arguments_.x.numel() == 0 || grad_y_.numel() == 0; }

#ifdef IKEM_CUDA_OPERATIONS

  // `norm` may be null; then there are no gradients of it.
  template <class S>
  void run(const NormTensors* norm, const NormGradients* of_norm, bool allow_tf32) {
    using C = Compute<S>;
    const Problem& problem = arguments_.problem;
    const Tensor& input = arguments_.x;
    const int32_t device = input.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const cuda::Workspace sizes = cuda::workspace<S>(problem);
    const bool for_x = x.numel() > 0, for_norm = for_x && norm != nullptr;
    const Tensor packed =
        torch::stable::new_empty(input, Integers{for_x ? cuda::packed_size<S>(problem, /*for_gradient=*/true) : 0});
    const Tensor weights = arguments_.empty_numbers<C>(weight.numel() > 0 ? sizes.weight : 0);
    const Tensor biases = arguments_.empty_numbers<C>(bias.numel() > 0 ? sizes.bias : 0);
    const Tensor scale = arguments_.empty_numbers<C>(norm != nullptr ? problem.in_channels : 0);
    const int64_t parts = for_norm ? cuda::count_parts<S>(problem, /*for_gradient=*/true) : 0;
    const Tensor sums = arguments_.empty_parts<PartialGradientSums<C>>(problem.in_channels * parts);
    const Gradients<S> partials{for_x ? strided<S, 4>(x) : Strided<S, 4>{}, data<C>(weights), data<C>(biases)};
    void* const stream = current_cuda_stream(device);
    const char* error =
        cuda::backward<S>(problem, strided<const S, 4>(input), given_norm<C>(norm, scale), strided<const S, 4>(grad_y_),
                          strided<const S, 3>(arguments_.weight), data<S>(packed), partials,
                          {data<S>(weight), data<S>(bias)}, data<PartialGradientSums<C>>(sums), allow_tf32, stream);
    if (error == nullptr && for_norm) {
      const auto pass = pass_through<S>(*norm);
      const Tensor memory = arguments_.empty_parts<char>(batch_norm::cuda::finish_bytes<S>(pass.layout));
      error = batch_norm::cuda::finish(pass, parameters_of<S>(*norm, *of_norm), data<PartialGradientSums<C>>(sums),
                                       parts, data<char>(memory), stream);
    }
    STD_TORCH_CHECK(error == nullptr, "temporal_conv_backward: ", error);
  }

#else

  // `norm` may be null; then there are no gradients of it.
  template <class S>
  void run(const NormTensors* norm, const NormGradients* of_norm, bool) {
    using C = Compute<S>;
    const Problem& problem = arguments_.problem;
    const bool for_x = x.numel() > 0, for_weight = weight.numel() > 0, for_bias = bias.numel() > 0;
    const bool for_norm = for_x && norm != nullptr;
    const Tensor spectrum = for_x ? spectrum_of<S>(arguments_, /*backward=*/true) : arguments_.empty_numbers<C>(0);
    const int64_t chunks = choose_chunks(problem, sizeof(C));
    const Tensor weights = arguments_.empty_numbers<C>(for_weight ? chunks * gradient_size(problem) : 0);
    const int64_t bias_size = padded_channels(problem.out_channels);
    const Tensor biases = arguments_.empty_numbers<C>(for_bias ? chunks * bias_size : 0);
    std::vector<C> norm_sums(static_cast<size_t>(for_norm ? chunks * problem.in_channels : 0)),
        norm_products(norm_sums.size());
    const std::vector<C> scale = scale_of<C>(norm);
    Gradients<S> gradients{};
    if (for_x) {
      gradients.x = strided<S, 4>(x);
    }
    gradients.weight = data<C>(weights);
    gradients.bias = data<C>(biases);
    gradients.norm_sums = for_norm ? norm_sums.data() : nullptr;
    gradients.norm_products = norm_products.data();
    torch::stable::parallel_for(0, chunks, arguments_.grain(chunks), [&](int64_t first, int64_t last) {
      backward_chunks<S>(problem, strided<const S, 4>(arguments_.x), norm_of(norm, scale), strided<const S, 4>(grad_y_),
                         data<C>(spectrum), gradients, chunks, first, last);
    });
    if (for_weight) {
      torch::stable::parallel_for(0, problem.in_channels, arguments_.grain(problem.in_channels),
                                  [&](int64_t first, int64_t last) {
                                    finish_channels<S>(problem, gradients.weight, chunks, data<S>(weight), first, last);
                                  });
    }
    for (int64_t o = 0; for_bias && o < problem.out_channels; ++o) {
      C sum = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        sum += gradients.bias[chunk * bias_size + o];
      }
      data<S>(bias)[o] = narrow<S>(sum);
    }
    if (for_norm) {
      batch_norm::GradientSums sums(problem.in_channels);
      sums.add(norm_sums, norm_products);
      batch_norm::finish_gradients<S>(pass_through<S>(*norm), sums, parameters_of<S>(*norm, *of_norm));
    }
  }

#endif

  Tensor x, weight, bias;  // the gradients

 private:
  // Through the norm, in the place of the gradient behind it; x is dense.
  template <class S>
  batch_norm::Backward<S> pass_through(const NormTensors& norm) const {
    return {batch_norm::layout_of(arguments_.x),
            data<S>(x),
            /*y=*/nullptr,
            /*through=*/nullptr,
            data<S>(arguments_.x),
            norm.mean<Compute<S>>(),
            /*dropout=*/{}};
  }
  template <class S>
  batch_norm::Parameters<S> parameters_of(const NormTensors& norm, const NormGradients& gradients) const {
    using C = Compute<S>;
    return {data<C>(norm.weight),
            norm.variance<C>(),
            norm.eps,
            norm.training,
            data<S>(x),
            /*grad_residual=*/nullptr,
            data<C>(gradients.weight),
            data<C>(gradients.bias)};
  }

  const Arguments arguments_;
  const Tensor& grad_y_;
};

std::tuple<Tensor, Tensor, Tensor> temporal_conv_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                                          int64_t stride, int64_t padding, int64_t dilation,
                                                          bool allow_tf32, bool for_x, bool for_weight, bool for_bias) {
  Backward backward(grad_y, x, weight, stride, padding, dilation, for_x, for_weight, for_bias);
  if (!backward.is_empty()) {
    dispatch_floating(x, "x", [&](auto scalar) { backward.run<decltype(scalar)>(nullptr, nullptr, allow_tf32); });
  }
  return {backward.x, backward.weight, backward.bias};
}

// Of x, or where there is a norm of relu(norm(x)); also the mean and the variance of each channel of y, (2, C_out).
std::tuple<Tensor, Tensor> temporal_conv_normed(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                                std::optional<Tensor> norm_weight, std::optional<Tensor> norm_bias,
                                                std::optional<Tensor> norm_moments, double eps, bool training,
                                                int64_t stride, int64_t padding, int64_t dilation, bool allow_tf32) {
  const Arguments arguments(x, weight, stride, padding, dilation);
  const Tensor y = make_output(arguments, bias);
  const Tensor moments =
      torch::stable::new_zeros(x, Integers{2, arguments.problem.out_channels}, compute_type(x.scalar_type()));
  STD_TORCH_CHECK(norm_weight.has_value() == norm_bias.has_value() && norm_bias.has_value() == norm_moments.has_value(),
                  "norm_weight, norm_bias, norm_moments: expected all or none");
  std::optional<NormTensors> norm;
  if (norm_weight.has_value()) {
    norm.emplace(x, *norm_weight, *norm_bias, *norm_moments, eps, training);
  }
  if (y.numel() > 0) {
    dispatch_floating(x, "x", [&](auto scalar) {
      using S = decltype(scalar);
      run_forward<S>(arguments, dense(bias), norm.has_value() ? &*norm : nullptr, y, data<Compute<S>>(moments),
                     allow_tf32);
    });
  }
  return {y, moments};
}

// With a norm; `for_x` is for its own gradients, too, which are the last two.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> temporal_conv_normed_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& weight, const Tensor& norm_weight, const Tensor& norm_bias,
    const Tensor& norm_moments, double eps, bool training, int64_t stride, int64_t padding, int64_t dilation,
    bool allow_tf32, bool for_x, bool for_weight, bool for_bias) {
  const Tensor dense = for_x ? torch::stable::contiguous(x, batch_norm::format_of(x)) : x;
  Backward backward(grad_y, dense, weight, stride, padding, dilation, for_x, for_weight, for_bias);
  const NormTensors norm(x, norm_weight, norm_bias, norm_moments, eps, training);
  const Integers sizes{for_x ? x.size(1) : 0};
  const NormGradients of_norm{torch::stable::new_zeros(norm.weight, sizes),
                              torch::stable::new_zeros(norm.weight, sizes)};
  if (!backward.is_empty()) {
    dispatch_floating(x, "x", [&](auto scalar) { backward.run<decltype(scalar)>(&norm, &of_norm, allow_tf32); });
  }
  return {backward.x, backward.weight, backward.bias, of_norm.weight, of_norm.bias};
}

}  // namespace
}  // namespace ikem::temporal_conv

#ifdef IKEM_CUDA_OPERATIONS
STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CUDA, library) {
#else
STABLE_TORCH_LIBRARY_FRAGMENT(ikem_ext, library) {
  library.def(
      "temporal_conv(Tensor x, Tensor weight, Tensor? bias, int stride, int padding, int dilation, bool allow_tf32) "
      "-> Tensor");
  library.def(
      "temporal_conv_backward(Tensor grad_y, Tensor x, Tensor weight, int stride, int padding, int dilation, "
      "bool allow_tf32, bool for_x, bool for_weight, bool for_bias) -> (Tensor, Tensor, Tensor)");
  library.def(
      "temporal_conv_normed(Tensor x, Tensor weight, Tensor? bias, Tensor? norm_weight, Tensor? norm_bias, "
      "Tensor? norm_moments, float eps, bool training, int stride, int padding, int dilation, bool allow_tf32) "
      "-> (Tensor, Tensor)");
  library.def(
      "temporal_conv_normed_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor norm_weight, Tensor norm_bias, "
      "Tensor norm_moments, float eps, bool training, int stride, int padding, int dilation, bool allow_tf32, "
      "bool for_x, bool for_weight, bool for_bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CPU, library) {
#endif
  library.impl("temporal_conv", TORCH_BOX(&ikem::temporal_conv::temporal_conv));
  library.impl("temporal_conv_backward", TORCH_BOX(&ikem::temporal_conv::temporal_conv_backward));
  library.impl("temporal_conv_normed", TORCH_BOX(&ikem::temporal_conv::temporal_conv_normed));
  library.impl("temporal_conv_normed_backward", TORCH_BOX(&ikem::temporal_conv::temporal_conv_normed_backward));
}
