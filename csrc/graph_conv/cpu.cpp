// Compiled once per SIMD level (see common/simd.h).
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
// backward. A core of a processor with AVX-512 did 235 GFLOP/s of them in registers.
//
// Rows are padded to whole vectors. What stands in the padding may be anything (a store to the K-fold rows spills
// over what the next part overwrites), except that rows read from tensors are padded with zeros.
#include <type_traits>

#include "common/memory.h"
#include "common/vector.h"
#include "graph_conv/kernel.h"

namespace ikem::graph_conv::IKEM_SIMD_LEVEL {
namespace {

using namespace ::ikem::IKEM_SIMD_LEVEL;

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// The length of a row that holds `channels`: whole vectors, and an odd number of cache lines so that rows do not
// compete for the same places of the cache.
template <class C>
int64_t row_length(int64_t channels) {
  constexpr int64_t line = 64 / sizeof(C);
  const int64_t lines = round_up(channels, line) / line;
  return (lines | 1) * line;
}

// A vector of values from or to a tensor: whole, or its first `count` with zeros after them.
template <class C, class S>
IKEM_INLINE Vector<C> load_widened(const S* from) {
  if constexpr (std::is_same_v<S, C>) {
    return load(from);
  } else {
    C values[lanes<C>];
    for (int i = 0; i < lanes<C>; ++i) {
      values[i] = widen(from[i]);
    }
    return load(values);
  }
}

template <class C, class S>
IKEM_INLINE Vector<C> load_widened(const S* from, int64_t count) {
  if (count == lanes<C>) {
    return load_widened<C>(from);
  }
  C values[lanes<C>] = {};
  for (int64_t i = 0; i < count; ++i) {
    values[i] = widen(from[i]);
  }
  return load(values);
}

template <class C, class S>
IKEM_INLINE void store_narrowed(S* to, Vector<C> vector) {
  if constexpr (std::is_same_v<S, C>) {
    store(to, vector);
  } else {
    C values[lanes<C>];
    store(values, vector);
    for (int i = 0; i < lanes<C>; ++i) {
      to[i] = narrow<S>(values[i]);
    }
  }
}

template <class C, class S>
IKEM_INLINE void store_narrowed(S* to, Vector<C> vector, int64_t count) {
  if (count == lanes<C>) {
    return store_narrowed<C>(to, vector);
  }
  C values[lanes<C>];
  store(values, vector);
  for (int64_t i = 0; i < count; ++i) {
    to[i] = narrow<S>(values[i]);
  }
}

// Positions (frame, joint) by channels of a tensor, to be read from or written to rows of channels.
template <class S>
struct Plane {
  S* data;
  int64_t channels, channel_stride;
  int64_t frames, frame_stride;
  int64_t joints, joint_stride;

  // The same with all positions in one run, where they follow each other.
  Plane flat() const {
    return joint_stride * joints == frame_stride
               ? Plane{data, channels, channel_stride, 1, 0, frames * joints, joint_stride}
               : *this;
  }
};

// Calls f(first position, first channel, count of positions, count of channels) for squares of a vector's length that
// cover one frame. The last square of a row of squares overlaps with the one before.
template <class C, class S, class F>
IKEM_INLINE void for_each_square(const Plane<S>& plane, F f) {
  constexpr int64_t L = lanes<C>;
  for (int64_t c = 0; c < plane.channels; c += L) {
    for (int64_t p = 0; p < plane.joints; p += L) {
      const int64_t first = p + L > plane.joints && plane.joints > L ? plane.joints - L : p;
      f(first, c, smaller(L, plane.joints), smaller(L, plane.channels - c));
    }
  }
}

// One square from a tensor where positions follow each other, transposed into rows, with zeros for the channels that
// there are not. Written twice, so that whole squares stay in registers.
template <class S, class C>
IKEM_INLINE void read_square(const S* from, int64_t stride, int64_t positions, int64_t channels, C* rows, int64_t row) {
  constexpr int L = lanes<C>;
  Vector<C> square[L] = {};
  if (positions == L && channels == L) {
    for (int i = 0; i < L; ++i) {
      square[i] = load_widened<C>(from + i * stride);
    }
    transpose<C>(square);
    for (int i = 0; i < L; ++i) {
      store(rows + i * row, square[i]);
    }
  } else {
    for (int64_t i = 0; i < channels; ++i) {
      square[i] = load_widened<C>(from + i * stride, positions);
    }
    transpose<C>(square);
    for (int64_t i = 0; i < positions; ++i) {
      store(rows + i * row, square[i]);
    }
  }
}

template <class S, class C>
IKEM_INLINE void write_square(const C* rows, int64_t row, int64_t positions, int64_t channels, S* to, int64_t stride) {
  constexpr int L = lanes<C>;
  Vector<C> square[L] = {};
  if (positions == L && channels == L) {
    for (int i = 0; i < L; ++i) {
      square[i] = load(rows + i * row);
    }
    transpose<C>(square);
    for (int i = 0; i < L; ++i) {
      store_narrowed<C>(to + i * stride, square[i]);
    }
  } else {
    for (int64_t i = 0; i < positions; ++i) {
      square[i] = load(rows + i * row);
    }
    transpose<C>(square);
    for (int64_t i = 0; i < channels; ++i) {
      store_narrowed<C>(to + i * stride, square[i], positions);
    }
  }
}

template <class S, class C>
void read_rows(Plane<const S> plane, C* rows, int64_t row) {
  constexpr int64_t L = lanes<C>;
  plane = plane.flat();
  for (int64_t t = 0; t < plane.frames; ++t, plane.data += plane.frame_stride, rows += plane.joints * row) {
    if (plane.joint_stride == 1 && plane.channel_stride != 1) {
      for_each_square<C>(plane, [&](int64_t p, int64_t c, int64_t positions, int64_t channels) {
        read_square(plane.data + c * plane.channel_stride + p, plane.channel_stride, positions, channels,
                    rows + p * row + c, row);
      });
      continue;
    }
    for (int64_t v = 0; v < plane.joints; ++v) {
      const S* from = plane.data + v * plane.joint_stride;
      C* to = rows + v * row;
      if (plane.channel_stride == 1) {
        for (int64_t c = 0; c < plane.channels; c += L) {
          store(to + c, load_widened<C>(from + c, smaller(L, plane.channels - c)));
        }
      } else {
        for (int64_t c = 0; c < round_up(plane.channels, L); ++c) {
          to[c] = c < plane.channels ? widen(from[c * plane.channel_stride]) : 0;
        }
      }
    }
  }
}

template <class S, class C>
void write_rows(const C* rows, int64_t row, Plane<S> plane) {
  constexpr int64_t L = lanes<C>;
  plane = plane.flat();
  for (int64_t t = 0; t < plane.frames; ++t, plane.data += plane.frame_stride, rows += plane.joints * row) {
    if (plane.joint_stride == 1 && plane.channel_stride != 1) {
      for_each_square<C>(plane, [&](int64_t p, int64_t c, int64_t positions, int64_t channels) {
        write_square(rows + p * row + c, row, positions, channels, plane.data + c * plane.channel_stride + p,
                     plane.channel_stride);
      });
      continue;
    }
    for (int64_t v = 0; v < plane.joints; ++v) {
      const C* from = rows + v * row;
      S* to = plane.data + v * plane.joint_stride;
      if (plane.channel_stride == 1) {
        for (int64_t c = 0; c < plane.channels; c += L) {
          store_narrowed<C>(to + c, load(from + c), smaller(L, plane.channels - c));
        }
      } else {
        for (int64_t c = 0; c < plane.channels; ++c) {
          to[c * plane.channel_stride] = narrow<S>(from[c]);
        }
      }
    }
  }
}

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

// What is summed over joints: a value is one number for all channels, or a row with one for each channel.
template <class C>
struct Values {
  const C* data;
  int64_t row;  // 0: one number
};

template <class C>
struct Frames {
  C* data;
  int64_t frame;  // the distance from one frame to the next
};

template <int F, int V, bool PER_CHANNEL, class C>
IKEM_INLINE void combine_block(const Pattern& pattern, Values<C> values, Frames<const C> from, Frames<C> to) {
  constexpr int L = lanes<C>;
  for (int64_t i = 0; i < pattern.rows; ++i) {
    Vector<C> sum[F][V] = {};
    for (int64_t e = pattern.starts[i]; e < pattern.starts[i + 1]; ++e) {
      const C* source = from.data + pattern.entries[e].source;
      const C* value = values.data + pattern.entries[e].value * (PER_CHANNEL ? values.row : 1);
      for (int v = 0; v < V; ++v) {
        for (int f = 0; f < F; ++f) {
          const Vector<C> features = load(source + f * from.frame + v * L);
          if constexpr (PER_CHANNEL) {
            sum[f][v] += load(value + v * L) * features;
          } else {
            sum[f][v] += *value * features;
          }
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
template <int F, int V, bool PER_CHANNEL, class C>
void combine_frames(const Pattern& pattern, Values<C> values, Frames<const C> from, Frames<C> to, int64_t frames) {
  for (; frames >= F; frames -= F) {
    combine_block<F, V, PER_CHANNEL>(pattern, values, from, to);
    from.data += F * from.frame;
    to.data += F * to.frame;
  }
  if constexpr (F > 1) {
    combine_frames<F / 2, V, PER_CHANNEL>(pattern, values, from, to, frames);
  }
}

template <bool PER_CHANNEL, class C>
void combine_channels(const Pattern& pattern, Values<C> values, Frames<const C> from, Frames<C> to, int64_t frames,
                      int64_t channels) {
  constexpr int64_t L = lanes<C>;
  const int64_t vectors = round_up(channels, L) / L;
  const int64_t at_once = vectors % 4 == 0 ? 4 : vectors % 2 == 0 ? 2 : 1;
  // From the last channels to the first: the last vector of a part spills over the first of the next part.
  for (int64_t c = (vectors - at_once) * L; c >= 0; c -= at_once * L) {
    const Values<C> own = {values.data + (PER_CHANNEL ? c : 0), values.row};
    const Frames<const C> source = {from.data + c, from.frame};
    const Frames<C> target = {to.data + c, to.frame};
    if (at_once == 4) {
      combine_frames<2, 4, PER_CHANNEL>(pattern, own, source, target, frames);
    } else if (at_once == 2) {
      combine_frames<4, 2, PER_CHANNEL>(pattern, own, source, target, frames);
    } else {
      combine_frames<8, 1, PER_CHANNEL>(pattern, own, source, target, frames);
    }
  }
}

// The sums over joints that the pattern describes, for each frame.
template <class C>
void combine(const Pattern& pattern, Values<C> values, Frames<const C> from, Frames<C> to, int64_t frames,
             int64_t channels) {
  if (values.row != 0) {
    combine_channels<true>(pattern, values, from, to, frames, channels);
  } else {
    combine_channels<false>(pattern, values, from, to, frames, channels);
  }
}

// Rows of one or several joints in each frame: `joint` apart, frames `frame` apart.
template <class C>
struct JointRows {
  const C* data;
  int64_t joint, frame;

  JointRows at(int64_t index, int64_t channel) const { return {data + index * joint + channel, joint, frame}; }
};

// Sums products of R rows with Q rows over frames and vectors of channels. The last vector of the wide rows may run
// into other channels, which may be infinite: the first `last_lanes` of its lanes count.
template <int R, int Q, class C>
void correlate_block(JointRows<C> narrow, JointRows<C> wide, int64_t frames, int64_t vectors, int64_t last_lanes,
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
      const C* left = narrow.data + t * narrow.frame + v * L;
      const C* right = wide.data + t * wide.frame + v * L;
      Vector<C> rows[R];
      for (int r = 0; r < R; ++r) {
        rows[r] = load(left + r * narrow.joint);
      }
      for (int q = 0; q < Q; ++q) {
        Vector<C> other = load(right + q * wide.joint);
        if (!whole) {
          other = counts ? other : Vector<C>{};
        }
        for (int r = 0; r < R; ++r) {
          sum[r][q] += rows[r] * other;
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

// Sums of any size that are kept across tiles, and set to zero where they begin.
template <class C>
void set_zero(C* values, int64_t size) {
  memset(values, 0, sizeof(C) * static_cast<size_t>(size));
}

// to[i] += from[i] * factor
template <class C>
void add_scaled(C* to, const C* from, C factor, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    to[i] += from[i] * factor;
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
  Plane<T> plane(const Strided<T, 5>& tensor, int64_t channels, int64_t joints, int64_t first, int64_t last) const {
    const int64_t* strides = tensor.strides;
    return {tensor.data + group_ * strides[0] + clip_ * strides[1] + first * strides[3],
            channels,
            strides[2],
            last - first,
            strides[3],
            joints,
            strides[4]};
  }
  template <class T>
  Plane<T> x_plane(const Strided<T, 5>& tensor, int64_t first, int64_t last) const {
    return plane(tensor, problem_.in_channels, problem_.joints, first, last);
  }
  template <class T>
  Plane<T> y_plane(const Strided<T, 5>& tensor, int64_t first, int64_t last) const {
    return plane(tensor, problem_.out_channels, problem_.out_joints, first, last);
  }

  void spread(int64_t frames) {
    combine<C>(spread_, values(), {narrow_, narrow_frame_}, {wide_, wide_frame_}, frames, narrow_channels_);
  }
  void gather(int64_t frames) {
    combine<C>(gather_, values(), {wide_, wide_frame_}, {narrow_, narrow_frame_}, frames, narrow_channels_);
  }

  // wide = plain by the weights, and the bias where the output channels are wide
  void widen_plain(int64_t frames, bool with_bias) {
    with_bias = with_bias && biased();
    if (with_bias) {
      repeat_rows(bias_rows_, 1, frames * wide_joints_, wide_, wide_row_);
    }
    multiply<C>(frames * wide_joints_, wide_channels_, plain_channels_, {plain_, plain_row_, 1}, into_wide_, wide_row_,
                wide_, wide_row_, with_bias);
  }

  // plain = wide by the weights, and the bias where the output channels are plain
  void narrow_wide(int64_t frames, bool with_bias) {
    with_bias = with_bias && biased();
    if (with_bias) {
      repeat_rows(bias_rows_, wide_joints_, frames, plain_, plain_row_);
    }
    multiply<C>(frames * wide_joints_, plain_channels_, wide_channels_, {wide_, wide_row_, 1}, from_wide_, plain_row_,
                plain_, plain_row_, with_bias);
  }

  bool biased() const { return operands_.bias.data != nullptr; }
  Values<C> values() const { return {values_, problem_.per_channel ? narrow_row_ : 0}; }

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

  // The tile. `multiply` works on whole groups of rows.
  const Array<C> narrow_{problem_.tile_frames * narrow_frame_};
  const Array<C> wide_{(problem_.tile_frames * wide_joints_ + ROWS_AT_ONCE) * wide_row_};
  const Array<C> plain_{(problem_.tile_frames * wide_joints_ + ROWS_AT_ONCE) * plain_row_};

 private:
  static void repeat_rows(const C* rows, int64_t num_rows, int64_t times, C* to, int64_t row) {
    for (int64_t i = 0; i < times; ++i) {
      memcpy(to + i * num_rows * row, rows, sizeof(C) * static_cast<size_t>(num_rows * row));
    }
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
          into_wide_[i * wide_row_ + k * narrow_channels_ + j] = value;
          from_wide_[(k * narrow_channels_ + j) * plain_row_ + i] = value;
        }
      }
    }
  }

  void load_adjacency(int64_t group, int64_t clip) {
    const int64_t* strides = operands_.adjacency.strides;
    const S* data = operands_.adjacency.data + group * strides[0] + clip * strides[1];
    const int64_t row = problem_.per_channel ? narrow_row_ : 1;
    for (int64_t k = 0; k < parts_; ++k) {
      const Plane<const S> part = {data + k * strides[2],
                                   problem_.per_channel ? problem_.out_channels : 1,
                                   strides[3],
                                   problem_.joints,
                                   strides[4],
                                   problem_.out_joints,
                                   strides[5]};
      C* values = values_ + k * part_values_ * row;
      if (problem_.per_channel) {
        read_rows(part, values, row);
      } else {
        for (int64_t i = 0; i < part_values_; ++i) {
          values[i] = widen(part.data[i / part.joints * part.frame_stride + i % part.joints * part.joint_stride]);
        }
      }
    }
  }

  void find_patterns() {
    spread_.clear();
    for (int64_t k = 0; k < parts_; ++k) {
      for (int64_t j = 0; j < wide_joints_; ++j) {
        for (int64_t i = 0; i < narrow_joints_; ++i) {
          if (const int64_t value = value_index(k, i, j); value_counts(value)) {
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
          if (const int64_t value = value_index(k, i, j); value_counts(value)) {
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
  bool value_counts(int64_t index) const { return problem_.per_channel || values_[index] != 0; }

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

  const Array<C> into_wide_{plain_channels_ * wide_row_};
  const Array<C> from_wide_{wide_channels_ * plain_row_};
  const Array<C> values_{parts_ * part_values_ * (problem_.per_channel ? narrow_row_ : 1)};
  const Array<C> bias_rows_{aggregate_ ? wide_joints_ * plain_row_ : wide_row_};
  Pattern spread_{parts_ * wide_joints_, parts_ * part_values_};
  Pattern gather_{narrow_joints_, parts_ * part_values_};
};

template <class S>
class Forward : Pass<S> {
 public:
  Forward(const Problem& problem, const Operands<S>& operands, const Strided<S, 5>& y)
      : Pass<S>(problem, operands), y_(y) {}

  void run(int64_t task) {
    const int64_t tiles = this->problem_.tiles_per_clip;
    this->enter(task / tiles / this->problem_.clips, task / tiles % this->problem_.clips);
    const int64_t first = task % tiles * this->problem_.tile_frames;
    const int64_t last = smaller(first + this->problem_.tile_frames, this->problem_.frames);
    const auto x = this->x_plane(this->operands_.x, first, last);
    const auto y = this->y_plane(y_, first, last);
    if (this->aggregate_) {
      read_rows(x, +this->narrow_, this->narrow_row_);
      this->spread(last - first);
      this->narrow_wide(last - first, /*with_bias=*/true);
      write_rows(+this->plain_, this->plain_row_, y);
    } else {
      read_rows(x, +this->plain_, this->plain_row_);
      this->widen_plain(last - first, /*with_bias=*/true);
      this->gather(last - first);
      write_rows(+this->narrow_, this->narrow_row_, y);
    }
  }

 private:
  const Strided<S, 5>& y_;
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
    const int64_t group = chunk / chunks_.per_group;
    const int64_t first_clip = chunk % chunks_.per_group / chunks_.ranges * chunks_.clips;
    const int64_t last_clip = smaller(first_clip + chunks_.clips, problem.clips);
    const int64_t range = chunk % chunks_.ranges;
    const int64_t first_tile = problem.tiles_per_clip * range / chunks_.ranges;
    const int64_t last_tile = problem.tiles_per_clip * (range + 1) / chunks_.ranges;
    start_chunk(chunk);
    for (int64_t clip = first_clip; clip < last_clip; ++clip) {
      this->enter(group, clip);
      for (int64_t tile = first_tile; tile < last_tile; ++tile) {
        const int64_t first = tile * problem.tile_frames;
        const int64_t last = smaller(first + problem.tile_frames, problem.frames);
        this->aggregate_ ? aggregate_first(first, last) : transform_first(first, last);
      }
      if (problem.per_clip) {
        finish_adjacency((group * problem.clips + clip) * chunks_.ranges + range);
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

  void aggregate_first(int64_t first, int64_t last) {
    const int64_t frames = last - first;
    read_rows(this->y_plane(grad_y_, first, last), +this->plain_, this->plain_row_);
    if (this->biased() && (gradients_.bias != nullptr || gradients_.adjacency != nullptr)) {
      pass_bias(frames);
    }
    if (gradients_.weight != nullptr || gradients_.adjacency != nullptr) {
      read_rows(this->x_plane(this->operands_.x, first, last), +this->narrow_, this->narrow_row_);
    }
    if (gradients_.weight != nullptr) {
      this->spread(frames);
      add_weight(frames);
    }
    if (gradients_.x.data != nullptr || gradients_.adjacency != nullptr) {
      this->widen_plain(frames, /*with_bias=*/false);
    }
    if (gradients_.adjacency != nullptr) {
      add_adjacency(frames);
    }
    if (gradients_.x.data != nullptr) {
      this->gather(frames);
      write_rows(+this->narrow_, this->narrow_row_, this->x_plane(gradients_.x, first, last));
    }
  }

  void transform_first(int64_t first, int64_t last) {
    const int64_t frames = last - first;
    read_rows(this->y_plane(grad_y_, first, last), +this->narrow_, this->narrow_row_);
    if (gradients_.weight != nullptr || gradients_.adjacency != nullptr) {
      read_rows(this->x_plane(this->operands_.x, first, last), +this->plain_, this->plain_row_);
    }
    if (gradients_.adjacency != nullptr) {
      this->widen_plain(frames, /*with_bias=*/true);
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
      this->narrow_wide(frames, /*with_bias=*/false);
      write_rows(+this->plain_, this->plain_row_, this->x_plane(gradients_.x, first, last));
    }
  }

  void add_weight(int64_t frames) {
    multiply<C>(this->plain_channels_, this->wide_channels_, frames * this->wide_joints_,
                {this->plain_, 1, this->plain_row_}, this->wide_, this->wide_row_, grad_weight_,
                weight_partial_row(this->problem_), /*accumulate=*/true);
  }

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
        if (gradients_.adjacency != nullptr) {
          through_bias_[i] += dot(this->bias_ + k * channels, sums, channels);
        }
      }
    }
  }

  // The adjacency's gradient, one sum for each lane, [k][v][w][lane], or for each channel,
  // [k][vector of channels][v][w][lane].
  void add_adjacency(int64_t frames) {
    const int64_t vectors = per_channel() ? 1 : num_vectors_;
    for (int64_t k = 0; k < this->parts_; ++k) {
      for (int64_t v = 0; v < num_vectors_; v += vectors) {
        const JointRows<C> narrow = {this->narrow_ + v * L, this->narrow_row_, this->narrow_frame_};
        const JointRows<C> wide = {this->wide_ + k * this->narrow_channels_ + v * L, this->wide_row_,
                                   this->wide_frame_};
        const int64_t last_lanes = smaller(L, this->narrow_channels_ - (v + vectors - 1) * L);
        C* sums = grad_adjacency_ + (per_channel() ? k * num_vectors_ + v : k) * this->part_values_ * L;
        correlate(narrow, wide, frames, vectors, last_lanes, sums);
      }
    }
  }

  void correlate(JointRows<C> narrow, JointRows<C> wide, int64_t frames, int64_t vectors, int64_t last_lanes, C* sums) {
    // As many sums as there are registers for.
    constexpr int R = 5;
    constexpr int Q = VECTOR_BYTES == 64 ? 5 : 2;
    const int64_t narrow_step = this->narrow_step_ * L;
    const int64_t wide_step = this->wide_step_ * L;
    for (int64_t i = 0; i < this->narrow_joints_;) {
      const bool many = i + R <= this->narrow_joints_;
      for (int64_t j = 0; j < this->wide_joints_;) {
        const bool many_wide = j + Q <= this->wide_joints_;
        const auto block = many        ? many_wide ? correlate_block<R, Q, C> : correlate_block<R, 1, C>
                           : many_wide ? correlate_block<1, Q, C>
                                       : correlate_block<1, 1, C>;
        block(narrow.at(i, 0), wide.at(j, 0), frames, vectors, last_lanes, sums + i * narrow_step + j * wide_step,
              narrow_step, wide_step);
        j += many_wide ? Q : 1;
      }
      i += many ? R : 1;
    }
  }

  // Writes the sums to their place among the partial sums, and begins anew.
  void finish_adjacency(int64_t slot) {
    if (gradients_.adjacency == nullptr) {
      return;
    }
    C* out = gradients_.adjacency + slot * adjacency_size(this->problem_);
    const int64_t size = this->part_values_;
    if (per_channel()) {
      const int64_t channels = this->narrow_channels_;
      for (int64_t k = 0; k < this->parts_; ++k) {
        for (int64_t v = 0; v < num_vectors_; ++v) {
          write_rows<C, C>(grad_adjacency_ + (k * num_vectors_ + v) * size * L, L,
                           {out + (k * channels + v * L) * size, smaller(L, channels - v * L), size, 1, size, size, 1});
        }
      }
    } else {
      for (int64_t i = 0; i < this->parts_ * size; ++i) {
        out[i] = sum_of_lanes<C>(load(grad_adjacency_ + i * L));
        if (this->aggregate_) {
          out[i] += through_bias_[i / size * this->wide_joints_ + i % this->wide_joints_];
        }
      }
    }
    set_zero(+grad_adjacency_, adjacency_sums_);
    set_zero(+through_bias_, this->parts_ * this->wide_joints_);
  }

  bool per_channel() const { return this->problem_.per_channel; }

  static constexpr int64_t L = lanes<C>;

  const Strided<const S, 5>& grad_y_;
  const Gradients<S>& gradients_;
  const Chunks& chunks_;
  const int64_t num_vectors_ = round_up(this->narrow_channels_, L) / L;
  const int64_t adjacency_sums_ =
      gradients_.adjacency == nullptr ? 0 : this->parts_ * (per_channel() ? num_vectors_ : 1) * this->part_values_ * L;
  C* grad_weight_ = nullptr;
  C* grad_bias_ = nullptr;
  const Array<C> over_frames_{this->wide_joints_ * this->plain_row_};
  const Array<C> grad_adjacency_{adjacency_sums_};
  const Array<C> through_bias_{this->parts_ * this->wide_joints_};
};

}  // namespace

template <class S>
void forward(const Problem& problem, const Operands<S>& operands, Strided<S, 5> y, int64_t first_task,
             int64_t last_task) {
  Forward<S> pass(problem, operands, y);
  for (int64_t task = first_task; task < last_task; ++task) {
    pass.run(task);
  }
}

template <class S>
void backward(const Problem& problem, const Operands<S>& operands, Strided<const S, 5> grad_y,
              const Gradients<S>& gradients, const Chunks& chunks, int64_t first_chunk, int64_t last_chunk) {
  Backward<S> pass(problem, operands, grad_y, gradients, chunks);
  for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
    pass.run(chunk);
  }
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

#define INSTANTIATE(S)                                                                                    \
  template void forward<S>(const Problem&, const Operands<S>&, Strided<S, 5>, int64_t, int64_t);          \
  template void backward<S>(const Problem&, const Operands<S>&, Strided<const S, 5>, const Gradients<S>&, \
                            const Chunks&, int64_t, int64_t);                                             \
  template void reduce<S>(const Compute<S>*, int64_t, int64_t, int64_t, S*, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::graph_conv::IKEM_SIMD_LEVEL
