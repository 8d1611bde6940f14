// Features by the weights of some parts of the graph, in shared memory: what a graph convolution sums over the joints
// when it goes by the channels first, and what the gradient of the adjacency is made of.
#pragma once

#include "common/product.h"
#include "graph_conv/cuda/layer.h"
#include "graph_conv/cuda/tiles.h"

namespace ikem::graph_conv::cuda {
namespace {

// The rows of x by the weights of some parts of the graph.
template <class S, class T, int N>
struct Transform {
  Rows<S, DEPTH<S, N>> x, weights;
  Rows<T, N> wide;  // a part's rows after another's
  Rows<Compute<S>, N> bias;

  // Where the products are made in one go, they take the place of what they are made of.
  __host__ __device__ Transform(SharedArrays& shared, const Layer<S>& layer, const Plan& plan, int parts)
      : bias(shared, plan.slices) {
    SharedArrays same = shared;
    x = Rows<S, DEPTH<S, N>>(shared, smaller(plan.source_rows, ROWS));
    weights = Rows<S, DEPTH<S, N>>(shared, plan.slices * N);
    const bool in_one_go = plan.source_rows <= ROWS && parts <= plan.slices;
    wide = in_one_go ? Rows<T, N>(same, parts * plan.source_rows) : Rows<T, N>(shared, parts * plan.source_rows);
    shared = later(shared, same);
  }

  // Takes the parts from first_part on, one for each slice, at some joints of the place, with its frames no more than
  // ROWS. Needs a barrier before and ends with one: what else is loaded right before is there afterwards.
  template <bool TENSOR>
  __device__ __forceinline__ void run(const Layer<S>& layer, const Plan& plan, int group, const Place& place,
                                      int first_joint, int joints, int first_part, int parts, int first_out,
                                      int first_row) const {
    using C = Compute<S>;
    using WarpProduct = Product<S, TENSOR, N>;
    const Self self;
    const int rows = place.frames * joints;
    const int outs = smaller(N, layer.out_channels - first_out);
    if (self.slice < parts && self.index < N) {
      bias.at(self.slice)[self.index] = bias_of(layer, group, first_part + self.slice, first_out + self.index);
    }
    WarpProduct product;
#pragma unroll 1
    for (int c = 0; c == 0 || c < layer.in_channels; c += DEPTH<S, N>) {
      const int channels = smaller(DEPTH<S, N>, layer.in_channels - c);
      const int padded = round_up(channels, WarpProduct::STEP);
      load_rows<ROWS>(part_of(plane_of(layer.x, group, place.clip), place.first_frame, place.frames, first_joint,
                              joints, c, channels),
                      x, round_up(rows, WARP), padded);
      if (self.slice < parts) {
        load_rows<WARP>(layer.weights.rows(group, first_part + self.slice, first_out, outs, c, channels),
                        weights.from(self.slice * N), N, padded, self.index, ROWS);
      }
      __syncthreads();
      if (self.slice < parts && self.first_row < rows) {
        product.template add<false>(x.from(self.first_row), weights.from(self.slice * N), padded);
      }
      __syncthreads();
    }
    if (self.slice < parts && self.first_row < rows) {
      const Rows<T, N> to = wide.from(self.slice * plan.source_rows + first_row + self.first_row);
      product.for_each(
          [&](int row, int column, C sum) { to.at(row)[column] = narrow<T>(sum + bias.at(self.slice)[column]); });
    }
    __syncthreads();
  }

  // The same at all joints; more of them than ROWS come with a single frame.
  template <bool TENSOR>
  __device__ __forceinline__ void run_all(const Layer<S>& layer, const Plan& plan, int group, const Place& place,
                                          int first_part, int parts, int first_out, int first_wide) const {
#pragma unroll 1
    for (int joint = 0; joint < layer.edges.sources; joint += ROWS) {
      run<TENSOR>(layer, plan, group, place, joint, smaller(ROWS, layer.edges.sources - joint), first_part, parts,
                  first_out, first_wide * plan.source_rows + joint);
    }
  }
};

}  // namespace
}  // namespace ikem::graph_conv::cuda
