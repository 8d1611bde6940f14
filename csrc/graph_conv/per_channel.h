// The passes with an adjacency for each clip and output channel that is given. Included by cpu.cpp alone.
//
// Nothing is shared between channels in the sum over joints: for each it is a product of matrices of its own, frames by
// joints times joints by joints. So here, unlike in cpu.cpp, channels are outside and positions run along the vectors:
//   z = W x + b                    rows (k, o) of positions; the bias is the weight of a channel that is 1 everywhere
//   y[o] = sum over k of z[k, o] A[k, o]
// and the gradients
//   g_z[k, o] = g_y[o] A[k, o]^T   g_A[k, o] = z[k, o]^T g_y[o]   g_x = W^T g_z   g_W = g_z x^T
// Forward, positions are (frame, joint), as they are in contiguous tensors. Backward they are (joint, frame): with
// frames in the lanes, g_z is A times g_y, so that not the adjacency, which is the most of what is read, has to be
// transposed but the features.
// One block of output channels at a time goes all the way; the adjacency is read once for each tile.
#pragma once

#include "graph_conv/tiles.h"

namespace ikem::graph_conv::IKEM_SIMD_LEVEL {
namespace {

// Some output channels, and the rows of (k, o) that are theirs.
struct OutBlock {
  int64_t first, count, first_row, rows;
};

template <class S>
class PerChannel {
 public:
  using C = Compute<S>;

  PerChannel(const Problem& problem, const Operands<S>& operands) : problem_(problem), operands_(operands) {}

 protected:
  void enter(int64_t group) {
    if (group == group_) {
      return;
    }
    group_ = group;
    for_each_block([&](const OutBlock& block) {
      for (int64_t k = 0; k < parts_; ++k) {
        for (int64_t o = 0; o < block.count; ++o) {
          load_weight(k, block.first + o, weight_ + (block.first_row + k * block.count + o) * inputs_);
        }
      }
    });
  }

  template <class F>
  void for_each_block(F f) const {
    for (int64_t first = 0; first < problem_.out_channels; first += block_) {
      const int64_t count = smaller(block_, problem_.out_channels - first);
      f(OutBlock{first, count, first * parts_, count * parts_});
    }
  }

  Plane<const S> x_plane(const Tile& tile) const {
    return tile_plane(operands_.x, tile, problem_.in_channels, problem_.joints);
  }

  // x, and the channel of ones.
  void read_x(const Plane<const S>& plane) {
    read_turned(plane, +x_, row_);
    for (int64_t i = 0; i < (inputs_ - problem_.in_channels) * plane.frames * plane.joints; ++i) {
      x_[problem_.in_channels * row_ + i] = 1;
    }
  }

  // What belongs to a block in an adjacency, or in the gradient of one.
  template <class T>
  Plane<T> of_block(T* data, int64_t part_stride, const OutBlock& block) const {
    return {data, parts_, part_stride, 1, 0, block.count * problem_.joints * problem_.out_joints, 1};
  }

  // Meanwhile the block's adjacency is asked for.
  void transform(const Tile& tile, const OutBlock& block) {
    Ahead ahead;
    if (const Plane<const S> first = adjacency_plane(tile, 0, block.first); first.flat().frames == 1) {
      ahead.add(of_block(first.data, operands_.adjacency.strides[2], block));
    }
    multiply<C>(block.rows, tile.frames() * problem_.joints, inputs_, {weight_ + block.first_row * inputs_, inputs_, 1},
                x_, row_, z_, row_, /*accumulate=*/false, ahead);
  }

  C* z(const OutBlock& block, int64_t k, int64_t o) const { return z_ + (k * block.count + o) * row_; }

  // As the positions of one channel: joints v are its frames.
  Plane<const S> adjacency_plane(const Tile& tile, int64_t k, int64_t channel) const {
    const int64_t* strides = operands_.adjacency.strides;
    return {operands_.adjacency.data + tile.group * strides[0] + tile.clip * strides[1] + k * strides[2] +
                channel * strides[3],
            1,
            0,
            problem_.joints,
            strides[4],
            problem_.out_joints,
            strides[5]};
  }

  // The adjacency that is needed after this one.
  Ahead next_adjacency(const Tile& tile, int64_t k, int64_t channel) const {
    Ahead ahead;
    if (channel + 1 < problem_.out_channels) {
      ahead.add(adjacency_plane(tile, k, channel + 1));
    }
    return ahead;
  }

  // The adjacency of one part and channel, until the next is read: rows of joints w that follow each other.
  const C* read_adjacency(const Tile& tile, int64_t k, int64_t channel) const {
    read_turned(adjacency_plane(tile, k, channel), +adjacency_, adjacency_.size());
    return adjacency_;
  }

  const Problem& problem_;
  const Operands<S>& operands_;
  int64_t group_ = -1;

  const int64_t parts_ = problem_.parts;
  const int64_t inputs_ = problem_.in_channels + (operands_.bias.data != nullptr);
  const int64_t block_ = smaller(32, problem_.out_channels);
  // Rows of positions have room for a vector more: see `multiply`.
  const int64_t row_ = row_length<C>(problem_.tile_frames * problem_.joints + lanes<C>);
  const int64_t out_row_ = row_length<C>(problem_.tile_frames * problem_.out_joints + lanes<C>);

  const Array<C> weight_{problem_.out_channels * parts_ * inputs_};
  const Array<C> x_{inputs_ * row_};

 private:
  void load_weight(int64_t k, int64_t o, C* to) const {
    const int64_t* strides = operands_.weight.strides;
    const S* from = operands_.weight.data + group_ * strides[0] + k * strides[1] + o * strides[2];
    for (int64_t c = 0; c < problem_.in_channels; ++c) {
      to[c] = widen(from[c * strides[3]]);
    }
    if (operands_.bias.data != nullptr) {
      const int64_t* bias = operands_.bias.strides;
      to[problem_.in_channels] = widen(operands_.bias.data[group_ * bias[0] + k * bias[1] + o * bias[2]]);
    }
  }

  const Array<C> z_{block_ * parts_ * row_};
  const Array<C> adjacency_{problem_.joints * problem_.out_joints + lanes<C>};
};

template <class S>
class PerChannelForward : PerChannel<S> {
 public:
  using C = Compute<S>;

  PerChannelForward(const Problem& problem, const Operands<S>& operands, const Strided<S, 5>& y)
      : PerChannel<S>(problem, operands), y_(y) {}

  void run(int64_t task) {
    const Problem& problem = this->problem_;
    const int64_t clip = task / problem.tiles_per_clip;
    const Tile tile = tile_of_clip(problem, clip / problem.clips, clip % problem.clips, task % problem.tiles_per_clip);
    this->enter(tile.group);
    this->read_x(this->x_plane(tile));
    this->for_each_block([&](const OutBlock& block) {
      this->transform(tile, block);
      for (int64_t o = 0; o < block.count; ++o) {
        sum_over_joints(tile, block, o);
      }
    });
    write_turned(+out_, this->out_row_, tile_plane(y_, tile, problem.out_channels, problem.out_joints));
  }

 private:
  void sum_over_joints(const Tile& tile, const OutBlock& block, int64_t o) {
    const Problem& problem = this->problem_;
    for (int64_t k = 0; k < this->parts_; ++k) {
      multiply<C>(tile.frames(), problem.out_joints, problem.joints, {this->z(block, k, o), problem.joints, 1},
                  this->read_adjacency(tile, k, block.first + o), problem.out_joints, sums_, joint_row_,
                  /*accumulate=*/k > 0, this->next_adjacency(tile, k, block.first + o));
    }
    for (int64_t t = 0; t < tile.frames(); ++t) {
      write_run(sums_ + t * joint_row_, problem.out_joints,
                out_ + (block.first + o) * this->out_row_ + t * problem.out_joints);
    }
  }

  const Strided<S, 5>& y_;
  const int64_t joint_row_ = round_up(this->problem_.out_joints, lanes<C>);
  const Array<C> sums_{this->problem_.tile_frames * joint_row_};
  const Array<C> out_{this->problem_.out_channels * this->out_row_};
};

template <class S>
class PerChannelBackward : PerChannel<S> {
 public:
  using C = Compute<S>;

  PerChannelBackward(const Problem& problem, const Operands<S>& operands, const Strided<const S, 5>& grad_y,
                     const Gradients<S>& gradients, const Chunks& chunks)
      : PerChannel<S>(problem, operands), grad_y_(grad_y), gradients_(gradients), chunks_(chunks) {}

  void run(int64_t chunk) {
    const ChunkTiles tiles(this->problem_, chunks_, chunk);
    set_zero(+weight_sums_, weight_sums_.size());
    set_zero(+bias_sums_, bias_sums_.size());
    for (int64_t i = 0; i < tiles.count(); ++i) {
      const Tile tile = tiles.tile(i);
      const int64_t slot = (tile.group * this->problem_.clips + tile.clip) * chunks_.ranges + chunk % chunks_.ranges;
      run_tile(tile, slot, tiles.is_first_of_clip(i), tiles.is_last_of_clip(i));
    }
    finish_weight(chunk);
  }

 private:
  bool for_weight() const { return gradients_.weight != nullptr || gradients_.bias != nullptr; }
  bool for_x() const { return gradients_.x.data != nullptr; }
  bool for_adjacency() const { return gradients_.for_adjacency(); }

  void run_tile(const Tile& tile, int64_t slot, bool first_of_clip, bool last_of_clip) {
    const Problem& problem = this->problem_;
    const int64_t positions = tile.frames() * problem.joints;
    this->enter(tile.group);
    const auto grad_y = tile_plane(grad_y_, tile, problem.out_channels, problem.out_joints);
    if (for_adjacency()) {
      read_turned(grad_y, +grad_out_by_frame_, this->out_row_);
    }
    if (for_x() || for_weight()) {
      read_turned(grad_y.joints_first(), +grad_out_, this->out_row_);
    }
    if (for_adjacency() || for_weight()) {
      this->read_x(this->x_plane(tile).joints_first());
    }
    if (for_weight()) {
      read_rows(Plane<const C>{this->x_, problem.in_channels, this->row_, 1, 0, positions, 1}, +x_rows_, x_row_);
    }
    this->for_each_block([&](const OutBlock& block) {
      if (for_adjacency()) {
        this->transform(tile, block);
      }
      if (for_x() || for_weight()) {
        spread(tile, block);
      }
      Ahead ahead = gradient_ahead(block, slot);
      if (for_weight()) {
        add_weight(block, positions, ahead);
        add_bias(block, positions);
      }
      if (for_x()) {
        const C* weight = this->weight_ + block.first_row * this->inputs_;
        multiply<C>(problem.in_channels, positions, block.rows, {weight, 1, this->inputs_}, grad_z_, this->row_,
                    grad_x_, this->row_, /*accumulate=*/block.first > 0, ahead);
      }
      if (for_adjacency()) {
        add_adjacency(tile, block, slot, first_of_clip, last_of_clip);
      }
    });
    if (for_x()) {
      write_turned(+grad_x_, this->row_,
                   tile_plane(gradients_.x, tile, problem.in_channels, problem.joints).joints_first());
    }
  }

  // Where the block's gradient of the adjacency will be written.
  Ahead gradient_ahead(const OutBlock& block, int64_t slot) const {
    const int64_t size = this->problem_.joints * this->problem_.out_joints;
    const int64_t first = (slot * this->parts_ * this->problem_.out_channels + block.first) * size;
    const int64_t part = this->problem_.out_channels * size;
    Ahead ahead;
    if (gradients_.whole_adjacency != nullptr) {
      ahead.add(this->of_block(gradients_.whole_adjacency + first, part, block));
    }
    return ahead;
  }

  void add_adjacency(const Tile& tile, const OutBlock& block, int64_t slot, bool first_of_clip, bool last_of_clip) {
    const Problem& problem = this->problem_;
    const int64_t size = problem.joints * problem.out_joints;
    for (int64_t k = 0; k < this->parts_; ++k) {
      for (int64_t o = 0; o < block.count; ++o) {
        const int64_t channel = block.first + o;
        multiply<C>(problem.joints, problem.out_joints, tile.frames(), {this->z(block, k, o), tile.frames(), 1},
                    grad_out_by_frame_ + channel * this->out_row_, problem.out_joints, product_, problem.out_joints,
                    /*accumulate=*/false);
        const int64_t index = k * problem.out_channels + channel;
        const C* sums = product_;
        if (!first_of_clip || !last_of_clip) {
          sums = add_to_clip(index, first_of_clip);
        }
        if (last_of_clip) {
          write_adjacency(sums, size, gradients_, (slot * this->parts_ * problem.out_channels + index) * size);
        }
      }
    }
  }

  // The sums over the clip's tiles so far.
  const C* add_to_clip(int64_t index, bool first_of_clip) const {
    const int64_t size = this->problem_.joints * this->problem_.out_joints;
    C* const sums = clip_sums_ + index * size;
    if (first_of_clip) {
      set_zero(sums, size);
    }
    add_scaled(sums, +product_, C(1), size);
    return sums;
  }

  // The adjacency as a left factor, element (v, w): taken value by value, it may lie as it does.
  Factor<C> adjacency(const Tile& tile, int64_t k, int64_t channel) const {
    if constexpr (std::is_same_v<S, C>) {
      const Plane<const S> plane = this->adjacency_plane(tile, k, channel);
      return {plane.data, plane.frame_stride, plane.joint_stride};
    } else {
      return {this->read_adjacency(tile, k, channel), this->problem_.out_joints, 1};
    }
  }

  // The gradient of z.
  void spread(const Tile& tile, const OutBlock& block) {
    const Problem& problem = this->problem_;
    const int64_t frames = tile.frames();
    for (int64_t o = 0; o < block.count; ++o) {
      const int64_t channel = block.first + o;
      for (int64_t k = 0; k < this->parts_; ++k) {
        multiply<C>(problem.joints, frames, problem.out_joints, adjacency(tile, k, channel),
                    grad_out_ + channel * this->out_row_, frames, grad_z_ + (k * block.count + o) * this->row_, frames,
                    /*accumulate=*/false, this->next_adjacency(tile, k, channel));
      }
    }
  }

  void add_weight(const OutBlock& block, int64_t positions, Ahead& ahead) {
    add_product(block.rows, this->problem_.in_channels, positions, {grad_z_, this->row_, 1}, x_rows_, x_row_,
                weight_sums_ + block.first_row * x_row_, ahead);
  }

  // sums += a b, with rows of sums that are as long as those of b. Long sums are made of short ones, which lose less.
  void add_product(int64_t rows, int64_t columns, int64_t depth, Factor<C> a, const C* b, int64_t row, C* sums,
                   Ahead& ahead) {
    constexpr int64_t AT_ONCE = 256;
    for (int64_t d = 0; d < depth; d += AT_ONCE) {
      multiply<C>(rows, columns, smaller(AT_ONCE, depth - d), {a.data + d * a.column, a.row, a.column}, b + d * row,
                  row, terms_, row, /*accumulate=*/false, ahead);
      add_scaled(sums, +terms_, C(1), rows * row);
    }
  }

  void add_bias(const OutBlock& block, int64_t positions) {
    for (int64_t i = 0; i < block.rows; ++i) {
      bias_sums_[block.first_row + i] += sum(grad_z_ + i * this->row_, positions);
    }
  }

  void finish_weight(int64_t chunk) const {
    const Problem& problem = this->problem_;
    this->for_each_block([&](const OutBlock& block) {
      for (int64_t k = 0; k < this->parts_; ++k) {
        const C* sums = weight_sums_ + (block.first_row + k * block.count) * x_row_;
        const int64_t to = k * problem.out_channels + block.first;
        if (gradients_.weight != nullptr) {
          write_rows<C, C>(sums, x_row_,
                           {gradients_.weight + chunk * weight_partial_size(problem) + to, problem.in_channels,
                            weight_partial_row(problem), 1, 0, block.count, 1});
        }
        if (gradients_.bias != nullptr) {
          C* bias = gradients_.bias + chunk * this->parts_ * problem.out_channels + to;
          for (int64_t o = 0; o < block.count; ++o) {
            bias[o] = bias_sums_[block.first_row + k * block.count + o];
          }
        }
      }
    });
  }

  const Strided<const S, 5>& grad_y_;
  const Gradients<S>& gradients_;
  const Chunks& chunks_;
  const int64_t x_row_ = row_length<C>(this->problem_.in_channels);
  const Array<C> x_rows_{this->problem_.tile_frames * this->problem_.joints * x_row_};
  const Array<C> weight_sums_{this->parts_ * this->problem_.out_channels * x_row_};
  const Array<C> terms_{this->block_ * this->parts_ * x_row_};
  const Array<C> bias_sums_{this->parts_ * this->problem_.out_channels};
  const Array<C> grad_out_{this->problem_.out_channels * this->out_row_};
  const Array<C> grad_out_by_frame_{this->problem_.out_channels * this->out_row_};  // positions (frame, joint)
  const Array<C> grad_x_{this->problem_.in_channels * this->row_};
  const Array<C> grad_z_{this->block_ * this->parts_ * this->row_};
  const Array<C> product_{this->problem_.joints * this->problem_.out_joints + lanes<C>};
  const Array<C> clip_sums_{this->problem_.tiles_per_clip > 1 ? adjacency_size(this->problem_) + lanes<C> : 0};
};

}  // namespace
}  // namespace ikem::graph_conv::IKEM_SIMD_LEVEL
