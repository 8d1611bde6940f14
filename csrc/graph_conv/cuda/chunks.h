// Gradients that are sums over all tiles: each chunk of them is summed up by blocks of its own.
#pragma once

#include "common/reduction.h"
#include "graph_conv/cuda/tiles.h"
#include "graph_conv/kernel.h"

namespace ikem::graph_conv::cuda {
namespace {

// What a block is at. All its threads share it in memory, as the products need their registers. What changes with the
// tile is apart from what does not: threads load 16 bytes at once, and would read along what another one is writing.
struct ChunkTask {
  int group_and_chunk, group, tile, last_tile;
  alignas(16) Place place;  // of the tile

  __device__ ChunkTask(int group_and_chunk, const TileChunks& chunks, const Plan& plan, int clips)
      : group_and_chunk(group_and_chunk),
        group(group_and_chunk / chunks.count),
        tile(group_and_chunk % chunks.count * chunks.tiles),
        last_tile(smaller(tile + chunks.tiles, clips * plan.tiles.per_clip())) {}

  // Both are for all threads, and end with a barrier.
  __device__ void begin_tile(const Tiles& tiles, int all_frames, int all_joints) {
    if (threadIdx.x == 0) {
      place = Place(tiles, tile, all_frames, all_joints);
    }
    __syncthreads();
  }
  __device__ void end_tile() {
    if (threadIdx.x == 0) {
      ++tile;
    }
    __syncthreads();
  }
};

// A gradient's plan and its chunks.
struct ChunkedPlan {
  Plan plan;
  int64_t blocks_per_chunk;
  TileChunks chunks;
};

// None where there is nothing to sum up.
TileChunks make_chunks(const Problem& problem, const Plan& plan, int64_t blocks_per_chunk) {
  const int64_t tiles = problem.clips * plan.tiles.per_clip();
  const bool nothing = problem.groups == 0 || tiles == 0 || problem.joints == 0 || problem.out_joints == 0 ||
                       problem.parts == 0 || problem.in_channels == 0 || problem.out_channels == 0;
  return nothing ? TileChunks{0, 0} : ikem::cuda::make_chunks(tiles, problem.groups * blocks_per_chunk);
}

}  // namespace
}  // namespace ikem::graph_conv::cuda
