// Features on their way between tensors and rows that the kernels' loops run over. Included by kernels alone (see
// common/vector.h).
#pragma once

#include <type_traits>

#include "common/memory.h"
#include "common/vector.h"

namespace ikem::IKEM_SIMD_LEVEL {
namespace {

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

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

// As many scalars of 16 bits as a vector of floats has lanes.
typedef uint16_t Halves __attribute__((vector_size(VECTOR_BYTES / 2)));

// Written out for AVX-512, where compilers take them apart.
IKEM_INLINE Vector<uint32_t> widened_halves(Halves halves) {
#ifdef __AVX512F__
  Vector<uint32_t> vector;
  asm("vpmovzxwd %1, %0" : "=v"(vector) : "vm"(halves));
  return vector;
#else
  return __builtin_convertvector(halves, Vector<uint32_t>);
#endif
}
IKEM_INLINE Halves narrowed_halves(Vector<uint32_t> vector) {
#ifdef __AVX512F__
  Halves halves;
  asm("vpmovdw %1, %0" : "=v"(halves) : "v"(vector));
  return halves;
#else
  return __builtin_convertvector(vector, Halves);
#endif
}

// A vector of values from or to a tensor: whole, or its first `count` with zeros after them.
template <class C, class S>
IKEM_INLINE Vector<C> load_widened(const S* from) {
  if constexpr (std::is_same_v<S, C>) {
    return load(from);
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    Halves halves;
    memcpy(&halves, from, sizeof(halves));
    return reinterpret_cast<Vector<C>>(widened_halves(halves) << 16);
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
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    const auto bits = reinterpret_cast<Vector<uint32_t>>(vector);
    const Vector<uint32_t> rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Vector<uint32_t> not_a_number = Vector<uint32_t>{} + 0x7fc0;
    const Halves halves = narrowed_halves(vector == vector ? rounded : not_a_number);
    memcpy(to, &halves, sizeof(halves));
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

template <class C>
C sum(const C* values, int64_t size) {
  constexpr int64_t L = lanes<C>;
  Vector<C> sums = {};
  for (int64_t i = 0; i < size; i += L) {
    sums += load_widened<C>(values + i, smaller(L, size - i));
  }
  return sum_of_lanes<C>(sums);
}

// `count` values that follow each other; in rows, zeros fill up the last vector. The last whole vector overlaps with
// the one before, so that nothing is done value by value.
template <class S, class C>
IKEM_INLINE void read_run(const S* from, int64_t count, C* to) {
  constexpr int64_t L = lanes<C>;
  const int64_t whole = count / L * L;
  for (int64_t i = 0; i < whole; i += L) {
    store(to + i, load_widened<C>(from + i));
  }
  if (whole == 0) {
    store(to, load_widened<C>(from, count));
  } else if (whole < count) {
    store(to + whole, Vector<C>{});
    store(to + count - L, load_widened<C>(from + count - L));
  }
}

template <class S, class C>
IKEM_INLINE void write_run(const C* from, int64_t count, S* to) {
  constexpr int64_t L = lanes<C>;
  const int64_t whole = count / L * L;
  for (int64_t i = 0; i < whole; i += L) {
    store_narrowed<C>(to + i, load(from + i));
  }
  if (whole == 0) {
    store_narrowed<C>(to, load(from), count);
  } else if (whole < count) {
    store_narrowed<C>(to + count - L, load(from + count - L));
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

  // Whether a frame is made of rows of this length, with nothing between them.
  bool has_rows(int64_t row) const { return channel_stride == 1 && joint_stride == row && channels == row; }

  // Of one frame: the same with joints in the place of channels and channels in that of joints.
  Plane turned() const { return {data, joints, joint_stride, frames, frame_stride, channels, channel_stride}; }

  // The same with joints in the place of frames and frames in that of joints.
  Plane joints_first() const { return {data, channels, channel_stride, joints, joint_stride, frames, frame_stride}; }
};

// Calls f(first position, first channel, count of positions, count of channels) for squares of a vector's length that
// cover one frame. The last squares overlap with those before.
template <class C, class S, class F>
IKEM_INLINE void for_each_square(const Plane<S>& plane, F f) {
  constexpr int64_t L = lanes<C>;
  const auto within = [](int64_t first, int64_t size) { return first + L > size && size > L ? size - L : first; };
  for (int64_t c = 0; c < plane.channels; c += L) {
    for (int64_t p = 0; p < plane.joints; p += L) {
      f(within(p, plane.joints), within(c, plane.channels), smaller(L, plane.joints), smaller(L, plane.channels));
    }
  }
}

// One square from a tensor where positions follow each other, transposed into rows. Written twice, so that whole
// squares stay in registers.
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

// Rows of channels from a tensor, with zeros that fill up the last vector.
template <class S, class C>
void read_rows(Plane<const S> plane, C* rows, int64_t row) {
  constexpr int64_t L = lanes<C>;
  plane = plane.flat();
  for (int64_t t = 0; t < plane.frames; ++t, plane.data += plane.frame_stride, rows += plane.joints * row) {
    if (plane.joint_stride == 1 && plane.channel_stride != 1) {
      if (const int64_t whole = plane.channels / L * L; whole > 0 && whole < plane.channels) {
        for (int64_t v = 0; v < plane.joints; ++v) {
          store(rows + v * row + whole, Vector<C>{});
        }
      }
      for_each_square<C>(plane, [&](int64_t p, int64_t c, int64_t positions, int64_t channels) {
        read_square(plane.data + c * plane.channel_stride + p, plane.channel_stride, positions, channels,
                    rows + p * row + c, row);
      });
      continue;
    }
    if (plane.has_rows(row)) {
      read_run(plane.data, plane.joints * row, rows);
      continue;
    }
    for (int64_t v = 0; v < plane.joints; ++v) {
      const S* from = plane.data + v * plane.joint_stride;
      C* to = rows + v * row;
      if (plane.channel_stride == 1) {
        read_run(from, plane.channels, to);
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
  plane = plane.flat();
  for (int64_t t = 0; t < plane.frames; ++t, plane.data += plane.frame_stride, rows += plane.joints * row) {
    if (plane.joint_stride == 1 && plane.channel_stride != 1) {
      for_each_square<C>(plane, [&](int64_t p, int64_t c, int64_t positions, int64_t channels) {
        write_square(rows + p * row + c, row, positions, channels, plane.data + c * plane.channel_stride + p,
                     plane.channel_stride);
      });
      continue;
    }
    if (plane.has_rows(row)) {
      write_run(rows, plane.joints * row, plane.data);
      continue;
    }
    for (int64_t v = 0; v < plane.joints; ++v) {
      const C* from = rows + v * row;
      S* to = plane.data + v * plane.joint_stride;
      if (plane.channel_stride == 1) {
        write_run(from, plane.channels, to);
      } else {
        for (int64_t c = 0; c < plane.channels; ++c) {
          to[c * plane.channel_stride] = narrow<S>(from[c]);
        }
      }
    }
  }
}

// Calls f(plane, offset, row) for parts of the plane in which positions have changed places with joints or channels:
// there are rows of positions, one for each channel, `row` apart. A part is what is read or written in whole vectors.
template <class S, class F>
IKEM_INLINE void for_each_turned(const Plane<S>& plane, int64_t row, F f) {
  const Plane<S> flat = plane.flat();
  if (flat.frame_stride == 1) {
    for (int64_t c = 0; c < flat.channels; ++c) {
      f(Plane<S>{flat.data + c * flat.channel_stride, flat.joints, flat.joint_stride, 1, 0, flat.frames,
                 flat.frame_stride},
        c * row, flat.joints);
    }
    return;
  }
  for (int64_t t = 0; t < flat.frames; ++t) {
    f(Plane<S>{flat.data + t * flat.frame_stride, flat.joints, flat.joint_stride, 1, 0, flat.channels,
               flat.channel_stride},
      t * flat.joints, row);
  }
}

// Rows of positions, which have room for a vector more.
template <class S, class C>
void read_turned(const Plane<const S>& plane, C* rows, int64_t row) {
  for_each_turned(plane, row, [&](const Plane<const S>& part, int64_t offset, int64_t part_row) {
    read_rows(part, rows + offset, part_row);
  });
}

template <class S, class C>
void write_turned(const C* rows, int64_t row, const Plane<S>& plane) {
  for_each_turned(plane, row, [&](const Plane<S>& part, int64_t offset, int64_t part_row) {
    write_rows(rows + offset, part_row, part);
  });
}

// Asks for memory that is needed soon, a little at a time while a product is made, so that it is there by then.
class Ahead {
 public:
  static constexpr int64_t STEPS = 16;

  template <class S>
  void add(const Plane<S>& plane) {
    const Plane<S> flat = plane.flat();
    if (flat.frames == 1 && flat.joint_stride == 1) {
      add_runs(flat.data, flat.channels, flat.channel_stride, flat.joints);
    } else if (flat.frames == 1 && flat.channel_stride == 1) {
      add_runs(flat.data, flat.joints, flat.joint_stride, flat.channels);
    }
  }

  // To be called `between` the steps of `multiply`.
  void operator()(int64_t multiply_adds) {
    for (int64_t lines = multiply_adds / MULTIPLY_ADDS_PER_LINE; lines > 0 && current_ < count_; --lines) {
      Runs& runs = runs_[current_];
      __builtin_prefetch(runs.data + offset_, 0, 2);
      offset_ += LINE;
      if (offset_ >= runs.bytes) {
        offset_ = 0;
        runs.data += runs.stride;
        current_ += --runs.count == 0;
      }
    }
  }

 private:
  struct Runs {
    const char* data;
    int64_t count, stride, bytes;
  };
  static constexpr int MOST = 3;
  static constexpr int64_t LINE = 64;
  // About as fast as memory is.
  static constexpr int64_t MULTIPLY_ADDS_PER_LINE = 64;

  template <class S>
  void add_runs(const S* data, int64_t runs, int64_t stride, int64_t length) {
    const int64_t size = sizeof(S);
    const bool one = stride == length;
    runs_[count_++] = {reinterpret_cast<const char*>(data), one ? 1 : runs, stride * size,
                       length * size * (one ? runs : 1)};
  }

  Runs runs_[MOST];
  int count_ = 0, current_ = 0;
  int64_t offset_ = 0;
};

}  // namespace
}  // namespace ikem::IKEM_SIMD_LEVEL
