// The tiles that a convolution is cut into, and what of its input each of them needs.
#pragma once

#include "common/launch.h"
#include "common/strided.h"
#include "common/warp.h"
#include "temporal_conv/cuda/frames.h"

namespace ikem::temporal_conv::cuda {
namespace {

using namespace ::ikem::cuda;

constexpr int ROWS = 256;  // the most of a tile, one for each joint of each output

// One convolution as a kernel sees it: the operation itself, or that which gives the gradient of x.
template <class S>
struct Convolution {
  Strided<const S, 4> x;  // (N, C_in, T, V)
  Frames frames;
  int64_t clips;
  int joints, in_channels, out_channels;
};

// How the outputs and joints of a clip are cut up, class by class.
struct Tiles {
  int outputs, joints;  // of a tile
  int64_t by_outputs, by_joints;

  IKEM_INLINE int64_t per_clip(const Frames& frames) const { return frames.classes * by_outputs * by_joints; }
};

constexpr const char* TOO_MANY_TILES = "more tiles than a grid has blocks; pass fewer clips at a time";

struct Plan {
  Tiles tiles;
  int window_rows;  // that a window has at the most
};

// A tile's place.
struct Place {
  int64_t clip, class_, first;  // first: of the class's outputs
  Class frames;
  int outputs, first_joint, joints;

  __device__ Place(const Frames& all, const Tiles& tiles, int all_joints, int64_t tile)
      : clip(tile / tiles.per_clip(all)),
        class_(tile / tiles.by_joints / tiles.by_outputs % all.classes),
        first(tile / tiles.by_joints % tiles.by_outputs * tiles.outputs),
        frames(all.at(class_)),
        outputs(static_cast<int>(larger<int64_t>(smaller<int64_t>(tiles.outputs, all.outputs(class_) - first), 0))),
        first_joint(static_cast<int>(tile % tiles.by_joints) * tiles.joints),
        joints(smaller(tiles.joints, all_joints - first_joint)) {}

  __device__ int rows() const { return outputs * joints; }
};

// Rows of the input for some taps of a tile, one for each joint of each frame. Frames are sorted by their number modulo
// the stride, so that with every tap a tile's inputs follow each other as its outputs do.
struct Window {
  int64_t first, step;  // frames
  int stride, phases, length, joints;

  IKEM_INLINE Window(int64_t first, int64_t step, int stride, int outputs, int joints, int taps)
      : first(first),
        step(step),
        stride(stride),
        phases(larger(smaller(stride, taps), 1)),
        length(outputs + divide_up(taps, phases) - 1),
        joints(joints) {}

  __device__ Window(const Frames& frames, const Place& place, int first_tap, int taps)
      : Window(place.frames.first_in + frames.in_step * (frames.stride * place.first + first_tap), frames.in_step,
               frames.stride, place.outputs, place.joints, taps) {}

  IKEM_INLINE int rows() const { return phases * length * joints; }
  IKEM_INLINE int first_row(int tap) const { return (tap % phases * length + tap / phases) * joints; }

  // The frame of the rows from `slot` times `joints` on.
  __device__ int64_t frame(int slot) const {
    return phases == 1 ? first + step * stride * slot : first + step * (stride * (slot % length) + slot / length);
  }
};

// A plan with which the preferred shared memory suffices, if there is one, and tiles share little of what they load: to
// load a row costs as much as its products with two taps. So many tiles may be worked on at once; bytes(plan) says what
// shared memory a plan needs.
template <class F>
Plan make_plan(const Frames& frames, int64_t clips, int all_joints, int taps, int64_t at_once, const F& bytes) {
  constexpr int ROW_COST = 2;
  const int64_t all_outputs = larger<int64_t>(divide_up(frames.out, frames.out_step), 1);
  const auto plan_for = [&](int64_t outputs, int joints) {
    Plan plan{};
    Tiles& tiles = plan.tiles;
    tiles.by_outputs = divide_up(all_outputs, outputs);
    tiles.outputs = static_cast<int>(divide_up(all_outputs, tiles.by_outputs));
    tiles.joints = joints;
    tiles.by_joints = divide_up(all_joints, joints);
    plan.window_rows = Window(0, 0, frames.stride, tiles.outputs, joints, taps).rows();
    return plan;
  };
  const auto cost = [&](const Plan& plan) {
    const int64_t rounds = divide_up(clips * plan.tiles.per_clip(frames), at_once);
    const int64_t rows = round_up(plan.tiles.outputs * plan.tiles.joints, WARP);
    return rounds * (taps * rows + int64_t{ROW_COST} * plan.window_rows);
  };
  Plan best{};
  for (int by = divide_up(larger(all_joints, 1), ROWS), joints = 0; joints != 1; by *= 2) {
    joints = divide_up(larger(all_joints, 1), by);
    int64_t outputs = smaller<int64_t>(ROWS / joints, all_outputs);
    while (outputs > 1 && bytes(plan_for(outputs, joints)) > PREFERRED_BYTES) {
      --outputs;
    }
    for (; outputs > 0; outputs /= 2) {
      const Plan plan = plan_for(outputs, joints);
      const bool fits = bytes(plan) <= PREFERRED_BYTES;
      if (best.window_rows == 0 ||
          (fits ? bytes(best) > PREFERRED_BYTES || cost(plan) < cost(best) : bytes(plan) < bytes(best))) {
        best = plan;
      }
    }
  }
  return best;
}

}  // namespace
}  // namespace ikem::temporal_conv::cuda
