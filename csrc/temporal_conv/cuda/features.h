// Features on their way to shared memory and back.
#pragma once

#include <type_traits>

#include "common/mma.h"
#include "common/rows.h"
#include "temporal_conv/cuda/tiles.h"

namespace ikem::temporal_conv::cuda {
namespace {

// What is multiplied: float32 is rounded for the tensor cores once, on its way to shared memory.
template <class S, bool TENSOR>
using Factor = std::conditional_t<TENSOR && std::is_same_v<S, float>, Tf32, S>;

template <class T, class S>
__device__ T to_factor(S value) {
  if constexpr (std::is_same_v<T, Tf32>) {
    return to_tf32(value);
  } else {
    return value;
  }
}

// Some channels of one clip, at some joints.
template <class S>
struct Features {
  S* data;
  int64_t channel, frame, joint;  // strides
  int channels;

  __device__ Features(const Strided<S, 4>& tensor, const Place& place, int first_channel, int channels)
      : data(tensor.data + place.clip * tensor.strides[0] + first_channel * tensor.strides[1] +
             place.first_joint * tensor.strides[3]),
        channel(tensor.strides[1]),
        frame(tensor.strides[2]),
        joint(tensor.strides[3]),
        channels(channels) {}
};

// Calls f(row, slot, joint, pack) for all packs of rows that hold so many joints for each slot. Neighboring threads
// take what lies side by side in memory: packs of a row or, at least as many as a warp has, the same pack of rows in a
// row.
template <int PACKS, class F>
__device__ __forceinline__ void for_each_pack(int rows, int joints, bool channels_last, const F& f) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int step = channels_last ? threads / PACKS : larger(threads / PACKS, WARP);
  const int first = channels_last ? thread / PACKS : thread % step;
  const int first_pack = channels_last ? thread % PACKS : thread / step;
  const int pack_step = channels_last ? PACKS : threads / step;
  const int slots = step / joints, more = step % joints;
  int slot = first / joints, joint = first % joints;
#pragma unroll 2
  for (int row = first; row < rows; row += step) {
#pragma unroll 2
    for (int pack = first_pack; pack < PACKS; pack += pack_step) {
      f(row, slot, joint, pack);
    }
    slot += slots;
    joint += more;
    if (joint >= joints) {
      joint -= joints;
      ++slot;
    }
  }
}

// Loads frames, the slot-th being frame_of(slot), as rows of channels: of which `count` are filled, and so many of the
// channels, with zeros where there is nothing to load.
template <class S, class T, int CHANNELS, int PADDING, class F>
__device__ __forceinline__ void load_rows(const Features<const S>& from, int64_t frames, int joints, int rows,
                                          const Rows<T, CHANNELS, PADDING>& to, int count, int channels,
                                          const F& frame_of) {
  constexpr int L = PACK<T>;
  for_each_pack<CHANNELS / L>(count, joints, from.channel == 1, [&](int row, int slot, int joint, int index) {
    const int channel = index * L;
    if (channel >= channels) {
      return;
    }
    const int64_t frame = row < rows ? frame_of(slot) : -1;
    Pack<T, L> pack{};
    if (frame >= 0 && frame < frames) {
      const Pack<S, L> values = gather<L>(from.data + frame * from.frame + joint * from.joint + channel * from.channel,
                                          from.channel, from.channels - channel);
#pragma unroll
      for (int i = 0; i < L; ++i) {
        pack.values[i] = to_factor<T>(values.values[i]);
      }
    }
    to.pack(row, channel) = pack;
  });
}

}  // namespace
}  // namespace ikem::temporal_conv::cuda
