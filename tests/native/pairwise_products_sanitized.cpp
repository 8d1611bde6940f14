// The kernels of the pairwise products over many shapes, against the formula written out. Meant to be built with
// -fsanitize=address,undefined; ends with 0 if all agree.
#include "pairwise_products/kernel.h"
#include "values.h"

using namespace ikem::pairwise_products;
using ikem::Strided;

namespace {

bool check(const Problem& problem, bool channels_last) {
  const auto [clips, parts, half, frames, joints, tile_frames] = problem;
  const int64_t channels = parts * 2 * half, clip = channels * frames * joints, scores = joints * joints;
  const Values x = random_values(clips * clip), grad_y = random_values(clips * parts * scores);
  Values y(grad_y.size(), NAN), grad_x(x.size(), NAN), expected(grad_y.size()), expected_grad(x.size());
  const Strided<const double, 4> from = channels_last
                                            ? Strided<const double, 4>{x.data(), {clip, 1, joints * channels, channels}}
                                            : Strided<const double, 4>{x.data(), {clip, frames * joints, joints, 1}};
  const Strided<double, 4> to{grad_x.data(), {from.strides[0], from.strides[1], from.strides[2], from.strides[3]}};
  const auto at = [&](int64_t n, int64_t c, int64_t t, int64_t v) {
    return n * from.strides[0] + c * from.strides[1] + t * from.strides[2] + v * from.strides[3];
  };
  for (int64_t task = 0; task < clips * parts; ++task) {
    for (int64_t c = 0; c < half; ++c) {
      const int64_t a = task % parts * 2 * half + c, b = a + half, n = task / parts;
      for (int64_t t = 0; t < frames; ++t) {
        for (int64_t v = 0; v < joints; ++v) {
          for (int64_t w = 0; w < joints; ++w) {
            const int64_t score = task * scores + v * joints + w, of_a = at(n, a, t, v), of_b = at(n, b, t, w);
            expected[score] += x[of_a] * x[of_b];
            expected_grad[of_a] += grad_y[score] * x[of_b];
            expected_grad[of_b] += grad_y[score] * x[of_a];
          }
        }
      }
    }
  }
  plain::forward<double>(problem, from, y.data(), 0, clips * parts);
  plain::backward<double>(problem, from, grad_y.data(), to, 0, clips * parts);
  return agree("y", expected, y) && agree("gradient of x", expected_grad, grad_x);
}

}  // namespace

int main() {
  bool good = true;
  for (const bool channels_last : {false, true}) {
    for (const int64_t half : {1, 3, 16, 19}) {
      for (const int64_t joints : {1, 5, 17, 25}) {
        for (const int64_t frames : {1, 2, 9}) {
          good = good && check({2, 3, half, frames, joints, frames}, channels_last);
          good = good && check({1, 1, half, frames, joints, (frames + 1) / 2}, channels_last);
        }
      }
    }
  }
  return good ? 0 : 1;
}
