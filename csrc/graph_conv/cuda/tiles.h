// The tiles that a graph convolution is cut into, and the threads that work on one.
#pragma once

#include "common/integers.h"
#include "graph_conv/cuda/rows.h"

namespace ikem::graph_conv::cuda {
namespace {

// How the frames and joints of a clip are cut up.
struct Tiles {
  int frames = 1;  // to a tile
  int joints = 0;  // to a tile, all of them unless they are more than ROWS
  int by_frames = 0, by_joints = 1;

  __host__ __device__ int per_clip() const { return by_frames * by_joints; }
};

Tiles make_tiles(int all_frames, int frames, int joints, bool split_joints) {
  Tiles tiles;
  tiles.by_frames = divide_up(all_frames, frames);
  tiles.frames = divide_up(all_frames, larger(tiles.by_frames, 1));
  tiles.joints = larger(1, split_joints ? smaller(joints, ROWS) : joints);
  tiles.by_joints = divide_up(joints, tiles.joints);
  return tiles;
}

// A tile's place.
struct Place {
  int clip, first_frame, frames, first_joint, joints;

  Place() = default;
  __device__ Place(const Tiles& tiles, int tile, int all_frames, int all_joints) {
    clip = tile / tiles.per_clip();
    first_frame = tile % tiles.per_clip() / tiles.by_joints * tiles.frames;
    frames = smaller(tiles.frames, all_frames - first_frame);
    first_joint = tile % tiles.by_joints * tiles.joints;
    joints = smaller(tiles.joints, all_joints - first_joint);
  }
};

// How a kernel goes about a layer: what is settled before it is launched.
struct Plan {
  Tiles tiles;
  int source_rows, target_rows;  // of a tile, rounded up
  int slices;                    // of ROWS threads
  int kept_rows = 0;             // of what is written, where they are kept for its moments and nothing else keeps them
};

// Channels of the sum over channels that are in shared memory at once, where a warp has N columns.
template <class S, int N>
constexpr int DEPTH = (N > 16 || sizeof(S) == 8 ? 128 : 64) / sizeof(S);

// This thread's place in its block.
struct Self {
  int slice = static_cast<int>(threadIdx.x) / ROWS;
  int index = static_cast<int>(threadIdx.x) % ROWS;  // in the slice
  int warp = index / WARP;
  int first_row = warp * WARP;
};

}  // namespace
}  // namespace ikem::graph_conv::cuda
