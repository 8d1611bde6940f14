// The passes with an adjacency for each clip and output channel that is made of R relations, which all channels share,
// and is never written to memory; nor is its gradient. Included by cpu.cpp alone.
//
// Channels stand in the lanes of vectors. What is summed for each channel by itself is a product lane by lane then, in
// which no lane is lost however many joints there are:
//   z[k] = W[k] x + b[k]           A[k] = sum over r of m[k, r] B[k, r]       y = sum over k of z[k] A[k]
// and the gradients
//   g_z[k] = g_y A[k]^T            g_x = sum over k of W[k]^T g_z[k]          g_W[k] = g_z[k] x^T
//   g_A[k] = z[k]^T g_y            g_B[k, r] = sum over o of m[k, o, r] g_A[k, o]
//                                  g_m[k, o, r] = g_A[k, o] . B[k, r]
// A block of output channels, some vectors wide, goes all the way at once. Its features lie in slices: for each vector
// and part k by itself, one position behind the other.
#pragma once

#include "graph_conv/tiles.h"

namespace ikem::graph_conv::IKEM_SIMD_LEVEL {
namespace {

// Vectors (i, j) at data + i row + j column.
template <class C>
struct Vectors {
  C* data;
  int64_t row, column;
};

template <class C>
IKEM_INLINE C element(const Factor<C>& of, int64_t i) {
  return of.data[i * of.row];
}
template <class C>
IKEM_INLINE Vector<C> element(const Vectors<const C>& of, int64_t i) {
  return load(of.data + i * of.row);
}

// How many products a sum consists of, and how far apart their factors lie.
struct Series {
  int64_t count = 1, left = 0, right = 0;
};

// out = start + sum over the series of a b, of `depth` steps each, where `a` has numbers or vectors and `b` vectors.
template <class C, class A>
void multiply_vectors(int64_t rows, int64_t columns, int64_t depth, const Series& series, const A& a,
                      const Vectors<const C>& b, const Vectors<const C>& start, const Vectors<C>& out) {
  for_each_block<1>(rows, columns, [&](auto r, auto v, int64_t row, int64_t column) {
    Vector<C> sum[r][v];
    for_each_sum<r, v>([&](auto i, auto j) {
      sum[i][j] =
          start.data == nullptr ? Vector<C>{} : load(start.data + (row + i) * start.row + (column + j) * start.column);
    });
    for (int64_t term = 0; term < series.count; ++term) {
      A left{a.data + term * series.left + row * a.row, a.row, a.column};
      const C* right = b.data + term * series.right + column * b.column;
      for (int64_t d = 0; d < depth; ++d, left.data += a.column, right += b.row) {
        Vector<C> vectors[v];
        for (int j = 0; j < v; ++j) {
          vectors[j] = load(right + j * b.column);
        }
        for_each_sum<r, v>([&](auto i, auto j) { sum[i][j] += element(left, i) * vectors[j]; });
      }
    }
    for_each_sum<r, v>(
        [&](auto i, auto j) { store(out.data + (row + i) * out.row + (column + j) * out.column, sum[i][j]); });
  });
}

template <class S>
class Refined {
 public:
  using C = Compute<S>;

  Refined(const Problem& problem, const Operands<S>& operands) : problem_(problem), operands_(operands) {
    for_each_block([&](int64_t first, int64_t vectors) {
      for (int64_t k = 0; k < parts_; ++k) {
        const int64_t channels = smaller(vectors * L, problem.out_channels - first);
        read_rows(weights(k, first, channels).turned(), weight_ + weight_at(k, 0, first), BLOCK * L);
        read_rows(mixings(k, first, channels).turned(), mixing_ + mixing_at(k, 0, first), BLOCK * L);
      }
    });
    for (int64_t i = 0; operands.bias.data != nullptr && i < parts_ * problem.out_channels; ++i) {
      const int64_t k = i / problem.out_channels, o = i % problem.out_channels;
      bias_[k * width_ + o] = widen(operands.bias.data[k * operands.bias.strides[1] + o * operands.bias.strides[2]]);
    }
  }

 protected:
  static constexpr int64_t L = lanes<C>;
  static constexpr int64_t BLOCK = 2;    // vectors
  static constexpr int64_t PANEL = 128;  // positions

  Plane<const S> x_plane(const Tile& tile) const {
    return tile_plane(operands_.x, tile, problem_.in_channels, problem_.joints).flat();
  }

  // Positions by channels, copied to rows.
  Factor<C> read_x(const Tile& tile) const {
    read_rows(x_plane(tile), +x_, x_row_);
    return {x_, x_row_, 1};
  }

  // Reads the relations of a clip, which stay until the next one's.
  void read_relations(const Tile& tile) {
    if (tile.clip == clip_) {
      return;
    }
    clip_ = tile.clip;
    const int64_t* strides = operands_.adjacency.strides;
    for (int64_t i = 0; i < parts_ * relations_; ++i) {
      read_turned(Plane<const S>{operands_.adjacency.data + tile.clip * strides[1] + i / relations_ * strides[2] +
                                     i % relations_ * strides[3],
                                 1, 0, problem_.joints, strides[4], problem_.out_joints, strides[5]},
                  relation_rows_ + i * area_row_, area_row_);
    }
  }

  // Calls f(first channel, vectors) for each block.
  template <class F>
  void for_each_block(F f) const {
    for (int64_t first = 0; first < problem_.out_channels; first += BLOCK * L) {
      f(first, smaller(BLOCK, (problem_.out_channels - first + L - 1) / L));
    }
  }

  // z of a block.
  void transform(const Factor<C>& x, int64_t positions, int64_t first, int64_t vectors) const {
    for_each_panel(positions, [&](int64_t position, int64_t count) {
      for (int64_t k = 0; k < parts_; ++k) {
        const Vectors<C> z = block_of(z_, z_slice_, k);
        multiply_vectors<C>(count, vectors, problem_.in_channels, {}, Factor<C>{x.data + position * x.row, x.row, 1},
                            {weight_ + weight_at(k, 0, first), BLOCK * L, L}, {bias_ + k * width_ + first, 0, L},
                            {z.data + position * z.row, z.row, z.column});
      }
    });
  }

  // Calls f(first, count) for positions of which x stays near, for one part after the other.
  template <class F>
  static void for_each_panel(int64_t positions, F f) {
    for (int64_t first = 0; first < positions; first += PANEL) {
      f(first, smaller(PANEL, positions - first));
    }
  }

  // The block's adjacency.
  void refine(int64_t first, int64_t vectors) const {
    for (int64_t k = 0; k < parts_; ++k) {
      multiply_vectors<C>(area_, vectors, relations_, {}, relations(k),
                          {mixing_ + mixing_at(k, 0, first), BLOCK * L, L}, {}, block_of(refined_, a_slice_, k));
    }
  }

  // Of part k, a slice for each vector, with a row for each position.
  Vectors<C> block_of(const Array<C>& slices, int64_t slice, int64_t k) const {
    return {slices + k * slice, L, parts_ * slice};
  }

  // As a left factor (position, relation).
  Factor<C> relations(int64_t k) const { return {relation_rows_ + k * relations_ * area_row_, 1, area_row_}; }

  // Rows of input channels, and of relations, for some output channels.
  Plane<const S> weights(int64_t k, int64_t first, int64_t count) const {
    const auto& [data, strides] = operands_.weight;
    return {data + k * strides[1] + first * strides[2], problem_.in_channels, strides[3], 1, 0, count, strides[2]};
  }
  Plane<const S> mixings(int64_t k, int64_t first, int64_t count) const {
    const auto& [data, strides] = operands_.mixing;
    return {data + k * strides[0] + first * strides[1], relations_, strides[2], 1, 0, count, strides[1]};
  }

  // Weights and mixings lie block by block: rows of as many channels for each part and input, or relation.
  int64_t weight_at(int64_t k, int64_t c, int64_t o) const { return at(k, problem_.in_channels, c, o); }
  int64_t mixing_at(int64_t k, int64_t r, int64_t o) const { return at(k, relations_, r, o); }

  // A slice as a product's factor: (frame, joint) of z, (joint, joint of y) of the adjacency.
  Vectors<const C> z_of(int64_t vector, int64_t k = 0) const {
    return {z_ + (vector * parts_ + k) * z_slice_, problem_.joints * L, L};
  }
  Vectors<const C> adjacency_of(int64_t vector, int64_t k = 0) const {
    return {refined_ + (vector * parts_ + k) * a_slice_, problem_.out_joints * L, L};
  }

  const Problem& problem_;
  const Operands<S>& operands_;
  int64_t clip_ = -1;

  const int64_t parts_ = problem_.parts;
  const int64_t relations_ = problem_.relations;
  const int64_t area_ = problem_.joints * problem_.out_joints;
  const int64_t area_row_ = row_length<C>(area_ + L);
  const int64_t width_ = row_length<C>(round_up(problem_.out_channels, BLOCK* L));  // of rows of output channels
  const int64_t z_slice_ = problem_.tile_frames * problem_.joints * L;
  const int64_t a_slice_ = area_ * L;
  const int64_t x_row_ = row_length<C>(problem_.in_channels);

  const Array<C> weight_{parts_ * problem_.in_channels * width_};
  const Array<C> bias_{parts_ * width_};
  const Array<C> mixing_{parts_ * relations_ * width_};
  const Array<C> relation_rows_{parts_ * relations_ * area_row_};
  const Array<C> x_{problem_.tile_frames * problem_.joints * x_row_};
  const Array<C> z_{BLOCK * parts_ * z_slice_};
  const Array<C> refined_{BLOCK * parts_ * a_slice_};

 private:
  int64_t at(int64_t k, int64_t rows, int64_t row, int64_t o) const {
    constexpr int64_t CHANNELS = BLOCK * L;
    return ((o / CHANNELS * parts_ + k) * rows + row) * CHANNELS + o % CHANNELS;
  }
};

template <class S>
class RefinedForward : Refined<S> {
 public:
  using C = Compute<S>;

  RefinedForward(const Problem& problem, const Operands<S>& operands, const Strided<S, 5>& y)
      : Refined<S>(problem, operands), y_(y) {}

  void run(int64_t task) {
    const Problem& problem = this->problem_;
    const int64_t W = problem.out_joints;
    const Tile tile = tile_of_clip(problem, 0, task / problem.tiles_per_clip, task % problem.tiles_per_clip);
    const Factor<C> x = x_of(tile);
    this->read_relations(tile);
    this->for_each_block([&](int64_t first, int64_t vectors) {
      this->refine(first, vectors);
      this->transform(x, tile.frames() * problem.joints, first, vectors);
      for (int64_t v = 0; v < vectors; ++v) {
        multiply_vectors<C>(tile.frames(), W, problem.joints, {this->parts_, this->z_slice_, this->a_slice_},
                            this->z_of(v), this->adjacency_of(v), {},
                            {out_ + first + v * this->L, W * this->width_, this->width_});
      }
    });
    write_rows(+out_, this->width_, tile_plane(y_, tile, problem.out_channels, W));
  }

 private:
  // Where it lies, if that is in rows.
  Factor<C> x_of(const Tile& tile) const {
    if constexpr (std::is_same_v<S, C>) {
      if (const auto plane = this->x_plane(tile); plane.frames == 1 && plane.channel_stride == 1) {
        return {plane.data, plane.joint_stride, 1};
      }
    }
    return this->read_x(tile);
  }

  const Strided<S, 5>& y_;
  const Array<C> out_{this->problem_.tile_frames * this->problem_.out_joints * this->width_};
};

template <class S>
class RefinedBackward : Refined<S> {
 public:
  using C = Compute<S>;

  RefinedBackward(const Problem& problem, const Operands<S>& operands, const Strided<const S, 5>& grad_y,
                  const Gradients<S>& gradients, const Chunks& chunks)
      : Refined<S>(problem, operands), grad_y_(grad_y), gradients_(gradients), chunks_(chunks) {
    for (int64_t k = 0; k < this->parts_; ++k) {
      for (int64_t o = 0; o < problem.out_channels; o += L) {  // by the order of slices
        read_rows(this->weights(k, o, smaller(L, problem.out_channels - o)),
                  turned_weight_ + (o * this->parts_ + k * L) * this->x_row_, this->x_row_);
      }
      read_rows(this->mixings(k, 0, problem.out_channels), turned_mixing_ + k * this->width_ * relation_row_,
                relation_row_);
    }
  }

  void run(int64_t chunk) {
    const ChunkTiles tiles(this->problem_, chunks_, chunk);
    for (const Array<C>* sums : {&weight_sums_, &bias_sums_, &mixing_sums_}) {
      set_zero(+*sums, sums->size());
    }
    for (int64_t i = 0; i < tiles.count(); ++i) {
      const Tile tile = tiles.tile(i);
      const int64_t slot = tile.clip * chunks_.ranges + chunk % chunks_.ranges;
      run_tile(tile, slot, tiles.is_first_of_clip(i), tiles.is_last_of_clip(i));
    }
    finish(chunk);
  }

 private:
  static constexpr int64_t L = lanes<C>;

  bool for_weight() const { return gradients_.weight != nullptr || gradients_.bias != nullptr; }
  bool for_x() const { return gradients_.x.data != nullptr; }
  bool for_mixing() const { return gradients_.mixing != nullptr; }
  bool for_adjacency() const { return gradients_.for_adjacency() || for_mixing(); }

  void run_tile(const Tile& tile, int64_t slot, bool first_of_clip, bool last_of_clip) {
    const Problem& problem = this->problem_;
    const int64_t positions = tile.frames() * problem.joints;
    read_rows(tile_plane(grad_y_, tile, problem.out_channels, problem.out_joints), +grad_rows_, this->width_);
    const Factor<C> x = for_adjacency() || for_weight() ? this->read_x(tile) : Factor<C>{};
    this->read_relations(tile);
    this->for_each_block([&](int64_t first, int64_t vectors) {
      take_slices(tile.frames() * problem.out_joints, first, vectors);
      if (for_adjacency()) {
        this->transform(x, positions, first, vectors);
        find_grad_adjacency(tile.frames(), vectors);
        add_relations(first, vectors, first_of_clip && first == 0);
        add_mixing(first, vectors);
      }
      if (for_x() || for_weight()) {
        this->refine(first, vectors);
        find_grad_z(tile.frames(), vectors);
        add_weight(x, positions, first, vectors);
        add_bias(positions, first, vectors);
        add_x(positions, first, vectors);
      }
    });
    if (gradients_.for_adjacency() && last_of_clip) {
      finish_relations(slot);
    }
    if (for_x()) {
      write_rows(+grad_x_, this->x_row_, tile_plane(gradients_.x, tile, problem.in_channels, problem.joints));
    }
  }

  // The block's gradient of y, as slices.
  void take_slices(int64_t positions, int64_t first, int64_t vectors) const {
    for (int64_t v = 0; v < vectors; ++v) {
      for (int64_t i = 0; i < positions; ++i) {
        store(grad_y_slices_ + v * y_slice_ + i * L, load(grad_rows_ + i * this->width_ + first + v * L));
      }
    }
  }

  // g_A, in slices like the adjacency's.
  void find_grad_adjacency(int64_t frames, int64_t vectors) const {
    const int64_t V = this->problem_.joints, W = this->problem_.out_joints;
    for (int64_t i = 0; i < vectors * this->parts_; ++i) {
      const Vectors<const C> z = this->z_of(0, i), grad_y = grad_y_of(i / this->parts_);
      multiply_vectors<C>(V, W, frames, {}, Vectors<const C>{z.data, z.column, z.row}, grad_y, {},
                          {grad_refined_ + i * this->a_slice_, W * L, L});
    }
  }

  // g_z, in the place of z.
  void find_grad_z(int64_t frames, int64_t vectors) const {
    const int64_t V = this->problem_.joints, W = this->problem_.out_joints;
    for (int64_t i = 0; i < vectors * this->parts_; ++i) {
      const Vectors<const C> a = this->adjacency_of(0, i);
      multiply_vectors<C>(frames, V, W, {}, grad_y_of(i / this->parts_), Vectors<const C>{a.data, a.column, a.row}, {},
                          {this->z_ + i * this->z_slice_, V * L, L});
    }
  }

  void add_x(int64_t positions, int64_t first, int64_t vectors) const {
    if (for_x()) {
      const Vectors<C> sums{grad_x_, this->x_row_, L};
      multiply_vectors<C>(positions, (this->problem_.in_channels + L - 1) / L, L,
                          {vectors * this->parts_, this->z_slice_, L * this->x_row_}, Factor<C>{this->z_, L, 1},
                          {turned_weight_ + first * this->parts_ * this->x_row_, this->x_row_, L},
                          first > 0 ? Vectors<const C>{sums.data, sums.row, sums.column} : Vectors<const C>{}, sums);
    }
  }

  void add_weight(const Factor<C>& x, int64_t positions, int64_t first, int64_t vectors) const {
    this->for_each_panel(gradients_.weight != nullptr ? positions : 0, [&](int64_t position, int64_t count) {
      for (int64_t k = 0; k < this->parts_; ++k) {
        add_product(this->problem_.in_channels, vectors, position, count, {x.data, 1, x.row},
                    this->block_of(this->z_, this->z_slice_, k),
                    weight_sums_ + k * this->problem_.in_channels * this->width_ + first);
      }
    });
  }

  void add_bias(int64_t positions, int64_t first, int64_t vectors) const {
    for (int64_t i = 0; gradients_.bias != nullptr && i < vectors * this->parts_; ++i) {
      C* const sums = bias_sums_ + i % this->parts_ * this->width_ + first + i / this->parts_ * L;
      store(sums, load(sums) +
                      sum_of_rows<C>(this->z_ + i * this->z_slice_, L, positions, [](Vector<C> each) { return each; }));
    }
  }

  void add_mixing(int64_t first, int64_t vectors) const {
    this->for_each_panel(for_mixing() ? this->area_ : 0, [&](int64_t position, int64_t count) {
      for (int64_t k = 0; k < this->parts_; ++k) {
        const Factor<C> relations = this->relations(k);
        add_product(this->relations_, vectors, position, count, {relations.data, relations.column, relations.row},
                    this->block_of(grad_refined_, this->a_slice_, k),
                    mixing_sums_ + k * this->relations_ * this->width_ + first);
      }
    });
  }

  // sums += a b over the depth from `position` on, of rows of output channels. Long sums are made of short ones, which
  // lose less.
  void add_product(int64_t rows, int64_t vectors, int64_t position, int64_t depth, const Factor<C>& a,
                   const Vectors<C>& b, C* sums) const {
    multiply_vectors<C>(rows, vectors, depth, {}, Factor<C>{a.data + position * a.column, a.row, a.column},
                        {b.data + position * b.row, b.row, b.column}, {}, {terms_, vectors * L, L});
    for (int64_t i = 0; i < rows; ++i) {
      add_scaled(sums + i * this->width_, terms_ + i * vectors * L, C(1), vectors * L);
    }
  }

  void add_relations(int64_t first, int64_t vectors, bool anew) const {
    for (int64_t k = 0; gradients_.for_adjacency() && k < this->parts_; ++k) {
      const Vectors<C> sums{relation_sums_ + k * this->area_ * relation_row_, relation_row_, L};
      multiply_vectors<C>(this->area_, relation_row_ / L, L,
                          {vectors, this->parts_ * this->a_slice_, L * relation_row_},
                          Factor<C>{grad_refined_ + k * this->a_slice_, L, 1},
                          {turned_mixing_ + (k * this->width_ + first) * relation_row_, relation_row_, L},
                          anew ? Vectors<const C>{} : Vectors<const C>{sums.data, sums.row, sums.column}, sums);
    }
  }

  void finish_relations(int64_t slot) const {
    const int64_t size = this->relations_ * this->area_;
    for (int64_t k = 0; k < this->parts_; ++k) {
      const int64_t to = (slot * this->parts_ + k) * size;
      const C* const sums = relation_sums_ + k * this->area_ * relation_row_;
      const auto write = [&](auto* gradients) {
        write_rows(sums, relation_row_, Plane{gradients + to, this->relations_, this->area_, 1, 0, this->area_, 1});
      };
      gradients_.whole_adjacency != nullptr ? write(gradients_.whole_adjacency) : write(gradients_.adjacency);
    }
  }

  void finish(int64_t chunk) const {
    const Problem& problem = this->problem_;
    const int64_t out = problem.out_channels;
    for (int64_t k = 0; k < this->parts_; ++k) {
      for (int64_t c = 0; gradients_.weight != nullptr && c < problem.in_channels; ++c) {
        write_run(weight_sums_ + (k * problem.in_channels + c) * this->width_, out,
                  gradients_.weight + chunk * weight_partial_size(problem) + c * weight_partial_row(problem) + k * out);
      }
      if (gradients_.bias != nullptr) {
        write_run(bias_sums_ + k * this->width_, out, gradients_.bias + (chunk * this->parts_ + k) * out);
      }
      if (for_mixing()) {
        write_rows(mixing_sums_ + k * this->relations_ * this->width_, this->width_,
                   Plane<C>{gradients_.mixing + (chunk * this->parts_ + k) * out * this->relations_, out,
                            this->relations_, 1, 0, this->relations_, 1});
      }
    }
  }

  Vectors<const C> grad_y_of(int64_t vector) const {
    return {grad_y_slices_ + vector * y_slice_, this->problem_.out_joints * L, L};
  }

  const Strided<const S, 5>& grad_y_;
  const Gradients<S>& gradients_;
  const Chunks& chunks_;
  const int64_t relation_row_ = round_up(this->relations_, L);
  const int64_t y_slice_ = this->problem_.tile_frames * this->problem_.out_joints * L;
  const Array<C> turned_weight_{this->parts_ * this->width_ * this->x_row_};
  const Array<C> turned_mixing_{this->parts_ * this->width_ * relation_row_};
  const Array<C> grad_rows_{this->problem_.tile_frames * this->problem_.out_joints * this->width_};
  const Array<C> grad_y_slices_{this->BLOCK * y_slice_};
  const Array<C> grad_x_{this->x_.size()};
  const Array<C> grad_refined_{this->refined_.size()};
  const Array<C> relation_sums_{this->parts_ * this->area_ * relation_row_};
  const Array<C> weight_sums_{this->weight_.size()}, bias_sums_{this->bias_.size()}, mixing_sums_{this->mixing_.size()};
  const Array<C> terms_{larger(larger(this->problem_.in_channels, this->relations_), 1) * this->BLOCK * L};
};

}  // namespace
}  // namespace ikem::graph_conv::IKEM_SIMD_LEVEL
