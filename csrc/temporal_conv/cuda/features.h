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

// Of a number in the type that is computed in.
template <class T, class C>
__device__ T narrowed_factor(C value) {
  if constexpr (std::is_same_v<T, Tf32>) {
    return to_tf32(value);
  } else {
    return narrow<T>(value);
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

// Which packs of rows a thread has. Neighboring threads take what lies side by side in memory: packs of a row or, at
// least as many as a warp has, the same pack of rows in a row.
template <int PACKS>
struct Share {
  int step, first, pack_step, first_pack;

  __device__ explicit Share(bool channels_last) {
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    step = channels_last ? threads / PACKS : larger(threads / PACKS, WARP);
    first = channels_last ? thread / PACKS : thread % step;
    pack_step = channels_last ? PACKS : threads / step;
    first_pack = channels_last ? thread % PACKS : thread / step;
  }

  // Calls f(row, slot, joint) for its rows, of which there are so many joints for each slot.
  template <class F>
  __device__ __forceinline__ void for_each_row(int rows, int joints, const F& f) const {
    const int slots = step / joints, more = step % joints;
    int slot = first / joints, joint = first % joints;
#pragma unroll 2
    for (int row = first; row < rows; row += step) {
      f(row, slot, joint);
      slot += slots;
      joint += more;
      if (joint >= joints) {
        joint -= joints;
        ++slot;
      }
    }
  }
};

// Calls f(row, slot, joint, pack) for all packs of rows, of which there are so many joints for each slot.
template <int PACKS, class F>
__device__ __forceinline__ void for_each_pack(int rows, int joints, bool channels_last, const F& f) {
  const Share<PACKS> share(channels_last);
  share.for_each_row(rows, joints, [&](int row, int slot, int joint) {
#pragma unroll 2
    for (int pack = share.first_pack; pack < PACKS; pack += share.pack_step) {
      f(row, slot, joint, pack);
    }
  });
}

// Factors of x as it is, of which L from some channel on are given.
template <class T>
struct AsItIs {
  template <class S, int L>
  __device__ Pack<T, L> operator()(int, const Pack<S, L>& x) const {
    Pack<T, L> factors;
#pragma unroll
    for (int i = 0; i < L; ++i) {
      factors.values[i] = to_factor<T>(x.values[i]);
    }
    return factors;
  }
};

// Loads frames, the slot-th being frame_of(slot), as rows of channels: of which `count` are filled, and so many of the
// channels, with zeros where there is nothing to load; make(channel, values) makes factors of what is loaded.
template <class S, class T, int CHANNELS, int PADDING, class F, class Make>
__device__ __forceinline__ void load_rows(const Features<const S>& from, int64_t frames, int joints, int rows,
                                          const Rows<T, CHANNELS, PADDING>& to, int count, int channels,
                                          const F& frame_of, const Make& make) {
  constexpr int L = PACK<T>;
  for_each_pack<CHANNELS / L>(count, joints, from.channel == 1, [&](int row, int slot, int joint, int index) {
    const int channel = index * L;
    if (channel >= channels) {
      return;
    }
    const int64_t frame = row < rows ? frame_of(slot) : -1;
    Pack<T, L> pack{};
    if (frame >= 0 && frame < frames) {
      pack = make(channel, gather<L>(from.data + frame * from.frame + joint * from.joint + channel * from.channel,
                                     from.channel, from.channels - channel));
    }
    to.pack(row, channel) = pack;
  });
}

}  // namespace
}  // namespace ikem::temporal_conv::cuda
