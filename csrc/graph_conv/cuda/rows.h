// Features in shared memory: rows of channels, one for each joint of each frame.
#pragma once

#include "common/launch.h"
#include "common/pack.h"
#include "common/scalar.h"
#include "common/strided.h"
#include "common/warp.h"

namespace ikem::graph_conv::cuda {
namespace {

using namespace ::ikem::cuda;

constexpr int WARPS = 4;            // along the rows
constexpr int ROWS = WARPS * WARP;  // at once; a thread has row `threadIdx.x % ROWS`
constexpr int MAX_SLICES = 3;       // of ROWS threads in a block, which share out channels or parts among them
constexpr int MAX_THREADS = ROWS * MAX_SLICES;

// For arrays that take turns in the same place.
IKEM_INLINE SharedArrays later(const SharedArrays& a, const SharedArrays& b) { return a.bytes() < b.bytes() ? b : a; }

// Frames by joints by channels of one clip.
template <class S>
struct Plane {
  S* data;
  int64_t channel, frame, joint;  // strides
  int channels, frames, joints;

  __device__ int positions() const { return frames * joints; }
  __device__ S* at(int position) const { return data + position / joints * frame + position % joints * joint; }
};

template <class S>
__device__ Plane<S> plane_of(const Strided<S, 5>& tensor, int group, int clip) {
  const int64_t* strides = tensor.strides;
  return {tensor.data + group * strides[0] + clip * strides[1], strides[2], strides[3], strides[4], 0, 0, 0};
}

template <class S>
__device__ Plane<S> part_of(Plane<S> plane, int frame, int frames, int joint, int joints, int channel, int channels) {
  plane.data += frame * plane.frame + joint * plane.joint + channel * plane.channel;
  plane.frames = frames;
  plane.joints = joints;
  plane.channels = channels;
  return plane;
}

// Rows of at most so many channels, of a length such that packs of eight successive rows lie in different banks of
// the shared memory.
template <class T, int CHANNELS>
struct Rows {
  static constexpr int LENGTH = CHANNELS + PACK<T>;
  static_assert(CHANNELS % (2 * PACK<T>) == 0);

  T* data;

  Rows() = default;
  __host__ __device__ Rows(SharedArrays& shared, int count) : data(shared.take<T>(int64_t{count} * LENGTH)) {}
  explicit __device__ Rows(T* data) : data(data) {}

  __device__ T* at(int row) const { return data + row * LENGTH; }
  __device__ Rows from(int row, int channel = 0) const { return Rows(at(row) + channel); }
  __device__ Pack<T, PACK<T>>& pack(int row, int channel) const {
    return *reinterpret_cast<Pack<T, PACK<T>>*>(at(row) + channel);
  }
};

// Fills `count` rows of `channels`, both rounded up as it suits the products: where the plane ends they are zero.
// Neighboring threads of those that share the work take neighboring positions, WIDTH of them at once.
template <int WIDTH, class S, int CHANNELS>
__device__ void load_rows(const Plane<const S>& plane, const Rows<S, CHANNELS>& rows, int count, int channels,
                          unsigned thread = threadIdx.x, unsigned threads = blockDim.x) {
  constexpr int L = PACK<S>;
#pragma unroll 1
  for (int row = static_cast<int>(thread % WIDTH); row < count; row += WIDTH) {
    const bool inside = row < plane.positions();
    const S* at = inside ? plane.at(row) : plane.data;
#pragma unroll 1
    for (int c = static_cast<int>(thread / WIDTH) * L; c < channels; c += static_cast<int>(threads / WIDTH) * L) {
      const S* from = at + c * plane.channel;
      Pack<S, L> pack{};
      if (inside && plane.channel == 1 && c + L <= plane.channels && is_aligned<L>(from)) {
        pack = read_pack<L>(from);
      } else if (inside) {
#pragma unroll
        for (int i = 0; i < L; ++i, from += plane.channel) {
          if (c + i < plane.channels) {
            pack.values[i] = *from;
          }
        }
      }
      rows.pack(row, c) = pack;
    }
  }
}

template <class S, class C, int L>
__device__ void store_pack(const Plane<S>& plane, S* at, int channel, const C (&values)[L]) {
  S* to = at + channel * plane.channel;
  if (plane.channel == 1 && channel + L <= plane.channels && is_aligned<L>(to)) {
    Pack<S, L> pack;
#pragma unroll
    for (int i = 0; i < L; ++i) {
      pack.values[i] = narrow<S>(values[i]);
    }
    write_pack(to, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < L; ++i, to += plane.channel) {
    if (channel + i < plane.channels) {
      *to = narrow<S>(values[i]);
    }
  }
}

}  // namespace
}  // namespace ikem::graph_conv::cuda
