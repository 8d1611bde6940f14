// The sum over taps as it is written, in bfloat16 by tile registers. Included by cpu.cpp alone.
//
// Frames lie between frames of zeros, those of the padding, sorted by their place modulo the stride, those left out
// that no tap sees: what a tap sees of them then follows each other, for all outputs, and a clip is one sum of as many
// products as there are taps.
#pragma once

#include <numeric>

#include "common/bfloat16_tiles.h"
#include "temporal_conv/clips.h"

#ifdef IKEM_MULTIPLIES_PAIRS

namespace ikem::temporal_conv::IKEM_SIMD_LEVEL {
namespace {

// Pairs of channels that a product sums over. Rows of lines have room for them.
inline int64_t channel_pairs(int64_t channels) { return padded_pairs((channels + 1) / 2); }

// Pairs of joints in a frame, of which a product sums over all frames: whole tiles where these are no more then, for
// rows of a tile are read fastest where they are cache lines.
inline int64_t joint_pairs(int64_t joints, int64_t frames) {
  const int64_t pairs = padded_pairs((joints + 1) / 2), whole = round_up(pairs, TILE_SIDE);
  return frames * pairs / tile_depth(frames * pairs) < frames * whole / TILE_SIDE ? pairs : whole;
}

struct Run {
  int64_t first, last;
};

// Where frames lie that are seen through taps: for each place modulo the step that a tap sees, `slots` places.
class Places {
 public:
  // Taps see, from the output u on, the place step u + spacing k. Frame f stands at the place f + offset.
  Places(int64_t outputs, int64_t taps, int64_t step, int64_t spacing, int64_t offset)
      : outputs_(outputs),
        step_(step),
        spacing_(spacing),
        offset_(offset),
        phases_(smaller(taps, step / std::gcd(step, spacing))),
        slots((step * (outputs - 1) + spacing * (taps - 1)) / step + 1),
        count(phases_ * slots) {}

  // Where the first output's frame is through a tap; those of the others follow. Taps so many apart are alike.
  int64_t seen(int64_t tap) const { return tap % phases_ * slots + spacing_ * tap / step_; }
  // The run of outputs for which there is a frame of so many there.
  Run outputs_of(int64_t tap, int64_t frames) const {
    const int64_t before = offset_ - spacing_ * tap;  // the first output's frame stands so far before the first
    const int64_t first = before > 0 ? (before + step_ - 1) / step_ : 0;
    const int64_t last = (frames - 1 + before + step_) / step_;
    return {smaller(first, outputs_), larger(smaller(first, outputs_), smaller(last, outputs_))};
  }
  // The frame that stands at one of the places; it may be none of the clip's.
  int64_t frame_at(int64_t place) const { return place % slots * step_ + spacing_ * (place / slots) % step_ - offset_; }

 private:
  const int64_t outputs_, step_, spacing_, offset_, phases_;

 public:
  const int64_t slots, count;
};

// Pairs of bfloat16 made of the frames of clips, at their places.
class PlacedFrames {
 public:
  PlacedFrames(const Places& places, int64_t frames, int64_t joints, int64_t row, int64_t joint_pairs)
      : places_(places), frames_(frames), joints_(joints), row_(row), joint_pairs_(joint_pairs) {}

  int64_t channel_row() const { return row_ / 2; }
  int64_t channel_frame() const { return joints_ * channel_row(); }
  int64_t channel_size() const { return places_.count * channel_frame(); }
  // Pairs of neighbouring channels: (places, joints, row / 2).
  template <class T>
  void pair_channels(const Lines<T>& lines, Pair* to) const {
    for_each_frame([&](int64_t frame, int64_t place) {
      Pair* const at = to + place * channel_frame();
      if constexpr (std::is_same_v<std::remove_const_t<T>, BFloat16>) {
        memcpy(at, lines.at(frame), sizeof(Pair) * static_cast<size_t>(channel_frame()));
      } else {
        pair_columns(lines.at(frame), 0, 1, joints_ * row_, at, 0);
      }
    });
  }

  int64_t joint_pairs() const { return joint_pairs_; }
  int64_t joint_size() const { return round_up(places_.count * joint_pairs(), TILE_SIDE) * row_; }
  // Pairs of joints: (places, joint_pairs, row).
  template <class T>
  void pair_joints(const Lines<T>& lines, Pair* to) const {
    for_each_frame([&](int64_t frame, int64_t place) {
      pair_rows(lines.at(frame), row_, joints_, row_, to + place * joint_pairs() * row_, row_);
    });
  }

  // Those by channels: (row, places, joint_pairs).
  int64_t turned_row() const { return row_length<Pair>(places_.count * joint_pairs()); }
  int64_t turned_size() const { return row_ * turned_row(); }
  void turn_joints(const Pair* pairs, Pair* to) const {
    transpose_pairs(pairs, row_, places_.count * joint_pairs(), row_, to, turned_row());
  }

 private:
  // By their places: what is written beyond the end of a frame is the next one's.
  template <class F>
  void for_each_frame(F f) const {
    for (int64_t place = 0; place < places_.count; ++place) {
      if (const int64_t frame = places_.frame_at(place); frame >= 0 && frame < frames_) {
        f(frame, place);
      }
    }
  }

  const Places& places_;
  const int64_t frames_, joints_, row_, joint_pairs_;
};

// How inputs are seen by outputs, in both passes.
inline Places places_of_inputs(const Problem& problem) {
  return {problem.out_frames, problem.taps, problem.stride, problem.dilation, problem.padding};
}

template <class S>
class TiledForward : ForwardClips<S> {
 public:
  using C = Compute<S>;

  TiledForward(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm, const Pair* weights,
               const S* bias, const Strided<S, 4>& y, const PartialMoments<C>& moments)
      : ForwardClips<S>(problem, x, norm, bias, y, moments) {
    const int64_t row = spectrum_row(problem.out_channels);
    for (int64_t k = 0; k < problem.taps; ++k) {
      const Run seeing = places_.outputs_of(k, problem.frames);
      terms_[k] = {pairs_ + places_.seen(k) * frames_.channel_frame(), weights + k * depth_ * row, depth_,
                   seeing.first * problem.joints, seeing.last * problem.joints};
    }
  }

  void run(int64_t task) {
    const Problem& problem = this->problem_;
    const int64_t first = task * problem.clips_at_once;
    for (int64_t clip = first; clip < smaller(first + problem.clips_at_once, problem.clips); ++clip) {
      run_clip(clip);
    }
  }

 private:
  void run_clip(int64_t clip) {
    const Problem& problem = this->problem_;
    with_rows(
        this->input_plane(this->x_, clip), !this->normed_, [&] { return this->input_lines(clip); },
        [&](const auto& lines) { frames_.pair_channels(lines, pairs_); });
    this->write(clip, [&](const Lines<C>& lines) {
      multiply_tiles(problem.out_frames * problem.joints, problem.out_channels, tile_depth(depth_),
                     {terms_, problem.taps}, frames_.channel_row(), spectrum_row(problem.out_channels),
                     {this->has_bias_ ? +this->bias_ : nullptr}, lines.data, this->out_row_);
    });
  }

  const Places places_ = places_of_inputs(this->problem_);
  const PlacedFrames frames_{places_, this->problem_.frames, this->problem_.joints, this->in_row_, 0};
  const int64_t depth_ = channel_pairs(this->problem_.in_channels);
  const Array<Pair> pairs_{frames_.channel_size() + lanes<C>};  // they are written in whole vectors
  const Array<TileTerm> terms_{this->problem_.taps};
};

template <class S>
class TiledBackward : BackwardClips<S> {
 public:
  using C = Compute<S>;

  TiledBackward(const Problem& problem, const Strided<const S, 4>& x, const Norm<C>& norm,
                const Strided<const S, 4>& grad_y, const Pair* weights, const Gradients<S>& gradients)
      : BackwardClips<S>(problem, x, norm, grad_y, gradients), weights_(weights) {}

  void run(int64_t chunk, int64_t chunks) {
    this->run_chunk(chunk, chunks, [&](int64_t first, int64_t last) {
      for (int64_t clip = first; clip < last; ++clip) {
        with_rows(
            this->gradient_plane(clip), true, [&] { return this->gradient_lines(clip); },
            [&](const auto& grad_y) { run_clip(clip, clip - first, grad_y); });
      }
      if (this->grad_weight_ != nullptr) {
        add_weight_gradient(last - first);
      }
    });
  }

 private:
  template <class T>
  void run_clip(int64_t clip, int64_t index, const Lines<T>& grad_y) {
    if (this->grad_bias_ != nullptr) {
      this->add_bias(grad_y);
    }
    if (this->grad_weight_ != nullptr) {
      out_frames_.pair_joints(grad_y, out_joints_ + index * out_frames_.joint_size());
      with_rows(
          this->input_plane(this->x_, clip), !this->normed_, [&] { return this->input_lines(clip); },
          [&](const auto& x) { in_frames_.pair_joints(x, in_joints_); });
      in_frames_.turn_joints(in_joints_, in_turned_ + index * in_frames_.turned_size());
    }
    if (this->gradients_.x.data != nullptr) {
      seen_frames_.pair_channels(grad_y, out_channels_);
      this->write(clip, [&](const Lines<C>& lines) { multiply_by_weights(lines); });
    }
  }

  // An input is seen by the outputs (frame + padding - dilation tap) / stride, so that inputs of one place modulo the
  // stride are seen by outputs that follow each other. Lines of several such places lie between each other.
  void multiply_by_weights(const Lines<C>& lines) {
    const Problem& problem = this->problem_;
    const int64_t row = spectrum_row(problem.in_channels), depth = channel_pairs(problem.out_channels);
    const int64_t run = problem.stride == 1 ? problem.frames : 1;
    for (int64_t frame = 0; frame < problem.frames; frame += run) {
      int64_t count = 0;
      for (int64_t k = 0; k < problem.taps; ++k) {
        const int64_t place = frame + problem.padding - problem.dilation * k;
        if (place % problem.stride == 0) {
          const int64_t output = place / problem.stride;
          terms_[count++] = {out_channels_ + (output + before_) * seen_frames_.channel_frame(),
                             weights_ + k * depth * row, depth, -output * problem.joints,
                             (problem.out_frames - output) * problem.joints};
        }
      }
      multiply_tiles(run * problem.joints, problem.in_channels, tile_depth(depth), {terms_, count},
                     seen_frames_.channel_row(), row, {}, lines.at(frame), this->in_row_);
    }
  }

  // Of some channels all taps, one after another: what they see of these is the same but for its beginning, and stays
  // in the innermost cache.
  void add_weight_gradient(int64_t clips) {
    constexpr int64_t BLOCK = 2 * TILE_SIDE;
    const Problem& problem = this->problem_;
    for (int64_t o = 0; o < problem.out_channels; o += BLOCK) {
      for (int64_t c = 0; c < problem.in_channels; c += BLOCK) {
        for (int64_t k = 0; k < problem.taps; ++k) {
          add_weight_gradient(clips, k, c, smaller(BLOCK, problem.in_channels - c), o,
                              smaller(BLOCK, problem.out_channels - o));
        }
      }
    }
  }

  void add_weight_gradient(int64_t clips, int64_t tap, int64_t in_channel, int64_t in_channels, int64_t out_channel,
                           int64_t out_channels) {
    const Problem& problem = this->problem_;
    const Run seeing =
        joint_pairs_ % TILE_SIDE == 0 ? in_places_.outputs_of(tap, problem.frames) : Run{0, problem.out_frames};
    const int64_t depth = (seeing.last - seeing.first) * joint_pairs_, row = spectrum_row(problem.out_channels);
    const Pair* const x =
        in_turned_ + in_channel * in_frames_.turned_row() + (in_places_.seen(tap) + seeing.first) * joint_pairs_;
    const Pair* const grad_y = out_joints_ + seeing.first * joint_pairs_ * this->out_row_ + out_channel;
    for (int64_t i = 0; i < clips; ++i) {
      terms_[i] = {x + i * in_frames_.turned_size(), grad_y + i * out_frames_.joint_size(), depth};
    }
    C* const sums = this->grad_weight_ + (tap * problem.in_channels + in_channel) * row + out_channel;
    multiply_tiles(in_channels, out_channels, tile_depth(problem.out_frames * joint_pairs_), {terms_, clips},
                   in_frames_.turned_row(), this->out_row_, {sums, row}, sums, row);
  }

  const Pair* const weights_;
  const bool for_weight_ = this->gradients_.weight != nullptr, for_x_ = this->gradients_.x.data != nullptr;
  const Array<TileTerm> terms_{larger(this->problem_.taps, this->problem_.clips_at_once)};

  // For the gradient of the weights.
  const int64_t at_once_ = for_weight_ ? this->problem_.clips_at_once : 0;
  const Places in_places_ = places_of_inputs(this->problem_);
  const Places out_places_{this->problem_.out_frames, 1, 1, 0, 0};
  const int64_t joint_pairs_ = joint_pairs(this->problem_.joints, this->problem_.out_frames);
  const PlacedFrames in_frames_{in_places_, this->problem_.frames, this->problem_.joints, this->in_row_, joint_pairs_};
  const PlacedFrames out_frames_{out_places_, this->problem_.out_frames, this->problem_.joints, this->out_row_,
                                 joint_pairs_};
  const Array<Pair> in_joints_{for_weight_ ? in_frames_.joint_size() : 0};
  const Array<Pair> in_turned_{at_once_ * in_frames_.turned_size(), Unwritten{}};
  const Array<Pair> out_joints_{at_once_ * out_frames_.joint_size()};

  // For that of x: outputs after some that there are none of, and before others.
  const int64_t before_ = larger(0, this->problem_.dilation*(this->problem_.taps - 1) - this->problem_.padding +
                                        this->problem_.stride - 1) /
                          this->problem_.stride;
  const int64_t seen_last_ = (this->problem_.frames - 1 + this->problem_.padding) / this->problem_.stride;
  const Places seen_places_{before_ + seen_last_ + 1, 1, 1, 0, before_};
  const PlacedFrames seen_frames_{seen_places_, this->problem_.out_frames, this->problem_.joints, this->out_row_, 0};
  const Array<Pair> out_channels_{for_x_ ? seen_frames_.channel_size() + lanes<C> : 0};
};

}  // namespace
}  // namespace ikem::temporal_conv::IKEM_SIMD_LEVEL

#endif
