// Compiled once per SIMD level (see common/simd.h).
//
// Some clips at a time are taken to frequencies (spectrum.h), multiplied there with the weights, and brought back.
// All of it is products of matrices (common/vector.h), the transforms included. What lies in between stays in the
// cache.
//
// A line holds one frame, joint by joint, in rows of channels that are padded with zeros to whole vectors. In
// frequencies the rows are those of all lines of the task, (products, phases, lines, joints, channels).
#include "common/planes.h"
#include "common/row_moments.h"
#include "temporal_conv/kernel.h"
#include "temporal_conv/spectrum.h"

namespace ikem::temporal_conv::IKEM_SIMD_LEVEL {
namespace {

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

// Whether a clip's frames lie in memory as lines do.
template <class C, class S>
bool has_lines(const Plane<S>& plane) {
  return std::is_same_v<std::remove_const_t<S>, C> && plane.channel_stride == 1 &&
         plane.joint_stride == plane.channels && plane.channels == padded_channels(plane.channels);
}

template <class C, class S>
Lines<const C> read_lines(const Plane<const S>& plane, int64_t row, C* buffer) {
  if constexpr (std::is_same_v<S, C>) {
    if (has_lines<C>(plane)) {
      return {plane.data, plane.frame_stride};
    }
  }
  read_rows(plane, buffer, row);
  return {buffer, plane.joints * row};
}

// Calls make(lines), and has the tensor hold what it made.
template <class C, class S, class F>
void write_lines(const Plane<S>& plane, int64_t row, C* buffer, F make) {
  if constexpr (std::is_same_v<S, C>) {
    if (has_lines<C>(plane)) {
      return make(Lines<C>{plane.data, plane.frame_stride});
    }
  }
  make(Lines<C>{buffer, plane.joints * row});
  write_rows<S, C>(buffer, row, plane);
}

// For Ahead.
template <class C>
Plane<const C> run_of(const C* data, int64_t size) {
  return {data, 1, size, 1, size, size, 1};
}

// What both passes share: sizes, the lines of a clip, and which of them a window or a tile holds.
template <class S>
class Pass {
 public:
  using C = Compute<S>;

  Pass(const Problem& problem, const Norm<C>& norm) : problem_(problem), normed_(norm.given()) {
    for (int64_t c = 0; normed_ && c < problem.in_channels; ++c) {
      mean_[c] = norm.mean[c];
      scale_[c] = norm.scale[c];
      shift_[c] = norm.shift[c];
    }
  }

 protected:
  // Calls f(class, tile, line) for each line that a clip becomes in frequencies; `first` is its first one's number.
  template <class F>
  void for_each_line(int64_t first, F f) const {
    for (int64_t residue = 0; residue < problem_.classes; ++residue) {
      for (int64_t tile = 0; tile < problem_.tiles; ++tile) {
        f(residue, tile, first++);
      }
    }
  }

  // The i-th input frame of a window, or null for zeros.
  template <class T>
  T* input_line(const Lines<T>& lines, int64_t residue, int64_t tile, int64_t phase, int64_t i) const {
    const int64_t place = problem_.window_first + tile * problem_.tile + i;
    const int64_t frame = problem_.frame_step * place + problem_.stride * residue + problem_.phase_offset(phase);
    return frame >= 0 && frame < problem_.frames ? lines.at(frame) : nullptr;
  }

  // The i-th output frame of a tile, or null where the tile reaches beyond the last.
  template <class T>
  T* output_line(const Lines<T>& lines, int64_t residue, int64_t tile, int64_t i) const {
    const int64_t frame = problem_.classes * (tile * problem_.tile + i) + residue;
    return frame < problem_.out_frames ? lines.at(frame) : nullptr;
  }

  template <class T>
  Plane<T> input_plane(const Strided<T, 4>& x, int64_t clip) const {
    return plane_of_clip(x, clip, problem_.in_channels, problem_.frames, problem_.joints);
  }
  template <class T>
  Plane<T> output_plane(const Strided<T, 4>& y, int64_t clip) const {
    return plane_of_clip(y, clip, problem_.out_channels, problem_.out_frames, problem_.joints);
  }

  // The lines that the convolution sees.
  Lines<const C> input_lines(const Strided<const S, 4>& x, int64_t clip) const {
    const Lines<const C> lines = read_lines<C>(input_plane(x, clip), in_row_, +in_lines_);
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

  void analyze_input(const Strided<const S, 4>& x, int64_t clip, int64_t first_line) const {
    const Lines<const C> lines = input_lines(x, clip);
    for_each_line(first_line, [&](int64_t residue, int64_t tile, int64_t line) {
      for (int64_t phase = 0; phase < problem_.phases; ++phase) {
        input_.analyze([&](int64_t i) { return input_line(lines, residue, tile, phase, i); }, in_line_,
                       in_spectrum_ + phase * in_phase_ + line * in_line_, in_product_);
      }
    });
  }

  static constexpr int64_t L = lanes<C>;

  const Problem& problem_;
  const bool normed_;
  const int64_t in_row_ = padded_channels(problem_.in_channels), out_row_ = padded_channels(problem_.out_channels);
  const int64_t in_line_ = problem_.joints * in_row_, out_line_ = problem_.joints * out_row_;
  const int64_t lines_per_clip_ = problem_.classes * problem_.tiles;
  const int64_t lines_ = problem_.clips_at_once * lines_per_clip_;
  const int64_t in_phase_ = lines_ * in_line_, in_product_ = problem_.phases * in_phase_;
  const int64_t out_product_ = lines_ * out_line_;
  // The least vector of a SIMD level divides a padded row; zeros beyond it are never written over.
  const Array<C> in_lines_{problem_.frames * in_line_ + lanes<C>};
  const Array<C> out_lines_{problem_.out_frames * out_line_ + lanes<C>};
  const Array<C> in_spectrum_{problem_.products() * in_product_};
  const Array<C> out_spectrum_{problem_.products() * out_product_};
  const Transform<C> input_{problem_, Side::input}, output_{problem_, Side::output};
  // The norm; zeros beyond the channels stay zeros.
  const int64_t norm_size_ = normed_ ? in_row_ : 0;
  const Array<C> mean_{norm_size_}, scale_{norm_size_}, shift_{norm_size_};
};

template <class S>
class Forward : Pass<S> {
 public:
  using C = Compute<S>;

  Forward(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm, const C* spectrum, const S* bias,
          const Strided<S, 4>& y, const PartialMoments<C>& moments)
      : Pass<S>(problem, norm),
        x_(x),
        spectrum_(spectrum),
        y_(y),
        moments_(moments),
        of_clip_(problem.out_channels),
        has_bias_(bias != nullptr) {
    for (int64_t o = 0; has_bias_ && o < problem.out_channels; ++o) {
      bias_[o] = widen(bias[o]) * static_cast<C>(problem.points);
    }
  }

  void run(int64_t task) {
    const Problem& problem = this->problem_;
    const int64_t first = task * problem.clips_at_once;
    const int64_t last = smaller(first + problem.clips_at_once, problem.clips);
    for (int64_t clip = first; clip < last; ++clip) {
      this->analyze_input(x_, clip, (clip - first) * this->lines_per_clip_);
    }
    multiply_by_weights((last - first) * this->lines_per_clip_ * problem.joints);
    for (int64_t clip = first; clip < last; ++clip) {
      write_lines(this->output_plane(y_, clip), this->out_row_, +this->out_lines_, [&](const Lines<C>& lines) {
        this->for_each_line((clip - first) * this->lines_per_clip_, [&](int64_t residue, int64_t tile, int64_t line) {
          this->output_.synthesize(
              this->out_spectrum_ + line * this->out_line_, this->out_product_, this->out_line_,
              [&](int64_t i) { return this->output_line(lines, residue, tile, i); }, /*add=*/false);
        });
        add_moments(clip, lines);
      });
    }
  }

 private:
  void multiply_by_weights(int64_t rows) {
    const Problem& problem = this->problem_;
    const int64_t row = spectrum_row(problem.out_channels);
    for (int64_t product = 0; product < problem.products(); ++product) {
      C* const y = this->out_spectrum_ + product * this->out_product_;
      const bool biased = has_bias_ && product == Places(problem).single;  // the sum over all frames
      for (int64_t i = 0; biased && i < rows; ++i) {
        memcpy(y + i * this->out_row_, bias_, sizeof(C) * static_cast<size_t>(this->out_row_));
      }
      for (int64_t phase = 0; phase < problem.phases; ++phase) {
        const int64_t place = product * problem.phases + phase;
        Ahead ahead;
        if (const int64_t next = place + 1; next < problem.products() * problem.phases) {
          ahead.add(run_of(spectrum_ + next * problem.in_channels * row, problem.in_channels * row));
          ahead.add(run_of<C>(this->in_spectrum_ + next * this->in_phase_, rows * this->in_row_));
        }
        multiply<C>(rows, problem.out_channels, problem.in_channels,
                    {this->in_spectrum_ + place * this->in_phase_, this->in_row_, 1},
                    spectrum_ + place * problem.in_channels * row, row, y, this->out_row_,
                    /*accumulate=*/biased || phase > 0, ahead);
      }
    }
  }

  void add_moments(int64_t clip, const Lines<C>& lines) {
    const Problem& problem = this->problem_;
    if (moments_.wanted()) {
      for (int64_t t = 0; t < problem.out_frames; ++t) {
        of_clip_.add(lines.at(t), this->out_row_, problem.joints);
      }
      of_clip_.finish(moments_.at(clip, problem.out_channels));
    }
  }

  const Strided<const S, 4>& x_;
  const C* const spectrum_;
  const Strided<S, 4>& y_;
  const PartialMoments<C>& moments_;
  RowMoments<C> of_clip_;
  const bool has_bias_;
  const Array<C> bias_{this->out_row_};
};

template <class S>
class Backward : Pass<S> {
 public:
  using C = Compute<S>;

  Backward(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm, const Strided<const S, 4>& grad_y,
           const C* spectrum, const Gradients<S>& gradients)
      : Pass<S>(problem, norm), x_(x), grad_y_(grad_y), spectrum_(spectrum), gradients_(gradients) {}

  void run(int64_t chunk, int64_t chunk_clips) {
    const Problem& problem = this->problem_;
    start_chunk(chunk);
    const int64_t end = smaller((chunk + 1) * chunk_clips, problem.clips);
    for (int64_t first = chunk * chunk_clips; first < end; first += problem.clips_at_once) {
      run_clips(first, smaller(first + problem.clips_at_once, end));
    }
    if (gradients_.norm_sums != nullptr) {
      write_run(+norm_sums_, problem.in_channels, gradients_.norm_sums + chunk * problem.in_channels);
      write_run(+norm_products_, problem.in_channels, gradients_.norm_products + chunk * problem.in_channels);
    }
  }

 private:
  void start_chunk(int64_t chunk) {
    const Problem& problem = this->problem_;
    if (gradients_.weight != nullptr) {
      const int64_t size = spectrum_size(problem, problem.in_channels, problem.out_channels);
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

  void run_clips(int64_t first, int64_t last) {
    const Problem& problem = this->problem_;
    const int64_t rows = (last - first) * this->lines_per_clip_ * problem.joints;
    for (int64_t clip = first; clip < last; ++clip) {
      read_gradient(clip, (clip - first) * this->lines_per_clip_);
      if (grad_weight_ != nullptr) {
        this->analyze_input(x_, clip, (clip - first) * this->lines_per_clip_);
      }
    }
    if (grad_bias_ != nullptr) {
      add_bias(rows);
    }
    for (int64_t product = 0; product < problem.products(); ++product) {
      for (int64_t phase = 0; phase < problem.phases; ++phase) {
        multiply_back(product, phase, rows);
      }
    }
    if (gradients_.x.data != nullptr) {
      for (int64_t clip = first; clip < last; ++clip) {
        write_gradient(clip, (clip - first) * this->lines_per_clip_);
      }
    }
  }

  void read_gradient(int64_t clip, int64_t first_line) {
    const Lines<const C> lines = read_lines<C>(this->output_plane(grad_y_, clip), this->out_row_, +this->out_lines_);
    this->for_each_line(first_line, [&](int64_t residue, int64_t tile, int64_t line) {
      this->output_.analyze([&](int64_t i) { return this->output_line(lines, residue, tile, i); }, this->out_line_,
                            this->out_spectrum_ + line * this->out_line_, this->out_product_);
    });
  }

  // The sum over all frames is among the frequencies.
  void add_bias(int64_t rows) {
    const C* const sums = this->out_spectrum_ + Places(this->problem_).single * this->out_product_;
    for (int64_t i = 0; i < rows; ++i) {
      add_scaled(grad_bias_, sums + i * this->out_row_, static_cast<C>(this->problem_.points), this->out_row_);
    }
  }

  void multiply_back(int64_t product, int64_t phase, int64_t rows) {
    const Problem& problem = this->problem_;
    const int64_t place = product * problem.phases + phase;
    C* const x = this->in_spectrum_ + place * this->in_phase_;
    const C* const grad_y = this->out_spectrum_ + product * this->out_product_;
    if (grad_weight_ != nullptr) {
      const int64_t row = spectrum_row(problem.out_channels);
      multiply<C>(problem.in_channels, problem.out_channels, rows, {x, 1, this->in_row_}, grad_y, this->out_row_,
                  grad_weight_ + place * problem.in_channels * row, row,
                  /*accumulate=*/true);
    }
    if (gradients_.x.data != nullptr) {  // in the place of x
      const int64_t row = spectrum_row(problem.in_channels);
      Ahead ahead;
      if (const int64_t next = place + 1; next < problem.products() * problem.phases) {
        ahead.add(run_of(spectrum_ + next * problem.out_channels * row, problem.out_channels * row));
      }
      multiply<C>(rows, problem.in_channels, problem.out_channels, {grad_y, this->out_row_, 1},
                  spectrum_ + place * problem.out_channels * row, row, x, this->in_row_,
                  /*accumulate=*/false, ahead);
    }
  }

  void write_gradient(int64_t clip, int64_t first_line) {
    const Problem& problem = this->problem_;
    write_lines(this->input_plane(gradients_.x, clip), this->in_row_, +this->in_lines_, [&](const Lines<C>& lines) {
      for (int64_t t = 0; t < problem.frames; ++t) {
        set_zero(lines.at(t), this->in_line_);
      }
      this->for_each_line(first_line, [&](int64_t residue, int64_t tile, int64_t line) {
        for (int64_t phase = 0; phase < problem.phases; ++phase) {
          this->input_.synthesize(
              this->in_spectrum_ + phase * this->in_phase_ + line * this->in_line_, this->in_product_, this->in_line_,
              [&](int64_t i) { return this->input_line(lines, residue, tile, phase, i); }, /*add=*/true);
        }
      });
      if (this->normed_) {
        through_relu(lines, read_lines<C>(this->input_plane(x_, clip), this->in_row_, +x_lines_));
      }
    });
  }

  // Leaves of the gradient what goes through the ReLU of the norm, while it is still in the cache, and adds it up.
  void through_relu(const Lines<C>& gradient, const Lines<const C>& x) {
    constexpr int64_t L = Pass<S>::L;
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

  const Strided<const S, 4>&x_, &grad_y_;
  const C* const spectrum_;
  const Gradients<S>& gradients_;
  C* grad_weight_ = nullptr;
  C* grad_bias_ = nullptr;
  const Array<C> norm_sums_{this->norm_size_}, norm_products_{this->norm_size_};
  // x as it came, where `in_lines_` has its gradient.
  const Array<C> x_lines_{this->normed_ ? this->in_lines_.size() : 0};
};

// How many taps of a phase there are.
int64_t taps_of(const Problem& problem, int64_t phase) {
  return (problem.taps - phase + problem.phases - 1) / problem.phases;
}

}  // namespace

template <class S>
void transform_weight(const Problem& problem, const Strided<const S, 3>& weight, bool backward, Compute<S>* spectrum,
                      int64_t first_summed, int64_t last_summed) {
  using C = Compute<S>;
  const int64_t summed = backward ? problem.out_channels : problem.in_channels;
  const int64_t made = backward ? problem.in_channels : problem.out_channels;
  const int64_t summed_stride = weight.strides[backward ? 0 : 1];
  const int64_t made_stride = weight.strides[backward ? 1 : 0];
  const int64_t row = spectrum_row(made);
  const Array<C> factors = tap_factors<C>(problem);
  const Array<C> lines(problem.phase_taps * row);
  for (int64_t s = first_summed; s < last_summed; ++s) {
    for (int64_t phase = 0; phase < problem.phases; ++phase) {
      const int64_t taps = taps_of(problem, phase);
      for (int64_t i = 0; i < taps; ++i) {
        const S* const from = weight.data + s * summed_stride + (phase + problem.phases * i) * weight.strides[2];
        for (int64_t m = 0; m < made; ++m) {
          lines[i * row + m] = widen(from[m * made_stride]);
        }
      }
      multiply<C>(problem.products(), made, taps, {factors, problem.phase_taps, 1}, lines, row,
                  spectrum + (phase * summed + s) * row, problem.phases * summed * row, /*accumulate=*/false);
    }
  }
}

template <class S>
void forward(const Problem& problem, const Strided<const S, 4>& x, const Norm<Compute<S>>& norm,
             const Compute<S>* spectrum, const S* bias, const Strided<S, 4>& y,
             const PartialMoments<Compute<S>>& moments, int64_t first_task, int64_t last_task) {
  Forward<S> pass(problem, x, norm, spectrum, bias, y, moments);
  for (int64_t task = first_task; task < last_task; ++task) {
    pass.run(task);
  }
}

template <class S>
void backward(const Problem& problem, const Strided<const S, 4>& x, const Norm<Compute<S>>& norm,
              const Strided<const S, 4>& grad_y, const Compute<S>* spectrum, const Gradients<S>& gradients,
              int64_t chunk_clips, int64_t first_chunk, int64_t last_chunk) {
  Backward<S> pass(problem, x, norm, grad_y, spectrum, gradients);
  for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
    pass.run(chunk, chunk_clips);
  }
}

template <class S>
void finish_weight(const Problem& problem, const Compute<S>* partials, int64_t chunks, S* grad_weight,
                   int64_t first_channel, int64_t last_channel) {
  using C = Compute<S>;
  const int64_t row = spectrum_row(problem.out_channels);
  const int64_t size = spectrum_size(problem, problem.in_channels, problem.out_channels);
  const Array<C> factors = tap_factors<C>(problem);
  const Array<C> sums(problem.products() * row), lines(problem.phase_taps * row);
  for (int64_t c = first_channel; c < last_channel; ++c) {
    for (int64_t phase = 0; phase < problem.phases; ++phase) {
      set_zero(+sums, sums.size());
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        for (int64_t product = 0; product < problem.products(); ++product) {
          const int64_t at = (product * problem.phases + phase) * problem.in_channels + c;
          add_scaled(sums + product * row, partials + chunk * size + at * row, C(1), row);
        }
      }
      const int64_t taps = taps_of(problem, phase);
      multiply<C>(taps, problem.out_channels, problem.products(), {factors, 1, problem.phase_taps}, sums, row, lines,
                  row, /*accumulate=*/false);
      for (int64_t i = 0; i < taps; ++i) {
        S* const to = grad_weight + c * problem.taps + phase + problem.phases * i;
        for (int64_t o = 0; o < problem.out_channels; ++o) {
          to[o * problem.in_channels * problem.taps] = narrow<S>(lines[i * row + o]);
        }
      }
    }
  }
}

#define INSTANTIATE(S)                                                                                                \
  template void transform_weight<S>(const Problem&, const Strided<const S, 3>&, bool, Compute<S>*, int64_t, int64_t); \
  template void forward<S>(const Problem&, const Strided<const S, 4>&, const Norm<Compute<S>>&, const Compute<S>*,    \
                           const S*, const Strided<S, 4>&, const PartialMoments<Compute<S>>&, int64_t, int64_t);      \
  template void backward<S>(const Problem&, const Strided<const S, 4>&, const Norm<Compute<S>>&,                      \
                            const Strided<const S, 4>&, const Compute<S>*, const Gradients<S>&, int64_t, int64_t,     \
                            int64_t);                                                                                 \
  template void finish_weight<S>(const Problem&, const Compute<S>*, int64_t, S*, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::temporal_conv::IKEM_SIMD_LEVEL
