// Compiled once per SIMD level (see common/simd.h).
//
// Either the sum over taps is made as it is written (direct.h, tiled.h), or some clips at a time are taken to
// frequencies (spectrum.h), multiplied there with the weights, and brought back. All of it is products of matrices
// (common/vector.h), the transforms included. What lies in between stays in the cache.
//
// In frequencies rows of channels are those of all lines of the task, (factors or products, phases, lines, joints,
// channels).
#include "temporal_conv/clips.h"
#include "temporal_conv/direct.h"
#include "temporal_conv/kernel.h"
#include "temporal_conv/spectrum.h"
#include "temporal_conv/tiled.h"

namespace ikem::temporal_conv::IKEM_SIMD_LEVEL {
namespace {

// For Ahead.
template <class C>
Plane<const C> run_of(const C* data, int64_t size) {
  return {data, 1, size, 1, size, size, 1};
}

// What both passes share: which lines of a clip a window or a tile holds, and the way of x to frequencies. `Clips` is
// the pass without its convolution.
template <class S, class P, class Clips>
class InFrequencies : protected Clips {
 public:
  using C = Compute<S>;
  using Number = typename P::Number;

  template <class... Given>
  explicit InFrequencies(const Problem& problem, const Given&... given)
      : Clips(problem, given...), products_(problem) {}

 protected:
  // Calls f(class, tile, line) for each line that a clip becomes in frequencies; `first` is its first one's number.
  template <class F>
  void for_each_line(int64_t first, F f) const {
    for (int64_t residue = 0; residue < this->problem_.classes; ++residue) {
      for (int64_t tile = 0; tile < this->problem_.tiles; ++tile) {
        f(residue, tile, first++);
      }
    }
  }

  // The i-th input frame of a window, or null for zeros.
  template <class T>
  T* input_line(const Lines<T>& lines, int64_t residue, int64_t tile, int64_t phase, int64_t i) const {
    const Problem& problem = this->problem_;
    const int64_t place = problem.window_first + tile * problem.tile + i;
    const int64_t frame = problem.frame_step * place + problem.stride * residue + problem.phase_offset(phase);
    return frame >= 0 && frame < problem.frames ? lines.at(frame) : nullptr;
  }

  // The i-th output frame of a tile, or null where the tile reaches beyond the last.
  template <class T>
  T* output_line(const Lines<T>& lines, int64_t residue, int64_t tile, int64_t i) const {
    const int64_t frame = this->problem_.classes * (tile * this->problem_.tile + i) + residue;
    return frame < this->problem_.out_frames ? lines.at(frame) : nullptr;
  }

  void analyze_input(int64_t clip, int64_t first_line) const {
    const Lines<const C> lines = this->input_lines(clip);
    for_each_line(first_line, [&](int64_t residue, int64_t tile, int64_t line) {
      for (int64_t phase = 0; phase < this->problem_.phases; ++phase) {
        input_.analyze([&](int64_t i) { return input_line(lines, residue, tile, phase, i); }, this->in_line_,
                       in_factors_ + phase * in_phase_ + line * this->in_line_, in_product_);
      }
    });
  }

  const P products_;
  const int64_t lines_per_clip_ = this->problem_.classes * this->problem_.tiles;
  const int64_t lines_ = this->problem_.clips_at_once * lines_per_clip_;
  const int64_t in_phase_ = lines_ * this->in_line_, in_product_ = this->problem_.phases * in_phase_;
  const int64_t out_product_ = lines_ * this->out_line_;
  const Array<Number> in_factors_{this->problem_.factors() * in_product_};
  const Transform<P> input_{this->problem_, products_, Side::input}, output_{this->problem_, products_, Side::output};
};

template <class S, class P>
class Forward : InFrequencies<S, P, ForwardClips<S>> {
 public:
  using C = Compute<S>;
  using Number = typename P::Number;

  Forward(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm, const Number* spectrum,
          const S* bias, const Strided<S, 4>& y, const PartialMoments<C>& moments)
      : InFrequencies<S, P, ForwardClips<S>>(problem, x, norm, bias, y, moments), spectrum_(spectrum) {
    for (int64_t o = 0; o < problem.out_channels; ++o) {
      this->bias_[o] *= static_cast<C>(problem.points);
    }
  }

  void run(int64_t task) {
    const Problem& problem = this->problem_;
    const int64_t first = task * problem.clips_at_once;
    const int64_t last = smaller(first + problem.clips_at_once, problem.clips);
    for (int64_t clip = first; clip < last; ++clip) {
      this->analyze_input(clip, (clip - first) * this->lines_per_clip_);
    }
    multiply_by_weights((last - first) * this->lines_per_clip_ * problem.joints);
    for (int64_t clip = first; clip < last; ++clip) {
      this->write(clip, [&](const Lines<C>& lines) {
        this->for_each_line((clip - first) * this->lines_per_clip_, [&](int64_t residue, int64_t tile, int64_t line) {
          this->output_.synthesize(
              out_products_ + line * this->out_line_, this->out_product_, this->out_line_,
              [&](int64_t i) { return this->output_line(lines, residue, tile, i); }, /*add=*/false);
        });
      });
    }
  }

 private:
  void multiply_by_weights(int64_t rows) {
    const Problem& problem = this->problem_;
    const int64_t row = spectrum_row(problem.out_channels);
    for (int64_t factor = 0; factor < problem.factors(); ++factor) {
      const bool biased = this->has_bias_ && factor == this->products_.total();  // the sum over all frames
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

  void start_with_bias(int64_t rows) {
    C* const totals = out_products_ + this->products_.total() * this->out_product_;
    for (int64_t i = 0; i < rows; ++i) {
      memcpy(totals + i * this->out_row_, +this->bias_, sizeof(C) * static_cast<size_t>(this->out_row_));
    }
    if (P::PAIRED && this->products_.singles == 2) {  // what is made beside them
      set_zero(totals + this->out_product_, rows * this->out_row_);
    }
  }

  const Number* const spectrum_;
  const Array<C> out_products_{this->problem_.products() * this->out_product_};
};

template <class S, class P>
class Backward : InFrequencies<S, P, BackwardClips<S>> {
 public:
  using C = Compute<S>;
  using Number = typename P::Number;

  Backward(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm, const Strided<const S, 4>& grad_y,
           const Number* spectrum, const Gradients<S>& gradients)
      : InFrequencies<S, P, BackwardClips<S>>(problem, x, norm, grad_y, gradients), spectrum_(spectrum) {}

  void run(int64_t chunk, int64_t chunks) {
    this->run_chunk(chunk, chunks, [&](int64_t first, int64_t last) { run_clips(first, last); });
  }

 private:
  void run_clips(int64_t first, int64_t last) {
    const Problem& problem = this->problem_;
    const int64_t rows = (last - first) * this->lines_per_clip_ * problem.joints;
    for (int64_t clip = first; clip < last; ++clip) {
      read_gradient(clip, (clip - first) * this->lines_per_clip_);
      if (this->grad_weight_ != nullptr) {
        this->analyze_input(clip, (clip - first) * this->lines_per_clip_);
      }
    }
    if constexpr (!P::PAIRED) {
      if (this->grad_bias_ != nullptr) {  // the sum over all frames is among the frequencies
        this->add_bias(out_factors_ + this->products_.total() * this->out_product_, rows,
                       static_cast<C>(problem.points));
      }
    }
    for (int64_t factor = 0; factor < problem.factors(); ++factor) {
      for (int64_t phase = 0; phase < problem.phases; ++phase) {
        multiply_back(factor, phase, rows);
      }
    }
    if (this->gradients_.x.data != nullptr) {
      for (int64_t clip = first; clip < last; ++clip) {
        write_gradient(clip, (clip - first) * this->lines_per_clip_);
      }
    }
  }

  void read_gradient(int64_t clip, int64_t first_line) {
    const Lines<const C> lines = this->gradient_lines(clip);
    if (this->grad_bias_ != nullptr && P::PAIRED) {  // where it is not rounded yet
      this->add_bias(lines);
    }
    this->for_each_line(first_line, [&](int64_t residue, int64_t tile, int64_t line) {
      this->output_.analyze([&](int64_t i) { return this->output_line(lines, residue, tile, i); }, this->out_line_,
                            out_factors_ + line * this->out_line_, this->out_product_);
    });
  }

  void multiply_back(int64_t factor, int64_t phase, int64_t rows) {
    const Problem& problem = this->problem_;
    const int64_t place = factor * problem.phases + phase;
    const Number* const grad_y = out_factors_ + factor * this->out_product_;
    if (this->grad_weight_ != nullptr) {
      const int64_t row = spectrum_row(problem.out_channels), phase_size = problem.in_channels * row;
      this->products_.multiply(factor, problem.in_channels, problem.out_channels, rows,
                               {this->in_factors_ + place * this->in_phase_, 1, this->in_row_}, grad_y, this->out_row_,
                               this->grad_weight_ + phase * phase_size, problem.phases * phase_size, row,
                               /*accumulate=*/true, Nothing());
    }
    if (this->gradients_.x.data != nullptr) {
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
    this->write(clip, [&](const Lines<C>& lines) {
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
    });
  }

  const Number* const spectrum_;
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

// A row of each tap's weights, that of channel `s`, as direct sums take them; rows of pairs behind the last channel are
// zeros.
template <class P>
void write_taps(const Problem& problem, const typename P::C* lines, int64_t row, int64_t s, int64_t summed,
                typename P::Number* factors) {
  int64_t depth = FactorLines<P>::count(summed);
#ifdef IKEM_MULTIPLIES_PAIRS
  depth = problem.tiled ? channel_pairs(summed) : depth;
#endif
  for (int64_t k = 0; k < problem.taps; ++k, lines += row) {
    auto* const rows = factors + k * depth * row;
    auto* const to = rows + s / FactorLines<P>::TOGETHER * row;
    if constexpr (P::PAIRED) {  // the other half may be another thread's
      auto* const halves = reinterpret_cast<BFloat16*>(to);
      for (int64_t i = 0; i < row; ++i) {
        halves[2 * i + s % 2] = narrow<BFloat16>(lines[i]);
        if (s % 2 == 0 && s + 1 == summed) {
          halves[2 * i + 1] = {};
        }
      }
      if (s + 1 == summed) {
        set_zero(to + row, rows + depth * row - (to + row));
      }
    } else {
      memcpy(to, lines, sizeof(*to) * static_cast<size_t>(row));
    }
  }
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
    auto* const factors = reinterpret_cast<typename P::Number*>(spectrum);
    const Array<C> of_taps = problem.direct ? Array<C>() : tap_factors(problem, products, /*conjugate=*/!backward);
    const Array<C> numbers(P::PAIRED ? problem.products() * row : 0);
    for (int64_t s = first_summed; s < last_summed; ++s) {
      const int64_t read = (s - first_summed) % AT_ONCE;
      if (read == 0) {
        read_rows(Plane<const S>{weight.data + s * summed_stride, made, made_stride, smaller(AT_ONCE, last_summed - s),
                                 summed_stride, problem.taps, weight.strides[2]},
                  +lines, row);
      }
      if (problem.direct) {
        write_taps<P>(problem, lines + read * problem.taps * row, row, s, summed, factors);
        continue;
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
    const auto run = [&](auto pass) {
      for (int64_t task = first_task; task < last_task; ++task) {
        pass.run(task);
      }
    };
    const auto* const factors = reinterpret_cast<const typename P::Number*>(spectrum);
#ifdef IKEM_MULTIPLIES_PAIRS
    if constexpr (P::PAIRED) {
      if (problem.tiled) {
        return run(TiledForward<S>(problem, x, norm, factors, bias, y, moments));
      }
    }
#endif
    if (problem.direct) {
      run(DirectForward<S, P>(problem, x, norm, factors, bias, y, moments));
    } else {
      run(Forward<S, P>(problem, x, norm, factors, bias, y, moments));
    }
  });
}

template <class S>
void backward(const Problem& problem, const Strided<const S, 4>& x, const Norm<Compute<S>>& norm,
              const Strided<const S, 4>& grad_y, const Compute<S>* spectrum, const Gradients<S>& gradients,
              int64_t chunks, int64_t first_chunk, int64_t last_chunk) {
  with_products<S>(problem, [&](const auto& products) {
    using P = std::decay_t<decltype(products)>;
    const auto run = [&](auto pass) {
      for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
        pass.run(chunk, chunks);
      }
    };
    const auto* const factors = reinterpret_cast<const typename P::Number*>(spectrum);
#ifdef IKEM_MULTIPLIES_PAIRS
    if constexpr (P::PAIRED) {
      if (problem.tiled) {
        return run(TiledBackward<S>(problem, x, norm, grad_y, factors, gradients));
      }
    }
#endif
    if (problem.direct) {
      run(DirectBackward<S, P>(problem, x, norm, grad_y, factors, gradients));
    } else {
      run(Backward<S, P>(problem, x, norm, grad_y, factors, gradients));
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
  if (!problem.direct) {
    with_products<S>(problem,
                     [&](const auto& products) { factors = tap_factors(problem, products, /*conjugate=*/true); });
  }
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
      if (!problem.direct) {
        multiply<C>(taps, problem.out_channels, problem.products(), {factors, 1, problem.phase_taps}, sums, row, lines,
                    row, /*accumulate=*/false);
      }
      const C* const of_taps = problem.direct ? sums : lines;
      for (int64_t i = 0; i < taps; ++i) {
        S* const to = grad_weight + c * problem.taps + phase + problem.phases * i;
        for (int64_t o = 0; o < problem.out_channels; ++o) {
          to[o * problem.in_channels * problem.taps] = narrow<S>(of_taps[i * row + o]);
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
