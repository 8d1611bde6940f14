// Which frames meet in a convolution over time, and in the one that gives the gradient of its input.
#pragma once

#include <numeric>

#include "common/integers.h"
#include "temporal_conv/kernel.h"

namespace ikem::temporal_conv::cuda {
namespace {

// Outputs that lie Frames::out_step apart. By its i-th tap, which is the kernel's tap first_tap + tap_step i, the u-th
// of them meets the input frame first_in + Frames::in_step (Frames::stride u + i).
struct Class {
  int64_t first_in;
  int taps, first_tap, tap_step;
};

// With g the greatest common divisor of stride and dilation, d' = dilation / g and s' = stride / g:
//
// The operation has d' classes. Its output t = d' u + c meets stride t + dilation k - padding, which is
// dilation (s' u + k) + stride c - padding.
//
// The gradient of the input has stride d' classes, c = stride r + q with q < stride. Its output, the frame
// stride d' u + c, meets those frames t for which stride t + dilation k - padding is that one. The first such tap,
// k0 < s', follows from q, or there is none; the others are k0 + s' i, with
// t = d' (u - i) + r + (q + padding - dilation k0) / stride. Here the last of them comes first.
struct Frames {
  int64_t in, out;  // how many there are
  int64_t classes;  // the c-th begins with the output c
  int64_t out_step, in_step;
  int stride, taps;  // taps: the most that a class has
  bool for_gradient;

  int64_t kernel_stride, dilation, padding;
  int kernel_taps, tap_step;  // tap_step: s'

  IKEM_INLINE int64_t outputs(int64_t c) const { return divide_up(out - c, out_step); }

  __device__ Class at(int64_t c) const {
    if (!for_gradient) {
      return {kernel_stride * c - padding, kernel_taps, 0, 1};
    }
    const int64_t reach = c % kernel_stride + padding;
    const int first_taps = smaller(tap_step, kernel_taps);
    int tap = 0;
    while (tap < first_taps && (reach - dilation * tap) % kernel_stride != 0) {
      ++tap;
    }
    if (tap == first_taps) {
      return {0, 0, 0, 0};
    }
    const int last = (kernel_taps - 1 - tap) / tap_step;
    return {c / kernel_stride + (reach - dilation * tap) / kernel_stride - in_step * last, last + 1,
            tap + tap_step * last, -tap_step};
  }
};

Frames make_frames(const Problem& problem, bool for_gradient) {
  // A number that nothing depends on is 1.
  const int64_t stride = problem.out_frames > 1 ? problem.stride : 1;
  const int64_t dilation = problem.taps > 1 ? problem.dilation : 1;
  const int64_t divisor = std::gcd(stride, dilation);
  const int64_t turns = dilation / divisor;
  const auto taps = static_cast<int>(problem.taps), tap_step = static_cast<int>(stride / divisor);
  Frames frames{problem.frames, problem.out_frames, turns,           turns, dilation, tap_step, taps, false,
                stride,         dilation,           problem.padding, taps,  tap_step};
  if (for_gradient) {
    frames.in = problem.out_frames;
    frames.out = problem.frames;
    frames.classes = frames.out_step = stride * turns;
    frames.in_step = turns;
    frames.stride = 1;
    frames.taps = divide_up(taps, tap_step);
    frames.for_gradient = true;
  }
  frames.classes = smaller(frames.classes, frames.out);
  return frames;
}

}  // namespace
}  // namespace ikem::temporal_conv::cuda
