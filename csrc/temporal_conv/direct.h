// The sum over taps as it is written, for few channels and few taps. Frames that see the others through the same taps
// are the rows of one product, whose sum over taps and channels stays in registers. Included by cpu.cpp alone.
#pragma once

#include "temporal_conv/clips.h"
#include "temporal_conv/spectrum.h"

namespace ikem::temporal_conv::IKEM_SIMD_LEVEL {
namespace {

// Lines as products multiply them: themselves, or pairs of what is summed over. Lines may be those of a tensor of
// bfloat16, too.
template <class P>
class FactorLines {
 public:
  using C = typename P::C;
  using Number = typename P::Number;
  static constexpr int64_t TOGETHER = P::PAIRED ? 2 : 1;

  FactorLines(int64_t frames, int64_t joints, int64_t row) : frames_(frames), joints_(joints), row_(row) {}

  // How many numbers stand for so many channels or joints.
  static int64_t count(int64_t summed) { return round_up(summed, TOGETHER) / TOGETHER; }

  // For sums over channels: (frames, joints, count(row)).
  Lines<const Number> of_channels(const Lines<const C>& lines) const {
    return paired(lines, joints_ * count(row_),
                  [&](const auto* from, auto* to) { pair_columns(from, 0, 1, joints_ * row_, to, 0); });
  }
  Lines<const Number> of_channels(const Lines<const BFloat16>& lines) const {
    return {reinterpret_cast<const Number*>(lines.data), lines.frame / TOGETHER};
  }

  // For sums over joints: (frames, count(joints), row).
  template <class T>
  Lines<const Number> of_joints(const Lines<T>& lines) const {
    return paired(lines, count(joints_) * row_,
                  [&](const auto* from, auto* to) { pair_rows(from, row_, joints_, row_, to, row_); });
  }

 private:
  template <class T, class F>
  Lines<const Number> paired(const Lines<T>& lines, int64_t line, F make) const {
    if constexpr (P::PAIRED) {
      for (int64_t t = 0; t < frames_; ++t) {
        make(lines.at(t), pairs_ + t * line);
      }
      return {pairs_, line};
    } else {
      return lines;
    }
  }

  const int64_t frames_, joints_, row_;
  // Pairs are written in whole vectors.
  const Array<Number> pairs_{P::PAIRED ? frames_ * count(joints_) * row_ + lanes<C> : 0};
};

// Calls f(lines) with the rows of a tensor where these are pairs already, else with what `read` reads.
template <class P, class S, class Read, class F>
void with_lines(const Plane<const S>& plane, bool as_they_are, Read read, F f) {
  if constexpr (P::PAIRED) {
    with_rows(plane, as_they_are && plane.frame_stride % 2 == 0, read, f);
  } else {
    f(read());
  }
}

// Which frames see each other, and products of them.
template <class P>
class Taps {
 public:
  using C = typename P::C;
  using Number = typename P::Number;
  using Factors = FactorLines<P>;

  explicit Taps(const Problem& problem) : problem_(problem), terms_(larger(problem.taps, problem.out_frames)) {}

  // The input that an output sees through a tap, and the output that sees an input through it; below 0: none.
  int64_t input_of(int64_t output, int64_t tap) const {
    const int64_t frame = problem_.stride * output + problem_.dilation * tap - problem_.padding;
    return frame < problem_.frames ? frame : -1;
  }
  int64_t output_of(int64_t input, int64_t tap) const {
    const int64_t place = input + problem_.padding - problem_.dilation * tap;
    const int64_t frame = place / problem_.stride;
    return place >= 0 && place % problem_.stride == 0 && frame < problem_.out_frames ? frame : -1;
  }

  // The sums over taps and channels, and of a bias, if it is not null. Rows of `from` and `to` are `from_row` and
  // `to_row` apart, and `seen(frame, tap)` is the frame of `from` that one of `to` sees; weights are (taps,
  // count(summed), made).
  template <class Seen>
  void sum_over_taps(const Lines<const Number>& from, int64_t from_row, int64_t summed, const Number* weights,
                     const C* bias, const Lines<C>& to, int64_t to_row, int64_t made, int64_t frames, Seen seen) const {
    const int64_t row = spectrum_row(made), depth = Factors::count(summed);
    const bool dense = from.frame == problem_.joints * from_row && to.frame == problem_.joints * to_row;
    for (int64_t first = 0, run = 1; first < frames; first += run) {
      run = dense ? run_of_frames(first, frames, 0, problem_.taps, seen) : 1;
      int64_t count = 0;
      for (int64_t k = 0; k < problem_.taps; ++k) {
        if (const int64_t frame = seen(first, k); frame >= 0) {
          terms_[count++] = {from.at(frame), weights + k * depth * row, depth};
        }
      }
      multiply_sum<Number>(run * problem_.joints, made, {terms_, count}, {nullptr, from_row, 1}, row, {bias},
                           to.at(first), to_row);
    }
  }

  // Adds the products of inputs and gradients of outputs, summed over frames and joints, to (taps, C_in, C_out).
  void add_weight_gradient(const Lines<const Number>& x, int64_t x_row, const Lines<const Number>& grad_y,
                           int64_t grad_y_row, C* grad_weight) const {
    const int64_t row = spectrum_row(problem_.out_channels), depth = Factors::count(problem_.joints);
    const bool dense = x.frame == depth * x_row && grad_y.frame == depth * grad_y_row;
    const auto seen = [&](int64_t output, int64_t tap) { return input_of(output, tap); };
    for (int64_t k = 0; k < problem_.taps; ++k) {
      int64_t count = 0;
      for (int64_t first = 0, run = 1; first < problem_.out_frames; first += run) {
        run = dense ? run_of_frames(first, problem_.out_frames, k, k + 1, seen) : 1;
        if (const int64_t frame = input_of(first, k); frame >= 0) {
          terms_[count++] = {x.at(frame), grad_y.at(first), run * depth};
        }
      }
      C* const sums = grad_weight + k * problem_.in_channels * row;
      multiply_sum<Number>(problem_.in_channels, problem_.out_channels, {terms_, count}, {nullptr, 1, x_row},
                           grad_y_row, {sums, row}, sums, row);
    }
  }

 private:
  // How many frames in a row see such that follow each other as they do, through the same of the taps.
  template <class Seen>
  static int64_t run_of_frames(int64_t first, int64_t frames, int64_t first_tap, int64_t last_tap, Seen seen) {
    for (int64_t n = 1; first + n < frames; ++n) {
      for (int64_t k = first_tap; k < last_tap; ++k) {
        const int64_t begin = seen(first, k), here = seen(first + n, k);
        if (begin < 0 ? here >= 0 : here != begin + n) {
          return n;
        }
      }
    }
    return frames - first;
  }

  const Problem& problem_;
  const Array<Term<Number>> terms_;
};

template <class S, class P>
class DirectForward : ForwardClips<S> {
 public:
  using C = Compute<S>;
  using Number = typename P::Number;

  DirectForward(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm, const Number* weights,
                const S* bias, const Strided<S, 4>& y, const PartialMoments<C>& moments)
      : ForwardClips<S>(problem, x, norm, bias, y, moments), weights_(weights) {}

  void run(int64_t clip) {
    const Problem& problem = this->problem_;
    Lines<const Number> x{};
    with_lines<P>(
        this->input_plane(this->x_, clip), !this->normed_, [&] { return this->input_lines(clip); },
        [&](const auto& lines) { x = factors_.of_channels(lines); });
    this->write(clip, [&](const Lines<C>& lines) {
      taps_.sum_over_taps(x, FactorLines<P>::count(this->in_row_), problem.in_channels, weights_,
                          this->has_bias_ ? +this->bias_ : nullptr, lines, this->out_row_, problem.out_channels,
                          problem.out_frames, [&](int64_t output, int64_t tap) { return taps_.input_of(output, tap); });
    });
  }

 private:
  const Number* const weights_;
  const Taps<P> taps_{this->problem_};
  const FactorLines<P> factors_{this->problem_.frames, this->problem_.joints, this->in_row_};
};

template <class S, class P>
class DirectBackward : BackwardClips<S> {
 public:
  using C = Compute<S>;
  using Number = typename P::Number;

  DirectBackward(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm,
                 const Strided<const S, 4>& grad_y, const Number* weights, const Gradients<S>& gradients)
      : BackwardClips<S>(problem, x, norm, grad_y, gradients), weights_(weights) {}

  void run(int64_t chunk, int64_t chunks) {
    this->run_chunk(chunk, chunks, [&](int64_t first, int64_t last) {
      for (int64_t clip = first; clip < last; ++clip) {
        run_clip(clip);
      }
    });
  }

 private:
  void run_clip(int64_t clip) {
    with_lines<P>(
        this->gradient_plane(clip), true, [&] { return this->gradient_lines(clip); },
        [&](const auto& grad_y) { run_clip(clip, grad_y); });
  }

  template <class T>
  void run_clip(int64_t clip, const Lines<T>& grad_y) {
    const Problem& problem = this->problem_;
    if (this->grad_bias_ != nullptr) {
      this->add_bias(grad_y);
    }
    if (this->grad_weight_ != nullptr) {
      with_lines<P>(
          this->input_plane(this->x_, clip), !this->normed_, [&] { return this->input_lines(clip); },
          [&](const auto& x) {
            taps_.add_weight_gradient(in_factors_.of_joints(x), this->in_row_, out_factors_.of_joints(grad_y),
                                      this->out_row_, this->grad_weight_);
          });
    }
    if (this->gradients_.x.data != nullptr) {
      const Lines<const Number> from = out_factors_.of_channels(grad_y);
      this->write(clip, [&](const Lines<C>& lines) {
        taps_.sum_over_taps(from, FactorLines<P>::count(this->out_row_), problem.out_channels, weights_,
                            /*bias=*/nullptr, lines, this->in_row_, problem.in_channels, problem.frames,
                            [&](int64_t input, int64_t tap) { return taps_.output_of(input, tap); });
      });
    }
  }

  const Number* const weights_;
  const Taps<P> taps_{this->problem_};
  const FactorLines<P> in_factors_{this->problem_.frames, this->problem_.joints, this->in_row_};
  const FactorLines<P> out_factors_{this->problem_.out_frames, this->problem_.joints, this->out_row_};
};

}  // namespace
}  // namespace ikem::temporal_conv::IKEM_SIMD_LEVEL
