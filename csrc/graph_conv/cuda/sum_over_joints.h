// Sums over the joints by the values of the adjacency that are not zero.
#pragma once

#include "graph_conv/cuda/layer.h"
#include "graph_conv/cuda/tiles.h"

namespace ikem::graph_conv::cuda {
namespace {

template <class S>
class SumOverJoints {
  using C = Compute<S>;

 public:
  __host__ __device__ SumOverJoints(const Edges<S>& edges, SharedArrays& shared) : edges_(edges) {
    const int columns = edges.parts * edges.targets;
    if (edges.kept()) {
      values_ = shared.take<C>(columns * edges.sources);
      bits_ = shared.take<uint32_t>(columns * edges.words());
    }
    totals_ = shared.take<C>(edges.per_channel ? 0 : columns);
  }

  // Goes to the adjacency of one clip. Needs a barrier before and after.
  __device__ void select(int group, int clip) {
    data_ = edges_.data + group * edges_.group + clip * edges_.clip;
    if (edges_.per_channel) {
      return;
    }
    for (int i = static_cast<int>(threadIdx.x); i < edges_.parts * edges_.targets; i += static_cast<int>(blockDim.x)) {
      const S* at = data_ + i / edges_.targets * edges_.part + i % edges_.targets * edges_.target;
      C total = 0;
      for (int word = 0; word < edges_.words(); ++word) {
        const int first = 32 * word;
        const int count = smaller(32, edges_.sources - first);
        uint32_t bits = 0;
#pragma unroll 8
        for (int j = 0; j < count; ++j) {
          const C value = widen(at[(first + j) * edges_.source]);
          total += value;
          bits |= static_cast<uint32_t>(value != 0) << j;
          if (values_ != nullptr) {
            values_[i * edges_.sources + first + j] = value;
          }
        }
        if (values_ != nullptr) {
          bits_[i * edges_.words() + word] = bits;
        }
      }
      totals_[i] = total;
    }
  }

  // The sum of the target's column of the adjacency.
  __device__ C total(int part, int target) const { return totals_[part * edges_.targets + target]; }

  // sums += the sources' rows times the target's values; `channel` is the rows' among those of the adjacency.
  template <class T, int L>
  __device__ void add(int part, int target, const T* row, int length, int channel, int channels, C (&sums)[L]) const {
    if (values_ != nullptr) {
      const int column = part * edges_.targets + target;
      const C* values = values_ + column * edges_.sources;
      for (int word = 0; word < edges_.words(); ++word) {
        for (uint32_t bits = bits_[column * edges_.words() + word]; bits != 0; bits &= bits - 1) {
          const int source = 32 * word + lowest_bit(bits);
          const auto pack = read_pack<L>(row + source * length);
#pragma unroll
          for (int i = 0; i < L; ++i) {
            sums[i] += values[source] * widen(pack.values[i]);
          }
        }
      }
      return;
    }
    const S* at = data_ + part * edges_.part + target * edges_.target + channel * edges_.channel;
#pragma unroll 1
    for (int source = 0; source < edges_.sources; ++source, at += edges_.source, row += length) {
      const C shared_value = edges_.per_channel ? C(0) : widen(*at);
      if (!edges_.per_channel && shared_value == 0) {
        continue;
      }
      const auto pack = read_pack<L>(row);
#pragma unroll
      for (int i = 0; i < L; ++i) {
        if (!edges_.per_channel) {
          sums[i] += shared_value * widen(pack.values[i]);
        } else if (channel + i < channels) {
          sums[i] += widen(at[i * edges_.channel]) * widen(pack.values[i]);
        }
      }
    }
  }

 private:
  const Edges<S>& edges_;
  const S* data_ = nullptr;
  C* values_ = nullptr;
  uint32_t* bits_ = nullptr;
  C* totals_ = nullptr;
};

// wide = the sums over the joints of one part of the graph, for the rows of the place's targets; `channel` is the first
// of the rows'. The packs of a row are shared out among `turns` threads.
template <class S, int CHANNELS>
__device__ void sum_sources(const SumOverJoints<S>& joints, int part, const Place& place, int all_sources,
                            const Rows<S, CHANNELS>& sources, int channel, int channels, int padded,
                            const Rows<S, CHANNELS>& wide, int count, int turn, int turns) {
  constexpr int L = PACK<S>;
#pragma unroll 1
  for (int row = Self().index; row < count; row += ROWS) {
    const int frame = row / place.joints;
    const int target = place.first_joint + row % place.joints;
#pragma unroll 1
    for (int c = turn * L; c < padded; c += turns * L) {
      Compute<S> sums[L] = {};
      if (frame < place.frames) {
        joints.add(part, target, sources.at(frame * all_sources) + c, sources.LENGTH, channel + c, channels, sums);
      }
      Pack<S, L> pack;
#pragma unroll
      for (int i = 0; i < L; ++i) {
        pack.values[i] = narrow<S>(sums[i]);
      }
      wide.pack(row, c) = pack;
    }
  }
}

}  // namespace
}  // namespace ikem::graph_conv::cuda
