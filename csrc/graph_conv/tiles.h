// The tiles that a graph convolution is cut into. Included by cpu.cpp alone.
#pragma once

#include "common/planes.h"
#include "graph_conv/kernel.h"

namespace ikem::graph_conv::IKEM_SIMD_LEVEL {
namespace {

using namespace ::ikem::IKEM_SIMD_LEVEL;

// Writes sums for the adjacency to its gradient, or where there are others to be added among its partial sums.
template <class S, class C>
void write_adjacency(const C* sums, int64_t count, const Gradients<S>& gradients, int64_t first) {
  if (gradients.whole_adjacency != nullptr) {
    write_run(sums, count, gradients.whole_adjacency + first);
  } else {
    write_run(sums, count, gradients.adjacency + first);
  }
}

// Some frames of one clip, which are worked on at once.
struct Tile {
  int64_t group, clip, first, last;

  int64_t frames() const { return last - first; }
};

IKEM_INLINE Tile tile_of_clip(const Problem& problem, int64_t group, int64_t clip, int64_t index) {
  const int64_t first = index * problem.tile_frames;
  return {group, clip, first, smaller(first + problem.tile_frames, problem.frames)};
}

// A tensor's positions in a tile.
template <class T>
IKEM_INLINE Plane<T> tile_plane(const Strided<T, 5>& tensor, const Tile& tile, int64_t channels, int64_t joints) {
  const int64_t* strides = tensor.strides;
  return {tensor.data + tile.group * strides[0] + tile.clip * strides[1] + tile.first * strides[3],
          channels,
          strides[2],
          tile.frames(),
          strides[3],
          joints,
          strides[4]};
}

// The tiles of a chunk of the backward pass, in their order (see Chunks).
class ChunkTiles {
 public:
  ChunkTiles(const Problem& problem, const Chunks& chunks, int64_t chunk)
      : problem_(problem),
        group_(chunk / chunks.per_group),
        first_clip_(chunk % chunks.per_group / chunks.ranges * chunks.clips),
        clips_(smaller(chunks.clips, problem.clips - first_clip_)),
        first_tile_(problem.tiles_per_clip * (chunk % chunks.ranges) / chunks.ranges),
        tiles_(problem.tiles_per_clip * (chunk % chunks.ranges + 1) / chunks.ranges - first_tile_) {}

  int64_t count() const { return clips_ * tiles_; }
  Tile tile(int64_t index) const {
    return tile_of_clip(problem_, group_, first_clip_ + index / tiles_, first_tile_ + index % tiles_);
  }
  bool is_first_of_clip(int64_t index) const { return index % tiles_ == 0; }
  bool is_last_of_clip(int64_t index) const { return (index + 1) % tiles_ == 0; }

 private:
  const Problem& problem_;
  int64_t group_, first_clip_, clips_, first_tile_, tiles_;
};

}  // namespace
}  // namespace ikem::graph_conv::IKEM_SIMD_LEVEL
