// What the kernels of this family offer: pointers, sizes and strides, and nothing of torch.
#pragma once

#include <cstdint>

#include "common/moments.h"
#include "common/scalar.h"
#include "common/simd.h"
#include "common/strided.h"

namespace ikem::graph_conv {

// The sum over channels (weights) and the sum over joints (adjacency) commute. Whichever stands first, its K-fold
// features, one for each part of the graph, are the big intermediate:
//   aggregate_first   x --sum over joints--> (K C_in) --sum over channels--> y
//   transform_first   x --sum over channels--> (K C_out) --sum over joints--> y
enum class Order { aggregate_first, transform_first };

struct Problem {
  int64_t groups, clips, parts, in_channels, out_channels, frames, joints, out_joints;
  bool per_clip;     // the adjacency differs from clip to clip
  bool per_channel;  // and from output channel to output channel: only with transform_first
  Order order;
  bool paired;                          // CPU: bfloat16 multiplied as such (see common/bfloat16_product.h)
  bool tiled;                           // and in tile registers (see common/bfloat16_tiles.h)
  int64_t tile_frames, tiles_per_clip;  // frames that are worked on at once
  // With per_channel: of how many relations between joints the adjacency is mixed; 0 where it is given as it is.
  int64_t relations = 0;
};

template <class S>
struct Operands {
  Strided<const S, 5> x;          // (G, N, C_in, T, V)
  Strided<const S, 4> weight;     // (G, K, C_out, C_in)
  Strided<const S, 3> bias;       // (G, K, C_out); without data: none
  Strided<const S, 6> adjacency;  // (G, N, K, C_out, V, W), or the relations (1, N, K, R, V, W)
  Strided<const S, 3> mixing{};   // (K, C_out, R): how each channel's adjacency is mixed of them
};

// The backward pass runs in chunks: some whole clips of one group or, where clips are few, a range of one clip's
// tiles. The sums over clips are made chunk by chunk and then added up in the order of the chunks. The chunks depend on
// the problem alone, so that the results do not depend on the number of threads.
struct Chunks {
  int64_t per_group;
  int64_t clips;   // in a chunk; 1 where a clip has several
  int64_t ranges;  // chunks of one clip, 1 where a chunk has whole clips
};

// Gradients; without data: not asked for. Those of weight, bias and adjacency are partial sums, (G, chunks, ...); with
// an adjacency per clip (G, N, ranges, ...) for the adjacency's. On the CPU, where each clip has one such sum alone,
// the adjacency's gradient is written in the place of its partial sums. Where there are relations, their gradient takes
// that of the adjacency's.
template <class S>
struct Gradients {
  Strided<S, 5> x;
  Compute<S>* weight;     // weight_partial_size: row [channel of the side that is not K-fold][k, channel of the other]
  Compute<S>* bias;       // K C_out
  Compute<S>* adjacency;  // K V W, or K C_out V W
  S* whole_adjacency = nullptr;
  Compute<S>* mixing = nullptr;  // K C_out R

  bool for_adjacency() const { return adjacency != nullptr || whole_adjacency != nullptr; }
};

IKEM_INLINE int64_t weight_partial_row(const Problem& problem) {
  const bool aggregate = problem.order == Order::aggregate_first;
  return (problem.parts * (aggregate ? problem.in_channels : problem.out_channels) + 15) / 16 * 16;
}

IKEM_INLINE int64_t weight_partial_size(const Problem& problem) {
  const bool aggregate = problem.order == Order::aggregate_first;
  return ((aggregate ? problem.out_channels : problem.in_channels) + 7) / 8 * 8 * weight_partial_row(problem);
}

IKEM_INLINE int64_t adjacency_size(const Problem& problem) {
  const int64_t each = problem.relations > 0 ? problem.relations : problem.per_channel ? problem.out_channels : 1;
  return problem.parts * each * problem.joints * problem.out_joints;
}

// CPU. A task is a tile: (G, N, tiles_per_clip), and so is a part of the moments of y, which are not made where the
// adjacency differs from channel to channel. `reduce` sums out[i] = sum over j < count of
// partials[j * stride + i * step].
#define IKEM_DECLARE_GRAPH_CONV(level)                                                                         \
  namespace level {                                                                                            \
  template <class S>                                                                                           \
  void forward(const Problem& problem, const Operands<S>& operands, Strided<S, 5> y,                           \
               const PartialMoments<Compute<S>>& moments, int64_t first_task, int64_t last_task);              \
  template <class S>                                                                                           \
  void backward(const Problem& problem, const Operands<S>& operands, Strided<const S, 5> grad_y,               \
                const Gradients<S>& gradients, const Chunks& chunks, int64_t first_chunk, int64_t last_chunk); \
  template <class S>                                                                                           \
  void reduce(const Compute<S>* partials, int64_t count, int64_t stride, int64_t step, S* out, int64_t size);  \
  }
IKEM_FOR_EACH_SIMD_LEVEL(IKEM_DECLARE_GRAPH_CONV)
#undef IKEM_DECLARE_GRAPH_CONV

// CUDA. `stream` is a cudaStream_t of the current device; float32 may be multiplied as TF32 where that is allowed. The
// functions that launch return null, or what went wrong. Of the problem they need no tiles.
namespace cuda {

// What the partial sums of the gradients need, in elements.
struct Workspace {
  int64_t weight, bias, adjacency;
};

// The gradients that are sums of partial sums, contiguous; null: not asked for.
template <class S>
struct Results {
  S *weight, *bias, *adjacency;
};

// The parts of each group that moments of y are made by.
template <class S>
int64_t count_parts(const Problem& problem);
template <class S>
const char* forward(const Problem& problem, const Operands<S>& operands, const Strided<S, 5>& y,
                    const WantedMoments<Compute<S>>& moments, bool allow_tf32, void* stream);
template <class S>
Workspace workspace(const Problem& problem);
template <class S>
const char* backward(const Problem& problem, const Operands<S>& operands, const Strided<const S, 5>& grad_y,
                     const Gradients<S>& gradients, const Results<S>& results, bool allow_tf32, void* stream);

}  // namespace cuda

}  // namespace ikem::graph_conv
