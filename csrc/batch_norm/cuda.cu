// All of it is bound by memory, and what is read and written is what cpu.cpp reads and writes: forward two reads of x,
// one of the residual and one write; backward two reads of the gradient and of x, one of y, and a write for each
// gradient. Between the two passes of each a small kernel adds up what the blocks have found, in a fixed order.
#include "batch_norm/cuda/backward.h"
#include "batch_norm/cuda/forward.h"

namespace ikem::batch_norm::cuda {
namespace {

// A grid of no blocks is not launched.
template <class Kernel, class... Arguments>
const char* launch_walk(Kernel kernel, const Walk& walk, size_t bytes_of_thread, void* stream,
                        const Arguments&... arguments) {
  if (walk.blocks() == 0) {
    return nullptr;
  }
  if (walk.blocks() > MAX_BLOCKS) {
    return "more channels than a grid has blocks";
  }
  return launch(kernel, blocks_for(walk.blocks()), THREADS, THREADS * bytes_of_thread, stream, walk, arguments...);
}

// A warp has a channel.
template <class Kernel, class... Arguments>
const char* launch_channels(Kernel kernel, int64_t channels, void* stream, const Arguments&... arguments) {
  const int64_t blocks = divide_up(channels * WARP, THREADS);
  return blocks == 0 ? nullptr : launch(kernel, blocks_for(blocks), THREADS, 0, stream, arguments...);
}

// The gradients, from the sums of all parts.
template <class S, int V, bool LAST, class C = Compute<S>>
const char* finish_walk(const Walk& walk, const Backward<S>& pass, const Parameters<S>& parameters,
                        const PartialGradientSums<C>* sums, int64_t parts, const FinishWorkspace<C>& workspace,
                        void* stream) {
  const Layout& layout = walk.layout;
  if (const char* error = launch_channels(coefficients_kernel<S>, layout.channels, stream, parameters, layout.channels,
                                          layout.per_channel(), sums, parts, workspace.by_gradient, workspace.by_x,
                                          workspace.constant)) {
    return error;
  }
  const Coefficients<C> coefficients{workspace.by_gradient, workspace.by_x, workspace.constant};
  return launch_walk(gradient_kernel<S, V, LAST>, walk, 0, stream, pass, coefficients, parameters.grad_x);
}

}  // namespace

template <class S>
int64_t forward_bytes(const Forward<S>& pass) {
  return with_walk<S>(pass.layout, may_use_packs(pass), [](const Walk& walk, auto, auto) {
    return static_cast<int64_t>(count_bytes([&](SharedArrays& arrays) { ForwardWorkspace<Compute<S>>(arrays, walk); }));
  });
}

template <class S>
const char* forward(Forward<S> pass, const Statistics<Compute<S>>& statistics, void* memory, void* stream) {
  using C = Compute<S>;
  const Layout& layout = pass.layout;
  return with_walk<S>(layout, may_use_packs(pass), [&](const Walk& walk, auto v, auto last) {
    constexpr int V = decltype(v)::value;
    constexpr bool LAST = decltype(last)::value;
    SharedArrays arrays(static_cast<unsigned char*>(memory));
    const ForwardWorkspace<C> workspace(arrays, walk);
    const char* error = nullptr;
    if (statistics.given_mean == nullptr) {
      error = launch_walk(moments_kernel<S, V, LAST>, walk, sizeof(OwnMoments<C, V, LAST>), stream, pass.x,
                          workspace.partials);
    }
    if (error == nullptr) {
      error = launch_channels(statistics_kernel<C>, layout.channels, stream, statistics, layout.channels,
                              workspace.partials, walk.chunks, workspace.scale);
    }
    pass.mean = statistics.mean;
    pass.scale = workspace.scale;
    return error != nullptr ? error : launch_walk(forward_kernel<S, V, LAST>, walk, 0, stream, pass);
  });
}

template <class S>
int64_t backward_bytes(const Backward<S>& pass, const Parameters<S>& parameters) {
  const bool packs = may_use_packs(pass, parameters.grad_x, parameters.grad_residual);
  return with_walk<S>(pass.layout, packs, [](const Walk& walk, auto, auto) {
    return static_cast<int64_t>(
        count_bytes([&](SharedArrays& arrays) { BackwardWorkspace<Compute<S>>(arrays, walk); }));
  });
}

template <class S>
const char* backward(Backward<S> pass, const Parameters<S>& parameters, void* memory, void* stream) {
  using C = Compute<S>;
  const bool packs = may_use_packs(pass, parameters.grad_x, parameters.grad_residual);
  return with_walk<S>(pass.layout, packs, [&](const Walk& walk, auto v, auto last) {
    constexpr int V = decltype(v)::value;
    constexpr bool LAST = decltype(last)::value;
    SharedArrays arrays(static_cast<unsigned char*>(memory));
    const BackwardWorkspace<C> workspace(arrays, walk);
    if (const char* error =
            launch_walk(gradient_sums_kernel<S, V, LAST>, walk, sizeof(OwnSums<C, Turn<V, LAST>::CHANNELS>), stream,
                        pass, parameters.grad_residual, workspace.partials)) {
      return error;
    }
    if (parameters.grad_residual != nullptr) {  // which is the gradient behind the ReLU
      pass.grad_y = parameters.grad_residual;
      pass.y = nullptr;
      pass.through = nullptr;
    }
    return finish_walk<S, V, LAST>(walk, pass, parameters, workspace.partials, walk.chunks, workspace, stream);
  });
}

template <class S>
int64_t finish_bytes(const Layout& layout) {
  return static_cast<int64_t>(
      count_bytes([&](SharedArrays& arrays) { FinishWorkspace<Compute<S>>(arrays, layout.channels); }));
}

template <class S>
const char* finish(const Backward<S>& pass, const Parameters<S>& parameters,
                   const PartialGradientSums<Compute<S>>* sums, int64_t parts, void* memory, void* stream) {
  SharedArrays arrays(static_cast<unsigned char*>(memory));
  const FinishWorkspace<Compute<S>> workspace(arrays, pass.layout.channels);
  const bool packs = may_use_packs<S>(pass, parameters.grad_x, nullptr);
  return with_walk<S>(pass.layout, packs, [&](const Walk& walk, auto v, auto last) {
    return finish_walk<S, decltype(v)::value, decltype(last)::value>(walk, pass, parameters, sums, parts, workspace,
                                                                     stream);
  });
}

#define INSTANTIATE(S)                                                                                             \
  template int64_t forward_bytes<S>(const Forward<S>&);                                                            \
  template const char* forward<S>(Forward<S>, const Statistics<Compute<S>>&, void*, void*);                        \
  template int64_t backward_bytes<S>(const Backward<S>&, const Parameters<S>&);                                    \
  template const char* backward<S>(Backward<S>, const Parameters<S>&, void*, void*);                               \
  template int64_t finish_bytes<S>(const Layout&);                                                                 \
  template const char* finish<S>(const Backward<S>&, const Parameters<S>&, const PartialGradientSums<Compute<S>>*, \
                                 int64_t, void*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::batch_norm::cuda
