// Compiled once per SIMD level (see common/simd.h).
//
// An adjacency for each channel is the matter of per_channel.h, and where it is made of relations, of refined.h; all
// else is here.
//
// A tile, some frames of one clip, is laid out as rows of channels, one row for each joint of each frame, and all
// loops run over whole vectors of channels. Three kinds of features meet in it (see Order):
//   narrow   the side of the sum over joints that has one copy of the channels
//   wide     its other side, with K copies: row = (k, channel)
//   plain    the other side of the sum over channels; it has the joints of `wide`
// aggregate_first: x is narrow and y is plain; transform_first: x is plain and y is narrow. Each pass takes
// plain <-> wide by a product with the weights and wide <-> narrow by `combine`, and the gradients are
//   weight      plain^T wide, one of the two being a gradient
//   adjacency   narrow times wide, one of the two being a gradient, summed over frames and channels
//
// The floor is the arithmetic of the products: 2 K C_in C_out T W operations per clip forward, and twice that
// backward. A core of a processor with AVX-512 did 235 GFLOP/s of them in registers. While they are made, what the
// next tile reads is asked for: waiting for it took a fifth of the time.
//
// Rows are padded to whole vectors. What stands in the padding may be anything (a store to the K-fold rows spills
// over what the next part overwrites), except that rows read from tensors are padded with zeros.
#include "common/bfloat16_tiles.h"
#include "common/row_moments.h"
#include "graph_conv/per_channel.h"
#include "graph_conv/refined.h"
#include "graph_conv/tiles.h"

namespace ikem::graph_conv::IKEM_SIMD_LEVEL {
namespace {

// Which values of the adjacency go into which row of a frame: row `targets[i]` is the sum of value times source over
// the entries [starts[i], starts[i + 1]). Offsets are in elements; values are counted.
struct Pattern {
  struct Entry {
    int32_t source, value;
  };

  Pattern(int64_t max_rows, int64_t max_entries) : targets(max_rows), starts(max_rows + 1), entries(max_entries) {}

  void clear() { rows = num_entries = 0; }
  void add_entry(int64_t source, int64_t value) {
    entries[num_entries++] = {static_cast<int32_t>(source), static_cast<int32_t>(value)};
  }
  void end_row(int64_t target) {
    targets[rows++] = target;
    starts[rows] = num_entries;
  }

  int64_t rows = 0, num_entries = 0;
  Array<int64_t> targets, starts;
  Array<Entry> entries;
};

template <class C>
struct Frames {
  C* data;
  int64_t frame;  // the distance from one frame to the next
};

template <int F, int V, class C>
IKEM_INLINE void combine_block(const Pattern& pattern, const C* values, Frames<const C> from, Frames<C> to) {
  constexpr int L = lanes<C>;
  for (int64_t i = 0; i < pattern.rows; ++i) {
    Vector<C> sum[F][V] = {};
    for (int64_t e = pattern.starts[i]; e < pattern.starts[i + 1]; ++e) {
      const C* source = from.data + pattern.entries[e].source;
      const C value = values[pattern.entries[e].value];
      for (int v = 0; v < V; ++v) {
        for (int f = 0; f < F; ++f) {
          sum[f][v] += value * load(source + f * from.frame + v * L);
        }
      }
    }
    for (int f = 0; f < F; ++f) {
      for (int v = 0; v < V; ++v) {
        store(to.data + pattern.targets[i] + f * to.frame + v * L, sum[f][v]);
      }
    }
  }
}

// F frames at a time, and those left over in halves of F.
template <int F, int V, class C>
void combine_frames(const Pattern& pattern, const C* values, Frames<const C> from, Frames<C> to, int64_t frames) {
  for (; frames >= F; frames -= F) {
    combine_block<F, V>(pattern, values, from, to);
    from.data += F * from.frame;
    to.data += F * to.frame;
  }
  if constexpr (F > 1) {
    combine_frames<F / 2, V>(pattern, values, from, to, frames);
  }
}

// The sums over joints that the pattern describes, for each frame.
template <class C>
void combine(const Pattern& pattern, const C* values, Frames<const C> from, Frames<C> to, int64_t frames,
             int64_t channels) {
  constexpr int64_t L = lanes<C>;
  const int64_t vectors = round_up(channels, L) / L;
  const int64_t at_once = vectors % 4 == 0 ? 4 : vectors % 2 == 0 ? 2 : 1;
  // From the last channels to the first: the last vector of a part spills over the first of the next part.
  for (int64_t c = (vectors - at_once) * L; c >= 0; c -= at_once * L) {
    const Frames<const C> source = {from.data + c, from.frame};
    const Frames<C> target = {to.data + c, to.frame};
    if (at_once == 4) {
      combine_frames<2, 4>(pattern, values, source, target, frames);
    } else if (at_once == 2) {
      combine_frames<4, 2>(pattern, values, source, target, frames);
    } else {
      combine_frames<8, 1>(pattern, values, source, target, frames);
    }
  }
}

// Rows of one or several joints in each frame: `joint` apart, frames `frame` apart. T: numbers, or pairs of them.
template <class T>
struct JointRows {
  const T* data;
  int64_t joint, frame;

  JointRows at(int64_t index, int64_t channel) const { return {data + index * joint + channel, joint, frame}; }
};

template <class T, class C>
IKEM_INLINE Vector<C> add_product(Vector<C> sum, Vector<T> a, Vector<T> b) {
  if constexpr (std::is_same_v<T, C>) {
    return sum + a * b;
  } else {
    return add_products(sum, a, b);
  }
}

// Sums products of R rows with Q rows over frames and vectors of channels. The last vector of the wide rows may run
// into other channels, which may be infinite: the first `last_lanes` of its lanes count.
template <int R, int Q, class T, class C>
void correlate_block(JointRows<T> narrow, JointRows<T> wide, int64_t frames, int64_t vectors, int64_t last_lanes,
                     C* sums, int64_t narrow_step, int64_t wide_step) {
  constexpr int L = lanes<C>;
  const Mask<C> counts = first_lanes<C>(last_lanes);
  Vector<C> sum[R][Q];
  for (int r = 0; r < R; ++r) {
    for (int q = 0; q < Q; ++q) {
      sum[r][q] = load(sums + r * narrow_step + q * wide_step);
    }
  }
  for (int64_t v = 0; v < vectors; ++v) {
    const bool whole = v + 1 < vectors || last_lanes == L;
    for (int64_t t = 0; t < frames; ++t) {
      const T* left = narrow.data + t * narrow.frame + v * L;
      const T* right = wide.data + t * wide.frame + v * L;
      Vector<T> rows[R];
      for (int r = 0; r < R; ++r) {
        rows[r] = load(left + r * narrow.joint);
      }
      for (int q = 0; q < Q; ++q) {
        Vector<T> other = load(right + q * wide.joint);
        if (!whole) {
          other = counts ? other : Vector<T>{};
        }
        for (int r = 0; r < R; ++r) {
          sum[r][q] = add_product<T, C>(sum[r][q], rows[r], other);
        }
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int q = 0; q < Q; ++q) {
      store(sums + r * narrow_step + q * wide_step, sum[r][q]);
    }
  }
}

template <class C>
C dot(const C* a, const C* b, int64_t size) {
  constexpr int64_t L = lanes<C>;
  Vector<C> sums = {};
  for (int64_t i = 0; i < size; i += L) {
    sums += load_widened<C>(a + i, smaller(L, size - i)) * load_widened<C>(b + i, smaller(L, size - i));
  }
  return sum_of_lanes<C>(sums);
}

// What both passes share: the sizes, one tile, and weights and adjacency as the tile's loops want them.
template <class S>
class Pass {
 public:
  using C = Compute<S>;

  Pass(const Problem& problem, const Operands<S>& operands)
      : problem_(problem), operands_(operands), aggregate_(problem.order == Order::aggregate_first) {}

 protected:
  // Makes ready for a clip of a group; what did not change since the last call stays.
  void enter(int64_t group, int64_t clip) {
    const bool other_group = group != group_;
    if (other_group) {
      load_weight(group);
    }
    if (other_group || (clip != clip_ && problem_.per_clip)) {
      load_adjacency(group, clip);
      find_patterns();
      load_bias(group);
    }
    group_ = group;
    clip_ = clip;
  }

  template <class T>
  Plane<T> x_plane(const Strided<T, 5>& tensor, const Tile& tile) const {
    return tile_plane(tensor, tile, problem_.in_channels, problem_.joints);
  }
  template <class T>
  Plane<T> y_plane(const Strided<T, 5>& tensor, const Tile& tile) const {
    return tile_plane(tensor, tile, problem_.out_channels, problem_.out_joints);
  }

  void spread(int64_t frames) {
    combine<C>(spread_, values_, {narrow_, narrow_frame_}, {wide_, wide_frame_}, frames, narrow_channels_);
  }
  void gather(int64_t frames) {
    combine<C>(gather_, values_, {wide_, wide_frame_}, {narrow_, narrow_frame_}, frames, narrow_channels_);
  }

  // wide = plain by the weights, and the bias where the output channels are wide
  template <class Between = Nothing>
  void widen_plain(int64_t frames, bool with_bias, Between&& between = {}) {
    with_bias = with_bias && biased();
    if (with_bias) {
      repeat_rows(bias_rows_, 1, frames * wide_joints_, wide_, wide_row_);
    }
    multiply_by_weights(frames * wide_joints_, plain_, plain_channels_, plain_row_, into_wide_, wide_, wide_channels_,
                        wide_row_, with_bias, between);
  }

  // plain = wide by the weights, and the bias where the output channels are plain
  template <class Between = Nothing>
  void narrow_wide(int64_t frames, bool with_bias, Between&& between = {}) {
    with_bias = with_bias && biased();
    if (with_bias) {
      repeat_rows(bias_rows_, wide_joints_, frames, plain_, plain_row_);
    }
    multiply_by_weights(frames * wide_joints_, wide_, wide_channels_, wide_row_, from_wide_, plain_, plain_channels_,
                        plain_row_, with_bias, between);
  }

  bool biased() const { return operands_.bias.data != nullptr; }

  const Problem& problem_;
  const Operands<S>& operands_;
  const bool aggregate_;
  int64_t group_ = -1, clip_ = -1;

  const int64_t parts_ = problem_.parts;
  const int64_t narrow_channels_ = aggregate_ ? problem_.in_channels : problem_.out_channels;
  const int64_t plain_channels_ = aggregate_ ? problem_.out_channels : problem_.in_channels;
  const int64_t wide_channels_ = parts_ * narrow_channels_;
  const int64_t narrow_joints_ = aggregate_ ? problem_.joints : problem_.out_joints;
  const int64_t wide_joints_ = aggregate_ ? problem_.out_joints : problem_.joints;
  const int64_t narrow_row_ = row_length<C>(narrow_channels_);
  const int64_t plain_row_ = row_length<C>(plain_channels_);
  // The last part is stored in whole vectors too.
  const int64_t wide_row_ = row_length<C>((parts_ - 1) * narrow_channels_ + round_up(narrow_channels_, lanes<C>));
  const int64_t narrow_frame_ = narrow_joints_ * narrow_row_;
  const int64_t wide_frame_ = wide_joints_ * wide_row_;
  // Where the value of part k from joint v to joint w stands: k V W + v W + w.
  const int64_t part_values_ = problem_.joints * problem_.out_joints;
  const int64_t narrow_step_ = aggregate_ ? problem_.out_joints : 1;
  const int64_t wide_step_ = aggregate_ ? 1 : problem_.out_joints;

  const Array<C> bias_{parts_ * problem_.out_channels};
  // aggregate_first: the sum of the values that reach joint w in part k
  const Array<C> reached_{parts_ * problem_.out_joints};

  // The tile.
  const Array<C> narrow_{problem_.tile_frames * narrow_frame_};
  const Array<C> wide_{problem_.tile_frames * wide_frame_};
  const Array<C> plain_{problem_.tile_frames * wide_joints_ * plain_row_};
  // Both factors of the product for the weights' gradient, or of that for the adjacency's; the left one of a product
  // with weights takes no more. Tiles and squares of vectors reach beyond both.
  const int64_t most_pairs_ = larger((problem_.tile_frames * wide_joints_ + 1) / 2 * (plain_row_ + wide_row_),
                                     (problem_.tile_frames + 1) / 2 * (narrow_frame_ + wide_frame_)) +
                              (problem_.tiled ? TILE_SIDE * (plain_row_ + wide_row_) : 0);
  const Array<Pair> pairs_{problem_.paired ? most_pairs_ : 0, Unwritten{}};

 private:
  static void repeat_rows(const C* rows, int64_t num_rows, int64_t times, C* to, int64_t row) {
    for (int64_t i = 0; i < times; ++i) {
      memcpy(to + i * num_rows * row, rows, sizeof(C) * static_cast<size_t>(num_rows * row));
    }
  }

  // Weights as a right factor, and their pairs.
  struct Weights {
    Weights(int64_t depth, int64_t row, bool paired)
        : values(depth * row), pairs(paired ? padded_pairs((depth + 1) / 2) * row : 0) {}

    const Array<C> values;
    const Array<Pair> pairs;
  };

  template <class Between>
  void multiply_by_weights(int64_t positions, const C* from, int64_t from_channels, int64_t from_row,
                           const Weights& weights, C* to, int64_t to_channels, int64_t to_row, bool accumulate,
                           Between& between) {
#ifdef IKEM_MULTIPLIES_PAIRS
    if constexpr (std::is_same_v<S, BFloat16>) {
      if (problem_.paired) {
        const int64_t depth = (from_channels + 1) / 2, row = round_up(depth, lanes<C>);
        pair_columns(from, from_row, positions, from_channels, pairs_, row);
        if (problem_.tiled) {
          const TileTerm product{pairs_, weights.pairs, padded_pairs(depth)};
          for (int64_t i = 0; depth < product.depth && i < positions; ++i) {
            set_zero(pairs_ + i * row + depth, product.depth - depth);
          }
          return multiply_tiles(positions, to_channels, tile_depth(product.depth), {&product, 1}, row, to_row,
                                {accumulate ? to : nullptr, to_row}, to, to_row, between);
        }
        return multiply_pairs<Pairs::dot>(positions, to_channels, depth, {pairs_, row, 1}, weights.pairs, to_row,
                                          {to, to_row, 0}, accumulate, between);
      }
    }
#endif
    multiply<C>(positions, to_channels, from_channels, {from, from_row, 1}, weights.values, to_row, to, to_row,
                accumulate, between);
  }

  void load_weight(int64_t group) {
    const int64_t* strides = operands_.weight.strides;
    const S* data = operands_.weight.data + group * strides[0];
    const int64_t plain_stride = strides[aggregate_ ? 2 : 3];
    const int64_t narrow_stride = strides[aggregate_ ? 3 : 2];
    for (int64_t k = 0; k < parts_; ++k) {
      for (int64_t i = 0; i < plain_channels_; ++i) {
        for (int64_t j = 0; j < narrow_channels_; ++j) {
          const C value = widen(data[k * strides[1] + i * plain_stride + j * narrow_stride]);
          into_wide_.values[i * wide_row_ + k * narrow_channels_ + j] = value;
          from_wide_.values[(k * narrow_channels_ + j) * plain_row_ + i] = value;
        }
      }
    }
#ifdef IKEM_MULTIPLIES_PAIRS
    if constexpr (std::is_same_v<S, BFloat16>) {
      if (problem_.paired) {
        pair_rows(into_wide_.values, wide_row_, plain_channels_, wide_channels_, into_wide_.pairs, wide_row_);
        pair_rows(from_wide_.values, plain_row_, wide_channels_, plain_channels_, from_wide_.pairs, plain_row_);
      }
    }
#endif
  }

  void load_adjacency(int64_t group, int64_t clip) {
    const int64_t* strides = operands_.adjacency.strides;
    const S* data = operands_.adjacency.data + group * strides[0] + clip * strides[1];
    for (int64_t k = 0; k < parts_; ++k) {
      const S* part = data + k * strides[2];
      for (int64_t i = 0; i < part_values_; ++i) {
        values_[k * part_values_ + i] =
            widen(part[i / problem_.out_joints * strides[4] + i % problem_.out_joints * strides[5]]);
      }
    }
  }

  void find_patterns() {
    spread_.clear();
    for (int64_t k = 0; k < parts_; ++k) {
      for (int64_t j = 0; j < wide_joints_; ++j) {
        for (int64_t i = 0; i < narrow_joints_; ++i) {
          if (const int64_t value = value_index(k, i, j); values_[value] != 0) {
            spread_.add_entry(i * narrow_row_, value);
          }
        }
        spread_.end_row(j * wide_row_ + k * narrow_channels_);
      }
    }
    gather_.clear();
    for (int64_t i = 0; i < narrow_joints_; ++i) {
      for (int64_t k = 0; k < parts_; ++k) {
        for (int64_t j = 0; j < wide_joints_; ++j) {
          if (const int64_t value = value_index(k, i, j); values_[value] != 0) {
            gather_.add_entry(j * wide_row_ + k * narrow_channels_, value);
          }
        }
      }
      gather_.end_row(i * narrow_row_);
    }
  }

  int64_t value_index(int64_t k, int64_t narrow_joint, int64_t wide_joint) const {
    return k * part_values_ + narrow_joint * narrow_step_ + wide_joint * wide_step_;
  }

  // The bias, and as it reaches the rows that hold the output channels.
  void load_bias(int64_t group) {
    if (!biased()) {
      return;
    }
    const int64_t* strides = operands_.bias.strides;
    const S* data = operands_.bias.data + group * strides[0];
    for (int64_t k = 0; k < parts_; ++k) {
      for (int64_t o = 0; o < problem_.out_channels; ++o) {
        bias_[k * problem_.out_channels + o] = widen(data[k * strides[1] + o * strides[2]]);
      }
    }
    if (!aggregate_) {
      memcpy(bias_rows_, bias_, sizeof(C) * static_cast<size_t>(wide_channels_));
      return;
    }
    set_zero(+bias_rows_, wide_joints_ * plain_row_);
    for (int64_t k = 0; k < parts_; ++k) {
      for (int64_t w = 0; w < problem_.out_joints; ++w) {
        C sum = 0;
        for (int64_t v = 0; v < problem_.joints; ++v) {
          sum += values_[k * part_values_ + v * problem_.out_joints + w];
        }
        reached_[k * problem_.out_joints + w] = sum;
        add_scaled(bias_rows_ + w * plain_row_, bias_ + k * plain_channels_, sum, plain_channels_);
      }
    }
  }

  const Weights into_wide_{plain_channels_, wide_row_, problem_.paired};
  const Weights from_wide_{wide_channels_, plain_row_, problem_.paired};
  const Array<C> values_{parts_ * part_values_};
  const Array<C> bias_rows_{aggregate_ ? wide_joints_ * plain_row_ : wide_row_};
  Pattern spread_{parts_ * wide_joints_, parts_ * part_values_};
  Pattern gather_{narrow_joints_, parts_ * part_values_};
};

template <class S>
class Forward : Pass<S> {
 public:
  using C = Compute<S>;

  Forward(const Problem& problem, const Operands<S>& operands, const Strided<S, 5>& y, const PartialMoments<C>& moments)
      : Pass<S>(problem, operands), y_(y), moments_(moments), of_tile_(problem.out_channels) {}

  void run(int64_t task) {
    const Tile tile = task_tile(task);
    this->enter(tile.group, tile.clip);
    const auto x = this->x_plane(this->operands_.x, tile);
    const auto y = this->y_plane(y_, tile);
    Ahead ahead;
    ahead.add(y);
    if (task + 1 < this->problem_.groups * this->problem_.clips * this->problem_.tiles_per_clip) {
      ahead.add(this->x_plane(this->operands_.x, task_tile(task + 1)));
    }
    if (this->aggregate_) {
      read_rows(x, +this->narrow_, this->narrow_row_);
      this->spread(tile.frames());
      this->narrow_wide(tile.frames(), /*with_bias=*/true, ahead);
      finish(task, this->plain_, this->plain_row_, y);
    } else {
      read_rows(x, +this->plain_, this->plain_row_);
      this->widen_plain(tile.frames(), /*with_bias=*/true, ahead);
      this->gather(tile.frames());
      finish(task, this->narrow_, this->narrow_row_, y);
    }
  }

 private:
  void finish(int64_t task, const C* rows, int64_t row, const Plane<S>& y) {
    write_rows(rows, row, y);
    if (moments_.wanted()) {
      of_tile_.add(rows, row, y.frames * y.joints);
      of_tile_.finish(moments_.at(task, y.channels));
    }
  }

  Tile task_tile(int64_t task) const {
    const Problem& problem = this->problem_;
    const int64_t clip = task / problem.tiles_per_clip;
    return tile_of_clip(problem, clip / problem.clips, clip % problem.clips, task % problem.tiles_per_clip);
  }

  const Strided<S, 5>& y_;
  const PartialMoments<C>& moments_;
  RowMoments<C> of_tile_;
};

template <class S>
class Backward : Pass<S> {
 public:
  using C = Compute<S>;

  Backward(const Problem& problem, const Operands<S>& operands, const Strided<const S, 5>& grad_y,
           const Gradients<S>& gradients, const Chunks& chunks)
      : Pass<S>(problem, operands), grad_y_(grad_y), gradients_(gradients), chunks_(chunks) {}

  void run(int64_t chunk) {
    const Problem& problem = this->problem_;
    const ChunkTiles tiles(problem, chunks_, chunk);
    start_chunk(chunk);
    for (int64_t i = 0; i < tiles.count(); ++i) {
      const Tile tile = tiles.tile(i);
      this->enter(tile.group, tile.clip);
      look_ahead(tile, chunk, i);
      this->aggregate_ ? aggregate_first(tile) : transform_first(tile);
      if (problem.per_clip && tiles.is_last_of_clip(i)) {
        finish_adjacency((tile.group * problem.clips + tile.clip) * chunks_.ranges + chunk % chunks_.ranges);
      }
    }
    if (!problem.per_clip) {
      finish_adjacency(chunk);
    }
  }

 private:
  void start_chunk(int64_t chunk) {
    if (gradients_.weight != nullptr) {
      grad_weight_ = gradients_.weight + chunk * weight_partial_size(this->problem_);
      set_zero(grad_weight_, weight_partial_size(this->problem_));
    }
    if (gradients_.bias != nullptr) {
      const int64_t size = this->parts_ * this->problem_.out_channels;
      grad_bias_ = gradients_.bias + chunk * size;
      set_zero(grad_bias_, size);
    }
  }

  // What this tile writes, and what the next one reads.
  void look_ahead(const Tile& tile, int64_t chunk, int64_t index) {
    ahead_ = {};
    if (gradients_.x.data != nullptr) {
      ahead_.add(this->x_plane(gradients_.x, tile));
    }
    const ChunkTiles tiles(this->problem_, chunks_, chunk);
    const bool last = index + 1 == tiles.count();
    if (last && chunk + 1 == this->problem_.groups * chunks_.per_group) {
      return;
    }
    const Tile next = last ? ChunkTiles(this->problem_, chunks_, chunk + 1).tile(0) : tiles.tile(index + 1);
    ahead_.add(this->y_plane(grad_y_, next));
    ahead_.add(this->x_plane(this->operands_.x, next));
  }

  void aggregate_first(const Tile& tile) {
    const int64_t frames = tile.frames();
    read_rows(this->y_plane(grad_y_, tile), +this->plain_, this->plain_row_);
    if (this->biased() && (gradients_.bias != nullptr || gradients_.for_adjacency())) {
      pass_bias(frames);
    }
    if (gradients_.weight != nullptr || gradients_.for_adjacency()) {
      read_rows(this->x_plane(this->operands_.x, tile), +this->narrow_, this->narrow_row_);
    }
    if (gradients_.weight != nullptr) {
      this->spread(frames);
      add_weight(frames);
    }
    if (gradients_.x.data != nullptr || gradients_.for_adjacency()) {
      this->widen_plain(frames, /*with_bias=*/false, ahead_);
    }
    if (gradients_.for_adjacency()) {
      add_adjacency(frames);
    }
    if (gradients_.x.data != nullptr) {
      this->gather(frames);
      write_rows(+this->narrow_, this->narrow_row_, this->x_plane(gradients_.x, tile));
    }
  }

  void transform_first(const Tile& tile) {
    const int64_t frames = tile.frames();
    read_rows(this->y_plane(grad_y_, tile), +this->narrow_, this->narrow_row_);
    if (gradients_.weight != nullptr || gradients_.for_adjacency()) {
      read_rows(this->x_plane(this->operands_.x, tile), +this->plain_, this->plain_row_);
    }
    if (gradients_.for_adjacency()) {
      this->widen_plain(frames, /*with_bias=*/true, ahead_);
      add_adjacency(frames);
    }
    if (gradients_.x.data == nullptr && gradients_.weight == nullptr && gradients_.bias == nullptr) {
      return;
    }
    this->spread(frames);
    if (gradients_.bias != nullptr) {
      for (int64_t i = 0; i < frames * this->wide_joints_; ++i) {
        add_scaled(grad_bias_, this->wide_ + i * this->wide_row_, C(1), this->wide_channels_);
      }
    }
    if (gradients_.weight != nullptr) {
      add_weight(frames);
    }
    if (gradients_.x.data != nullptr) {
      this->narrow_wide(frames, /*with_bias=*/false, ahead_);
      write_rows(+this->plain_, this->plain_row_, this->x_plane(gradients_.x, tile));
    }
  }

  // grad_weight += plain^T wide
  void add_weight(int64_t frames) {
    const int64_t positions = frames * this->wide_joints_, row = weight_partial_row(this->problem_);
#ifdef IKEM_MULTIPLIES_PAIRS
    if constexpr (std::is_same_v<S, BFloat16>) {
      if (this->problem_.paired) {
        return add_weight_of_pairs(positions, row);
      }
    }
#endif
    multiply<C>(this->plain_channels_, this->wide_channels_, positions, {this->plain_, 1, this->plain_row_},
                this->wide_, this->wide_row_, grad_weight_, row, /*accumulate=*/true, ahead_);
  }

#ifdef IKEM_MULTIPLIES_PAIRS

  void add_weight_of_pairs(int64_t positions, int64_t row) {
    const int64_t plain_row = this->plain_row_, wide_row = this->wide_row_;
    const int64_t depth = (positions + 1) / 2, whole = this->problem_.tiled ? round_up(depth, TILE_SIDE) : depth;
    Pair* const plain = this->pairs_;
    Pair* const wide = plain + whole * plain_row;
    pair_rows(this->plain_, plain_row, positions, this->plain_channels_, plain, plain_row);
    pair_rows(this->wide_, wide_row, positions, this->wide_channels_, wide, wide_row);
    if (!this->problem_.tiled) {
      return multiply_pairs<Pairs::dot>(this->plain_channels_, this->wide_channels_, depth, {plain, 1, plain_row}, wide,
                                        wide_row, {grad_weight_, row, 0}, /*accumulate=*/true, ahead_);
    }
    set_zero(plain + depth * plain_row, (whole - depth) * plain_row);
    set_zero(wide + depth * wide_row, (whole - depth) * wide_row);
    transpose_pairs(plain, plain_row, whole, this->plain_channels_, turned_, turned_row_);
    const TileTerm product{turned_, wide, whole};
    multiply_tiles(this->plain_channels_, this->wide_channels_, TILE_SIDE, {&product, 1}, turned_row_, wide_row,
                   {grad_weight_, row}, grad_weight_, row, ahead_);
  }

#endif

  // aggregate_first: the bias reaches joint w as often as the values do, in every frame alike.
  void pass_bias(int64_t frames) {
    const int64_t channels = this->problem_.out_channels;
    const int64_t frame = this->wide_joints_ * this->plain_row_;
    set_zero(+over_frames_, frame);
    for (int64_t t = 0; t < frames; ++t) {
      add_scaled(+over_frames_, this->plain_ + t * frame, C(1), frame);
    }
    for (int64_t k = 0; k < this->parts_; ++k) {
      for (int64_t w = 0; w < this->wide_joints_; ++w) {
        const int64_t i = k * this->wide_joints_ + w;
        const C* sums = over_frames_ + w * this->plain_row_;
        if (gradients_.bias != nullptr) {
          add_scaled(grad_bias_ + k * channels, sums, this->reached_[i], channels);
        }
        if (gradients_.for_adjacency()) {
          through_bias_[i] += dot(this->bias_ + k * channels, sums, channels);
        }
      }
    }
  }

  // The adjacency's gradient, one sum for each lane, [k][v][w][lane].
  void add_adjacency(int64_t frames) {
    const int64_t narrow_frame = this->narrow_frame_, wide_frame = this->wide_frame_;
#ifdef IKEM_MULTIPLIES_PAIRS
    if constexpr (std::is_same_v<S, BFloat16>) {
      if (tiled_adjacency_) {
        return correlate_tiles(frames);
      }
      if (this->problem_.paired) {  // pairs of frames
        const int64_t pairs = (frames + 1) / 2;
        Pair* const wide = this->pairs_ + pairs * narrow_frame;
        pair_rows(this->narrow_, narrow_frame, frames, narrow_frame, this->pairs_, narrow_frame);
        pair_rows(this->wide_, wide_frame, frames, wide_frame, wide, wide_frame);
        return correlate<Pair>({this->pairs_, this->narrow_row_, narrow_frame}, {wide, this->wide_row_, wide_frame},
                               pairs);
      }
    }
#endif
    correlate<C>({this->narrow_, this->narrow_row_, narrow_frame}, {this->wide_, this->wide_row_, wide_frame}, frames);
  }

#ifdef IKEM_MULTIPLIES_PAIRS

  // Of each frame a product of matrices, joints by pairs of channels by joints.
  void correlate_tiles(int64_t frames) {
    const int64_t depth = this->narrow_channels_ / 2, narrow_frame = this->narrow_frame_ / 2;
    const int64_t wide_frame = this->wide_frame_ / 2, wide_row = this->wide_row_ / 2;
    const int64_t turned_frame = round_up(depth, TILE_SIDE) * tile_sums_row_;
    Pair* const wide = this->pairs_ + frames * narrow_frame;
    pair_columns(this->narrow_, 0, 1, frames * this->narrow_frame_, this->pairs_, 0);
    pair_columns(this->wide_, 0, 1, frames * this->wide_frame_, wide, 0);
    for (int64_t k = 0; k < this->parts_; ++k) {
      for (int64_t t = 0; t < frames; ++t) {
        Pair* const turned = turned_ + t * turned_frame;
        transpose_pairs(wide + t * wide_frame + k * depth, wide_row, this->wide_joints_, depth, turned, tile_sums_row_);
        terms_[t] = {this->pairs_ + t * narrow_frame, turned, depth};
      }
      C* const sums = tile_sums_ + k * tile_sums_part_;
      multiply_tiles(this->narrow_joints_, this->wide_joints_, tile_depth(depth), {terms_, frames},
                     this->narrow_row_ / 2, tile_sums_row_, {sums, tile_sums_row_}, sums, tile_sums_row_);
    }
  }

#endif

  template <class T>
  void correlate(JointRows<T> narrow, JointRows<T> wide, int64_t frames) {
    const int64_t vectors = round_up(this->narrow_channels_, L) / L;
    const int64_t last_lanes = this->narrow_channels_ - (vectors - 1) * L;
    for (int64_t k = 0; k < this->parts_; ++k) {
      correlate_part(narrow, wide.at(0, k * this->narrow_channels_), frames, vectors, last_lanes,
                     grad_adjacency_ + k * this->part_values_ * L);
    }
  }

  template <class T>
  void correlate_part(JointRows<T> narrow, JointRows<T> wide, int64_t frames, int64_t vectors, int64_t last_lanes,
                      C* sums) {
    // As many sums as there are registers for.
    constexpr int R = 5;
    constexpr int Q = VECTOR_BYTES == 64 ? 5 : 2;
    const int64_t narrow_step = this->narrow_step_ * L;
    const int64_t wide_step = this->wide_step_ * L;
    for (int64_t i = 0; i < this->narrow_joints_;) {
      const bool many = i + R <= this->narrow_joints_;
      for (int64_t j = 0; j < this->wide_joints_;) {
        const bool many_wide = j + Q <= this->wide_joints_;
        const auto block = many        ? many_wide ? correlate_block<R, Q, T, C> : correlate_block<R, 1, T, C>
                           : many_wide ? correlate_block<1, Q, T, C>
                                       : correlate_block<1, 1, T, C>;
        block(narrow.at(i, 0), wide.at(j, 0), frames, vectors, last_lanes, sums + i * narrow_step + j * wide_step,
              narrow_step, wide_step);
        j += many_wide ? Q : 1;
      }
      i += many ? R : 1;
    }
  }

  // Writes the sums to their place among the partial sums, and begins anew.
  void finish_adjacency(int64_t slot) {
    if (!gradients_.for_adjacency()) {
      return;
    }
    const int64_t size = adjacency_size(this->problem_);
    C* const sums = grad_adjacency_;
    tiled_adjacency_ ? sort_tile_sums(sums) : add_lanes(sums, size);
    if (this->aggregate_) {
      for (int64_t i = 0; i < size; i += this->wide_joints_) {
        add_scaled(sums + i, through_bias_ + i / this->part_values_ * this->wide_joints_, C(1), this->wide_joints_);
      }
    }
    write_adjacency(sums, size, gradients_, slot * size);
    set_zero(+grad_adjacency_, grad_adjacency_.size());
    set_zero(+through_bias_, through_bias_.size());
    set_zero(+tile_sums_, tile_sums_.size());
  }

  // The sums take the place of their lanes.
  void add_lanes(C* sums, int64_t size) {
    for (int64_t i = 0; i < size; i += L) {
      Vector<C> rows[L];
      for (int j = 0; j < L; ++j) {
        rows[j] = load(sums + (i + j) * L);
      }
      store(sums + i, sums_of_lanes<C>(rows));
    }
  }

  void sort_tile_sums(C* sums) {
    for (int64_t k = 0; k < this->parts_; ++k) {
      for (int64_t i = 0; i < this->narrow_joints_; ++i) {
        for (int64_t j = 0; j < this->wide_joints_; ++j) {
          sums[k * this->part_values_ + i * this->narrow_step_ + j * this->wide_step_] =
              tile_sums_[k * tile_sums_part_ + i * tile_sums_row_ + j];
        }
      }
    }
  }

  static constexpr int64_t L = lanes<C>;

  const Strided<const S, 5>& grad_y_;
  const Gradients<S>& gradients_;
  const Chunks& chunks_;
  Ahead ahead_;
  C* grad_weight_ = nullptr;
  C* grad_bias_ = nullptr;
  const Array<C> over_frames_{this->wide_joints_ * this->plain_row_};
  const Array<C> grad_adjacency_{gradients_.for_adjacency() ? round_up(this->parts_ * this->part_values_, L) * L : 0};
  const Array<C> through_bias_{this->parts_ * this->wide_joints_};

  // For products in tile registers: left factors by channels, or wide ones by joints; the sums for the adjacency,
  // (parts, narrow joints, row).
  const bool tiled_ = this->problem_.tiled;
  const bool tiled_adjacency_ = tiled_ && gradients_.for_adjacency() && this->narrow_channels_ % TILE_SIDE == 0;
  const int64_t turned_row_ =
      row_length<Pair>(round_up((this->problem_.tile_frames * this->wide_joints_ + 1) / 2, TILE_SIDE));
  const int64_t tile_sums_row_ = round_up(this->wide_joints_, TILE_SIDE);
  const int64_t tile_sums_part_ = this->narrow_joints_ * tile_sums_row_;
  const Array<C> tile_sums_{tiled_adjacency_ ? this->parts_ * tile_sums_part_ : 0};
  const Array<Pair> turned_{
      tiled_ ? larger(round_up(this->plain_channels_, TILE_SIDE) * turned_row_,
                      this->problem_.tile_frames* round_up(this->narrow_channels_ / 2, TILE_SIDE) * tile_sums_row_)
             : 0};
  const Array<TileTerm> terms_{this->problem_.tile_frames};
};

}  // namespace

template <class S>
void forward(const Problem& problem, const Operands<S>& operands, Strided<S, 5> y,
             const PartialMoments<Compute<S>>& moments, int64_t first_task, int64_t last_task) {
  const auto run_tasks = [&](auto pass) {
    for (int64_t task = first_task; task < last_task; ++task) {
      pass.run(task);
    }
  };
  problem.relations > 0 ? run_tasks(RefinedForward<S>(problem, operands, y))
  : problem.per_channel ? run_tasks(PerChannelForward<S>(problem, operands, y))
                        : run_tasks(Forward<S>(problem, operands, y, moments));
}

template <class S>
void backward(const Problem& problem, const Operands<S>& operands, Strided<const S, 5> grad_y,
              const Gradients<S>& gradients, const Chunks& chunks, int64_t first_chunk, int64_t last_chunk) {
  const auto run_chunks = [&](auto pass) {
    for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
      pass.run(chunk);
    }
  };
  problem.relations > 0 ? run_chunks(RefinedBackward<S>(problem, operands, grad_y, gradients, chunks))
  : problem.per_channel ? run_chunks(PerChannelBackward<S>(problem, operands, grad_y, gradients, chunks))
                        : run_chunks(Backward<S>(problem, operands, grad_y, gradients, chunks));
}

template <class S>
void reduce(const Compute<S>* partials, int64_t count, int64_t stride, int64_t step, S* out, int64_t size) {
  constexpr int64_t AT_ONCE = 64;
  for (int64_t first = 0; first < size; first += AT_ONCE) {
    const int64_t now = smaller(AT_ONCE, size - first);
    Compute<S> sums[AT_ONCE] = {};
    for (int64_t j = 0; j < count; ++j) {
      const Compute<S>* from = partials + j * stride + first * step;
      for (int64_t i = 0; i < now; ++i) {
        sums[i] += from[i * step];
      }
    }
    for (int64_t i = 0; i < now; ++i) {
      out[first + i] = narrow<S>(sums[i]);
    }
  }
}

#define INSTANTIATE(S)                                                                                           \
  template void forward<S>(const Problem&, const Operands<S>&, Strided<S, 5>, const PartialMoments<Compute<S>>&, \
                           int64_t, int64_t);                                                                    \
  template void backward<S>(const Problem&, const Operands<S>&, Strided<const S, 5>, const Gradients<S>&,        \
                            const Chunks&, int64_t, int64_t);                                                    \
  template void reduce<S>(const Compute<S>*, int64_t, int64_t, int64_t, S*, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::graph_conv::IKEM_SIMD_LEVEL
