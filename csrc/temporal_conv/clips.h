// What every way to convolve shares: the clips that are read and written, frame by frame, with the norm that x goes
// through as it is read and what is summed as results are written. Included by kernels alone (see common/vector.h).
//
// A line holds one frame, joint by joint, in rows of channels that are padded with zeros to whole vectors.
#pragma once

#include "common/planes.h"
#include "common/row_moments.h"
#include "temporal_conv/kernel.h"

namespace ikem::temporal_conv::IKEM_SIMD_LEVEL {
namespace {

using namespace ::ikem::IKEM_SIMD_LEVEL;

template <class S>
Plane<S> plane_of_clip(const Strided<S, 4>& tensor, int64_t clip, int64_t channels, int64_t frames, int64_t joints) {
  const int64_t* strides = tensor.strides;
  return {tensor.data + clip * strides[0], channels, strides[1], frames, strides[2], joints, strides[3]};
}

// The lines of a clip: those of the tensor itself, or rows that it is read from or written to.
template <class C>
struct Lines {
  C* data;
  int64_t frame;

  C* at(int64_t index) const { return data + index * frame; }
};

template <class C, class S>
Lines<const C> read_lines(const Plane<const S>& plane, int64_t row, C* buffer) {
  if constexpr (std::is_same_v<S, C>) {
    if (plane.has_rows(row)) {
      return {plane.data, plane.frame_stride};
    }
  }
  read_rows(plane, buffer, row);
  return {buffer, plane.joints * row};
}

// Calls make(lines), and has the tensor hold what it made; vectors may reach beyond rows that are not padded.
template <class C, class S, class F>
void write_lines(const Plane<S>& plane, int64_t row, C* buffer, F make) {
  if constexpr (std::is_same_v<S, C>) {
    if (plane.has_rows(row) && row == padded_channels(row)) {
      return make(Lines<C>{plane.data, plane.frame_stride});
    }
  }
  make(Lines<C>{buffer, plane.joints * row});
  write_rows<S, C>(buffer, row, plane);
}

// Calls f(lines) with the rows of a tensor as they are, or with what `read` reads.
template <class S, class Read, class F>
void with_rows(const Plane<const S>& plane, bool as_they_are, Read read, F f) {
  if (as_they_are && plane.has_rows(padded_channels(plane.channels))) {
    f(Lines<const S>{plane.data, plane.frame_stride});
  } else {
    f(read());
  }
}

// The sizes of both sides, and the lines that a convolution sees.
template <class S>
class Clips {
 public:
  using C = Compute<S>;

  Clips(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm)
      : problem_(problem), x_(x), normed_(norm.given()) {
    for (int64_t c = 0; normed_ && c < problem.in_channels; ++c) {
      mean_[c] = norm.mean[c];
      scale_[c] = norm.scale[c];
      shift_[c] = norm.shift[c];
    }
  }

 protected:
  template <class T>
  Plane<T> input_plane(const Strided<T, 4>& x, int64_t clip) const {
    return plane_of_clip(x, clip, problem_.in_channels, problem_.frames, problem_.joints);
  }
  template <class T>
  Plane<T> output_plane(const Strided<T, 4>& y, int64_t clip) const {
    return plane_of_clip(y, clip, problem_.out_channels, problem_.out_frames, problem_.joints);
  }

  Lines<const C> input_lines(int64_t clip) const {
    const Lines<const C> lines = read_lines<C>(input_plane(x_, clip), in_row_, +in_lines_);
    if (!normed_) {
      return lines;
    }
    for (int64_t t = 0; t < problem_.frames; ++t) {
      const C* const from = lines.at(t);
      C* const to = in_lines_ + t * in_line_;
      for (int64_t v = 0; v < in_line_; v += in_row_) {
        for (int64_t c = 0; c < in_row_; c += L) {
          const Vector<C> normed = (load(from + v + c) - load(mean_ + c)) * load(scale_ + c) + load(shift_ + c);
          store(to + v + c, normed < 0 ? Vector<C>{} : normed);  // so that what is not a number stays
        }
      }
    }
    return {in_lines_, in_line_};
  }

  static constexpr int64_t L = lanes<C>;

  const Problem& problem_;
  const Strided<const S, 4>& x_;
  const bool normed_;
  // Of x a direct sum takes single numbers, so that its rows need no whole vectors.
  const bool in_padded_ = normed_ || !problem_.direct || problem_.paired;
  const int64_t in_row_ = in_padded_ ? padded_channels(problem_.in_channels) : problem_.in_channels;
  const int64_t out_row_ = padded_channels(problem_.out_channels);
  const int64_t in_line_ = problem_.joints * in_row_, out_line_ = problem_.joints * out_row_;
  // The least vector of a SIMD level divides a padded row; zeros beyond it are never written over.
  const Array<C> in_lines_{problem_.frames * in_line_ + lanes<C>};
  const Array<C> out_lines_{problem_.out_frames * out_line_ + lanes<C>};
  // The norm; zeros beyond the channels stay zeros.
  const int64_t norm_size_ = normed_ ? in_row_ : 0;
  const Array<C> mean_{norm_size_}, scale_{norm_size_}, shift_{norm_size_};
};

template <class S>
class ForwardClips : protected Clips<S> {
 public:
  using C = Compute<S>;

  ForwardClips(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm, const S* bias,
               const Strided<S, 4>& y, const PartialMoments<C>& moments)
      : Clips<S>(problem, x, norm),
        has_bias_(bias != nullptr),
        y_(y),
        moments_(moments),
        of_clip_(problem.out_channels) {
    for (int64_t o = 0; has_bias_ && o < problem.out_channels; ++o) {
      bias_[o] = widen(bias[o]);
    }
  }

 protected:
  // Calls make(lines), which makes all lines of y.
  template <class F>
  void write(int64_t clip, F make) {
    write_lines(this->output_plane(y_, clip), this->out_row_, +this->out_lines_, [&](const Lines<C>& lines) {
      make(lines);
      add_moments(clip, lines);
    });
  }

  const bool has_bias_;
  const Array<C> bias_{this->out_row_};

 private:
  void add_moments(int64_t clip, const Lines<C>& lines) {
    const Problem& problem = this->problem_;
    if (moments_.wanted()) {
      for (int64_t t = 0; t < problem.out_frames; ++t) {
        of_clip_.add(lines.at(t), this->out_row_, problem.joints);
      }
      of_clip_.finish(moments_.at(clip, problem.out_channels));
    }
  }

  const Strided<S, 4>& y_;
  const PartialMoments<C>& moments_;
  RowMoments<C> of_clip_;
};

template <class S>
class BackwardClips : protected Clips<S> {
 public:
  using C = Compute<S>;

  BackwardClips(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm,
                const Strided<const S, 4>& grad_y, const Gradients<S>& gradients)
      : Clips<S>(problem, x, norm), gradients_(gradients), grad_y_(grad_y) {}

 protected:
  // Calls add(first clip, last clip) for all clips of a chunk, of which the sums become those of the chunk.
  template <class F>
  void run_chunk(int64_t chunk, int64_t chunks, F add) {
    const Problem& problem = this->problem_;
    start_chunk(chunk);
    const int64_t tasks = (problem.clips + problem.clips_at_once - 1) / problem.clips_at_once;
    for (int64_t task = chunk * tasks / chunks; task < (chunk + 1) * tasks / chunks; ++task) {
      const int64_t first = task * problem.clips_at_once;
      add(first, smaller(first + problem.clips_at_once, problem.clips));
    }
    if (gradients_.norm_sums != nullptr) {
      write_run(+norm_sums_, problem.in_channels, gradients_.norm_sums + chunk * problem.in_channels);
      write_run(+norm_products_, problem.in_channels, gradients_.norm_products + chunk * problem.in_channels);
    }
  }

  Plane<const S> gradient_plane(int64_t clip) const { return this->output_plane(grad_y_, clip); }
  Lines<const C> gradient_lines(int64_t clip) const {
    return read_lines<C>(gradient_plane(clip), this->out_row_, +this->out_lines_);
  }

  template <class T>
  void add_bias(const T* gradients, int64_t rows, C factor) {
    for (int64_t i = 0; i < rows; ++i, gradients += this->out_row_) {
      for (int64_t c = 0; c < this->out_row_; c += lanes<C>) {
        store(grad_bias_ + c, load(grad_bias_ + c) + load_widened<C>(gradients + c) * factor);
      }
    }
  }
  template <class T>
  void add_bias(const Lines<T>& gradients) {
    for (int64_t t = 0; t < this->problem_.out_frames; ++t) {
      add_bias(gradients.at(t), this->problem_.joints, C(1));
    }
  }

  // Calls make(lines), which makes all lines of the gradient of what the convolution sees.
  template <class F>
  void write(int64_t clip, F make) {
    write_lines(this->input_plane(gradients_.x, clip), this->in_row_, +this->in_lines_, [&](const Lines<C>& lines) {
      make(lines);
      if (this->normed_) {
        through_relu(lines, read_lines<C>(this->input_plane(this->x_, clip), this->in_row_, +x_lines_));
      }
    });
  }

  const Gradients<S>& gradients_;
  C* grad_weight_ = nullptr;
  C* grad_bias_ = nullptr;

 private:
  void start_chunk(int64_t chunk) {
    const Problem& problem = this->problem_;
    if (gradients_.weight != nullptr) {
      const int64_t size = gradient_size(problem);
      grad_weight_ = gradients_.weight + chunk * size;
      set_zero(grad_weight_, size);
    }
    if (gradients_.bias != nullptr) {
      grad_bias_ = gradients_.bias + chunk * this->out_row_;
      set_zero(grad_bias_, this->out_row_);
    }
    set_zero(+norm_sums_, norm_sums_.size());
    set_zero(+norm_products_, norm_products_.size());
  }

  // Leaves of the gradient what goes through the ReLU of the norm, while it is still in the cache, and adds it up.
  void through_relu(const Lines<C>& gradient, const Lines<const C>& x) {
    constexpr int64_t L = Clips<S>::L;
    for (int64_t t = 0; t < this->problem_.frames; ++t) {
      for (int64_t c = 0; c < this->in_row_; c += L) {
        const Vector<C> mean = load(this->mean_ + c), scale = load(this->scale_ + c), shift = load(this->shift_ + c);
        Vector<C> sum = {}, product = {};
        for (int64_t at = c; at < this->in_line_; at += this->in_row_) {
          const Vector<C> off = load(x.at(t) + at) - mean;
          const Vector<C> through = off * scale + shift > 0 ? load(gradient.at(t) + at) : Vector<C>{};
          store(gradient.at(t) + at, through);
          sum += through;
          product += through * off;
        }
        store(norm_sums_ + c, load(norm_sums_ + c) + sum);
        store(norm_products_ + c, load(norm_products_ + c) + product);
      }
    }
  }

  const Strided<const S, 4>& grad_y_;
  const Array<C> norm_sums_{this->norm_size_}, norm_products_{this->norm_size_};
  // x as it came, where `in_lines_` has its gradient.
  const Array<C> x_lines_{this->normed_ ? this->in_lines_.size() : 0};
};

}  // namespace
}  // namespace ikem::temporal_conv::IKEM_SIMD_LEVEL
