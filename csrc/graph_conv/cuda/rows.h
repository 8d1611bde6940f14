// Features in shared memory: rows of channels, one for each joint of each frame.
#pragma once

#include "common/rows.h"
#include "common/strided.h"
#include "common/warp.h"

namespace ikem::graph_conv::cuda {
namespace {

using namespace ::ikem::cuda;

constexpr int WARPS = 4;            // along the rows
constexpr int ROWS = WARPS * WARP;  // at once; a thread has row `threadIdx.x % ROWS`
constexpr int MAX_SLICES = 3;       // of ROWS threads in a block, which share out channels or parts among them
constexpr int MAX_THREADS = ROWS * MAX_SLICES;

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
      rows.pack(row, c) = inside ? gather<L>(at + c * plane.channel, plane.channel, plane.channels - c) : Pack<S, L>{};
    }
  }
}

template <class S, class C, int L>
__device__ void store_pack(const Plane<S>& plane, S* at, int channel, const C (&values)[L]) {
  scatter(at + channel * plane.channel, plane.channel, plane.channels - channel, values);
}

}  // namespace
}  // namespace ikem::graph_conv::cuda
