// Compiled once per SIMD level (see common/simd.h).
//
// Joints run along the vectors: a tile, some frames of one part of a clip, becomes rows of positions (frame, joint),
// one for each channel, and each row is a matrix of frames by joints.
//   y += a^T b    g_a = b g_y^T    g_b = a g_y
// The floor is reading x once: there are `joints` multiply-adds for each of its values, two vectors of joints at most.
#include "common/planes.h"
#include "pairwise_products/kernel.h"

namespace ikem::pairwise_products::IKEM_SIMD_LEVEL {
namespace {

using namespace ::ikem::IKEM_SIMD_LEVEL;

template <class S>
class Pass {
 public:
  using C = Compute<S>;

  Pass(const Problem& problem, const Strided<const S, 4>& x) : problem_(problem), x_(x) {}

 protected:
  // Calls f(first frame, number of frames) for tile after tile.
  template <class F>
  void for_each_tile(F f) const {
    for (int64_t t = 0; t < problem_.frames; t += problem_.tile_frames) {
      f(t, smaller(problem_.tile_frames, problem_.frames - t));
    }
  }

  // Half 0, a, or 1, b, of a task's channels.
  template <class T>
  Plane<T> plane(const Strided<T, 4>& tensor, int64_t task, int64_t half, int64_t first, int64_t frames) const {
    const int64_t channel = (task % problem_.parts * 2 + half) * problem_.channels;
    return {tensor.data + task / problem_.parts * tensor.strides[0] + channel * tensor.strides[1] +
                first * tensor.strides[2],
            problem_.channels,
            tensor.strides[1],
            frames,
            tensor.strides[2],
            problem_.joints,
            tensor.strides[3]};
  }

  void read(int64_t task, int64_t first, int64_t frames) const {
    read_turned(plane(x_, task, 0, first, frames), +a_, row_);
    read_turned(plane(x_, task, 1, first, frames), +b_, row_);
  }

  const Problem& problem_;
  const Strided<const S, 4>& x_;
  const int64_t joints_ = problem_.joints;
  // Rows have room for a vector more: see `multiply`.
  const int64_t row_ = row_length<C>(problem_.tile_frames * joints_ + lanes<C>);
  const int64_t joint_row_ = row_length<C>(joints_);
  const Array<C> a_{problem_.channels * row_};
  const Array<C> b_{problem_.channels * row_};
};

template <class S>
class Forward : Pass<S> {
 public:
  using C = Compute<S>;

  Forward(const Problem& problem, const Strided<const S, 4>& x, S* y) : Pass<S>(problem, x), y_(y) {}

  void run(int64_t task) {
    const int64_t joints = this->joints_;
    set_zero(+sums_, sums_.size());
    this->for_each_tile([&](int64_t first, int64_t frames) {
      this->read(task, first, frames);
      for (int64_t c = 0; c < this->problem_.channels; ++c) {
        multiply<C>(joints, joints, frames, {this->a_ + c * this->row_, 1, joints}, this->b_ + c * this->row_, joints,
                    sums_, this->joint_row_, /*accumulate=*/true);
      }
    });
    for (int64_t v = 0; v < joints; ++v) {
      write_run(sums_ + v * this->joint_row_, joints, y_ + (task * joints + v) * joints);
    }
  }

 private:
  S* const y_;
  const Array<C> sums_{this->joints_ * this->joint_row_};
};

template <class S>
class Backward : Pass<S> {
 public:
  using C = Compute<S>;

  Backward(const Problem& problem, const Strided<const S, 4>& x, const S* grad_y, const Strided<S, 4>& grad_x)
      : Pass<S>(problem, x), grad_y_(grad_y), grad_x_(grad_x) {}

  void run(int64_t task) {
    const int64_t joints = this->joints_;
    const S* from = grad_y_ + task * joints * joints;
    read_rows(Plane<const S>{from, joints, 1, 1, 0, joints, joints}, +given_, this->joint_row_);
    read_rows(Plane<const S>{from, joints, joints, 1, 0, joints, 1}, +turned_, this->joint_row_);
    this->for_each_tile([&](int64_t first, int64_t frames) {
      this->read(task, first, frames);
      pass(this->b_, turned_, this->plane(grad_x_, task, 0, first, frames));
      pass(this->a_, given_, this->plane(grad_x_, task, 1, first, frames));
    });
  }

 private:
  void pass(const Array<C>& rows, const Array<C>& factor, const Plane<S>& to) {
    const int64_t joints = this->joints_;
    for (int64_t c = 0; c < to.channels; ++c) {
      multiply<C>(to.frames, joints, joints, {rows + c * this->row_, joints, 1}, factor, this->joint_row_,
                  gradient_ + c * this->row_, joints, /*accumulate=*/false);
    }
    write_turned(+gradient_, this->row_, to);
  }

  const S* const grad_y_;
  const Strided<S, 4>& grad_x_;
  const Array<C> given_{this->joints_ * this->joint_row_};
  const Array<C> turned_{this->joints_ * this->joint_row_};
  const Array<C> gradient_{this->problem_.channels * this->row_};
};

}  // namespace

template <class S>
void forward(const Problem& problem, const Strided<const S, 4>& x, S* y, int64_t first_task, int64_t last_task) {
  Forward<S> pass(problem, x, y);
  for (int64_t task = first_task; task < last_task; ++task) {
    pass.run(task);
  }
}

template <class S>
void backward(const Problem& problem, const Strided<const S, 4>& x, const S* grad_y, const Strided<S, 4>& grad_x,
              int64_t first_task, int64_t last_task) {
  Backward<S> pass(problem, x, grad_y, grad_x);
  for (int64_t task = first_task; task < last_task; ++task) {
    pass.run(task);
  }
}

#define INSTANTIATE(S)                                                                                           \
  template void forward<S>(const Problem&, const Strided<const S, 4>&, S*, int64_t, int64_t);                    \
  template void backward<S>(const Problem&, const Strided<const S, 4>&, const S*, const Strided<S, 4>&, int64_t, \
                            int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::pairwise_products::IKEM_SIMD_LEVEL
