// Compiled once per SIMD level (see common/simd.h).
//
// Some clips at a time are taken to frequencies (spectrum.h), multiplied there with the weights, and brought back.
// All of it is products of matrices (common/vector.h), the transforms included. What lies in between stays in the
// cache.
//
// A line holds one frame, joint by joint, in rows of channels that are padded with zeros to whole vectors. In
// frequencies the rows are those of all lines of the task, (factors or products, phases, lines, joints, channels).
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
template <class S, class P>
class Pass {
 public:
  using C = Compute<S>;
  using Number = typename P::Number;

  Pass(const Problem& problem, const Norm<C>& norm) : problem_(problem), normed_(norm.given()), products_(problem) {
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
                       in_factors_ + phase * in_phase_ + line * in_line_, in_product_);
      }
    });
  }

  static constexpr int64_t L = lanes<C>;

  const Problem& problem_;
  const bool normed_;
  const P products_;
  const int64_t in_row_ = padded_channels(problem_.in_channels), out_row_ = padded_channels(problem_.out_channels);
  const int64_t in_line_ = problem_.joints * in_row_, out_line_ = problem_.joints * out_row_;
  const int64_t lines_per_clip_ = problem_.classes * problem_.tiles;
  const int64_t lines_ = problem_.clips_at_once * lines_per_clip_;
  const int64_t in_phase_ = lines_ * in_line_, in_product_ = problem_.phases * in_phase_;
  const int64_t out_product_ = lines_ * out_line_;
  // The least vector of a SIMD level divides a padded row; zeros beyond it are never written over.
  const Array<C> in_lines_{problem_.frames * in_line_ + lanes<C>};
  const Array<C> out_lines_{problem_.out_frames * out_line_ + lanes<C>};
  const Array<Number> in_factors_{problem_.factors() * in_product_};
  const Transform<P> input_{problem_, products_, Side::input}, output_{problem_, products_, Side::output};
  // The norm; zeros beyond the channels stay zeros.
  const int64_t norm_size_ = normed_ ? in_row_ : 0;
  const Array<C> mean_{norm_size_}, scale_{norm_size_}, shift_{norm_size_};
};

template <class S, class P>
class Forward : Pass<S, P> {
 public:
  using C = Compute<S>;
  using Number = typename P::Number;

  Forward(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm, const Number* spectrum,
          const S* bias, const Strided<S, 4>& y, const PartialMoments<C>& moments)
      : Pass<S, P>(problem, norm),
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
              out_products_ + line * this->out_line_, this->out_product_, this->out_line_,
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
    for (int64_t factor = 0; factor < problem.factors(); ++factor) {
      const bool biased = has_bias_ && factor == this->products_.total();  // the sum over all frames
      if (biased) {
        start_with_bias(rows);
      }
      for (int64_t phase = 0; phase < problem.phases; ++phase) {
        const int64_t place = factor * problem.phases + phase;
        Ahead ahead;
        if (const int64_t next = place + 1; next < problem.factors() * problem.phases) {
          ahead.add(run_of(spectrum_ + next * problem.in_channels * row, problem.in_channels * row));
          ahead.add(run_of<Number>(this->in_factors_ + next * this->in_phase_, rows * this->in_row_));
        }
        this->products_.multiply(factor, rows, problem.out_channels, problem.in_channels,
                                 {this->in_factors_ + place * this->in_phase_, this->in_row_, 1},
                                 spectrum_ + place * problem.in_channels * row, row, +out_products_, this->out_product_,
                                 this->out_row_, /*accumulate=*/biased || phase > 0, ahead);
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

  void start_with_bias(int64_t rows) {
    C* const totals = out_products_ + this->products_.total() * this->out_product_;
    for (int64_t i = 0; i < rows; ++i) {
      memcpy(totals + i * this->out_row_, bias_, sizeof(C) * static_cast<size_t>(this->out_row_));
    }
    if (P::PAIRED && this->products_.singles == 2) {  // what is made beside them
      set_zero(totals + this->out_product_, rows * this->out_row_);
    }
  }

  const Strided<const S, 4>& x_;
  const Number* const spectrum_;
  const Strided<S, 4>& y_;
  const PartialMoments<C>& moments_;
  RowMoments<C> of_clip_;
  const bool has_bias_;
  const Array<C> bias_{this->out_row_};
  const Array<C> out_products_{this->problem_.products() * this->out_product_};
};

template <class S, class P>
class Backward : Pass<S, P> {
 public:
  using C = Compute<S>;
  using Number = typename P::Number;

  Backward(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm, const Strided<const S, 4>& grad_y,
           const Number* spectrum, const Gradients<S>& gradients)
      : Pass<S, P>(problem, norm), x_(x), grad_y_(grad_y), spectrum_(spectrum), gradients_(gradients) {}

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

  void run_clips(int64_t first, int64_t last) {
    const Problem& problem = this->problem_;
    const int64_t rows = (last - first) * this->lines_per_clip_ * problem.joints;
    for (int64_t clip = first; clip < last; ++clip) {
      read_gradient(clip, (clip - first) * this->lines_per_clip_);
      if (grad_weight_ != nullptr) {
        this->analyze_input(x_, clip, (clip - first) * this->lines_per_clip_);
      }
    }
    if constexpr (!P::PAIRED) {
      if (grad_bias_ != nullptr) {  // the sum over all frames is among the frequencies
        add_bias(out_factors_ + this->products_.total() * this->out_product_, rows, static_cast<C>(problem.points));
      }
    }
    for (int64_t factor = 0; factor < problem.factors(); ++factor) {
      for (int64_t phase = 0; phase < problem.phases; ++phase) {
        multiply_back(factor, phase, rows);
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
    if (grad_bias_ != nullptr && P::PAIRED) {  // where it is not rounded yet
      for (int64_t t = 0; t < this->problem_.out_frames; ++t) {
        add_bias(lines.at(t), this->problem_.joints, C(1));
      }
    }
    this->for_each_line(first_line, [&](int64_t residue, int64_t tile, int64_t line) {
      this->output_.analyze([&](int64_t i) { return this->output_line(lines, residue, tile, i); }, this->out_line_,
                            out_factors_ + line * this->out_line_, this->out_product_);
    });
  }

  void add_bias(const C* gradients, int64_t rows, C factor) {
    for (int64_t i = 0; i < rows; ++i) {
      add_scaled(grad_bias_, gradients + i * this->out_row_, factor, this->out_row_);
    }
  }

  void multiply_back(int64_t factor, int64_t phase, int64_t rows) {
    const Problem& problem = this->problem_;
    const int64_t place = factor * problem.phases + phase;
    const Number* const grad_y = out_factors_ + factor * this->out_product_;
    if (grad_weight_ != nullptr) {
      const int64_t row = spectrum_row(problem.out_channels), phase_size = problem.in_channels * row;
      this->products_.multiply(factor, problem.in_channels, problem.out_channels, rows,
                               {this->in_factors_ + place * this->in_phase_, 1, this->in_row_}, grad_y, this->out_row_,
                               grad_weight_ + phase * phase_size, problem.phases * phase_size, row,
                               /*accumulate=*/true, Nothing());
    }
    if (gradients_.x.data != nullptr) {
      const int64_t row = spectrum_row(problem.in_channels);
      Ahead ahead;
      if (const int64_t next = place + 1; next < problem.factors() * problem.phases) {
        ahead.add(run_of(spectrum_ + next * problem.out_channels * row, problem.out_channels * row));
      }
      this->products_.multiply(factor, rows, problem.in_channels, problem.out_channels, {grad_y, this->out_row_, 1},
                               spectrum_ + place * problem.out_channels * row, row,
                               in_products() + phase * this->in_phase_, this->in_product_, this->in_row_,
                               /*accumulate=*/false, ahead);
    }
  }

  // The gradient of x in frequencies, in the place of x where numbers are of one type.
  C* in_products() const {
    if constexpr (P::PAIRED) {
      return in_products_;
    } else {
      return this->in_factors_;
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
              in_products() + phase * this->in_phase_ + line * this->in_line_, this->in_product_, this->in_line_,
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
    constexpr int64_t L = Pass<S, P>::L;
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
  const Number* const spectrum_;
  const Gradients<S>& gradients_;
  C* grad_weight_ = nullptr;
  C* grad_bias_ = nullptr;
  const Array<C> norm_sums_{this->norm_size_}, norm_products_{this->norm_size_};
  // x as it came, where `in_lines_` has its gradient.
  const Array<C> x_lines_{this->normed_ ? this->in_lines_.size() : 0};
  const Array<Number> out_factors_{this->problem_.factors() * this->out_product_};
  const Array<C> in_products_{P::PAIRED ? this->problem_.products() * this->in_product_ : 0};
};

// How many taps of a phase there are.
int64_t taps_of(const Problem& problem, int64_t phase) {
  return (problem.taps - phase + problem.phases - 1) / problem.phases;
}

// Calls f(products) with those that the problem asks for.
template <class S, class F>
void with_products(const Problem& problem, F f) {
#ifdef IKEM_MULTIPLIES_PAIRS
  if constexpr (std::is_same_v<S, BFloat16>) {
    if (problem.paired) {
      return f(PairProducts(problem));
    }
  }
#endif
  f(RealProducts<Compute<S>>(problem));
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
  const int64_t row = spectrum_row(made), factor = problem.phases * summed * row;
  // Where made channels lie far apart, those of some summed ones are read together: else each number would be a cache
  // line of its own, and lines would drive each other out before the next number on them is wanted.
  constexpr int64_t AT_ONCE = 8;
  const Array<C> lines(AT_ONCE * problem.taps * row);
  with_products<S>(problem, [&](const auto& products) {
    using P = std::decay_t<decltype(products)>;
    const Array<C> of_taps = tap_factors(problem, products, /*conjugate=*/!backward);
    const Array<C> numbers(P::PAIRED ? problem.products() * row : 0);
    for (int64_t s = first_summed; s < last_summed; ++s) {
      const int64_t read = (s - first_summed) % AT_ONCE;
      if (read == 0) {
        read_rows(Plane<const S>{weight.data + s * summed_stride, made, made_stride, smaller(AT_ONCE, last_summed - s),
                                 summed_stride, problem.taps, weight.strides[2]},
                  +lines, row);
      }
      for (int64_t phase = 0; phase < problem.phases; ++phase) {
        const auto transform = [&](C* to, int64_t product) {
          multiply<C>(problem.products(), made, taps_of(problem, phase), {of_taps, problem.phase_taps, 1},
                      lines + (read * problem.taps + phase) * row, problem.phases * row, to, product,
                      /*accumulate=*/false);
        };
        const int64_t place = (phase * summed + s) * row;
        if constexpr (P::PAIRED) {
          transform(numbers, row);
          auto* const factors = reinterpret_cast<typename P::Number*>(spectrum);
          products.pack(numbers, row, padded_channels(made), factors + place, factor);
        } else {
          transform(spectrum + place, factor);
        }
      }
    }
  });
}

template <class S>
void forward(const Problem& problem, const Strided<const S, 4>& x, const Norm<Compute<S>>& norm,
             const Compute<S>* spectrum, const S* bias, const Strided<S, 4>& y,
             const PartialMoments<Compute<S>>& moments, int64_t first_task, int64_t last_task) {
  with_products<S>(problem, [&](const auto& products) {
    using P = std::decay_t<decltype(products)>;
    Forward<S, P> pass(problem, x, norm, reinterpret_cast<const typename P::Number*>(spectrum), bias, y, moments);
    for (int64_t task = first_task; task < last_task; ++task) {
      pass.run(task);
    }
  });
}

template <class S>
void backward(const Problem& problem, const Strided<const S, 4>& x, const Norm<Compute<S>>& norm,
              const Strided<const S, 4>& grad_y, const Compute<S>* spectrum, const Gradients<S>& gradients,
              int64_t chunk_clips, int64_t first_chunk, int64_t last_chunk) {
  with_products<S>(problem, [&](const auto& products) {
    using P = std::decay_t<decltype(products)>;
    Backward<S, P> pass(problem, x, norm, grad_y, reinterpret_cast<const typename P::Number*>(spectrum), gradients);
    for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
      pass.run(chunk, chunk_clips);
    }
  });
}

template <class S>
void finish_weight(const Problem& problem, const Compute<S>* partials, int64_t chunks, S* grad_weight,
                   int64_t first_channel, int64_t last_channel) {
  using C = Compute<S>;
  const int64_t row = spectrum_row(problem.out_channels);
  const int64_t size = gradient_size(problem);
  Array<C> factors;
  with_products<S>(problem,
                   [&](const auto& products) { factors = tap_factors(problem, products, /*conjugate=*/true); });
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
