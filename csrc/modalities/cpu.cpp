// Compiled once per SIMD level (see common/simd.h). A lane is one joint of one body in one frame; frames follow
// each other, so that whatever looks `k` frames ahead looks `k * L` lanes ahead, L lanes to a frame.
#include <algorithm>
#include <cassert>
#include <cstring>

#include "common/memory.h"
#include "modalities/kernel.h"
#include "modalities/math.h"

#define LANES _Pragma("omp simd") for

namespace ikem::modalities::IKEM_SIMD_LEVEL {
namespace {

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// The three coordinates of a run of lanes.
template <class C>
struct Planes {
  C* at[3];

  IKEM_INLINE Vec3<C> get(int64_t lane) const { return {at[0][lane], at[1][lane], at[2][lane]}; }
  IKEM_INLINE void set(int64_t lane, Vec3<C> value) const {
    at[0][lane] = value.x;
    at[1][lane] = value.y;
    at[2][lane] = value.z;
  }
  IKEM_INLINE void add(int64_t lane, Vec3<C> value) const { set(lane, get(lane) + value); }
};

// Memory for the planes of one tile, released with it.
template <class C>
class Scratch {
 public:
  Scratch(int64_t num_planes, int64_t lanes) : lanes_((lanes + 15) / 16 * 16), memory_(num_planes * lanes_) {}

  C* plane() {
    C* const plane = memory_ + used_;
    used_ += lanes_;
    assert(used_ <= memory_.size());
    return plane;
  }
  Planes<C> planes() { return {{plane(), plane(), plane()}}; }

 private:
  int64_t lanes_;
  Array<C> memory_;
  int64_t used_ = 0;
};

template <class C>
void fill_zero(Planes<C> planes, int64_t lanes) {
  for (C* plane : planes.at) {
    LANES (int64_t i = 0; i < lanes; ++i) {
      plane[i] = 0;
    }
  }
}

// A tile of frames: what the forward and the backward pass share.
template <class S>
class Tile {
 public:
  using C = Compute<S>;

  Tile(const Problem& problem, Clips<const S> joints)
      : problem_(problem), skeleton_(problem.skeleton), joints_(joints), L(problem.lanes()) {}

 protected:
  // Some frames of a tensor (..., T, V, M), given its last three strides, to consecutive lanes.
  void read_frames(const S* data, const int64_t* strides, int64_t frames, C* lanes) const {
    const int64_t bodies = problem_.bodies;
    const bool dense = strides[1] == bodies && (strides[2] == 1 || bodies == 1);
    if (dense && (strides[0] == L || frames == 1)) {
      LANES (int64_t i = 0; i < frames * L; ++i) {
        lanes[i] = widen(data[i]);
      }
      return;
    }
    for (int64_t t = 0; t < frames; ++t, lanes += L, data += strides[0]) {
      for (int64_t v = 0; v < skeleton_.num_joints; ++v) {
        for (int64_t m = 0; m < bodies; ++m) {
          lanes[v * bodies + m] = widen(data[v * strides[1] + m * strides[2]]);
        }
      }
    }
  }

  // Frames [first, last) of the augmented clip; those outside of the clip are zero.
  void load_joints(int64_t clip, int64_t first, int64_t last, Planes<C> planes) const {
    const int64_t shift = problem_.shift(clip);
    const int64_t source = problem_.source(clip);
    // Frames that follow each other in the input too: those that were not mirrored.
    const int64_t plain_begin = larger(0, -shift);
    const int64_t plain_end = smaller(problem_.frames, problem_.frames - shift);
    for (int64_t t = first, frames = 1; t < last; t += frames) {
      frames = t >= plain_begin && t < plain_end ? smaller(last, plain_end) - t : 1;
      for (int c = 0; c < 3; ++c) {
        C* const lanes = planes.at[c] + (t - first) * L;
        if (t < 0 || t >= problem_.frames) {
          std::fill_n(lanes, L, C(0));
        } else {
          const int64_t* strides = joints_.strides;
          read_frames(joints_.data + source * strides[0] + c * strides[1] + problem_.mirrored(t + shift) * strides[2],
                      strides + 2, frames, lanes);
        }
      }
    }
    if (problem_.shear != nullptr) {
      shear(clip, (last - first) * L, planes, /*transposed=*/false);
    }
  }

  void shear(int64_t clip, int64_t lanes, Planes<C> planes, bool transposed) const {
    const C* r = static_cast<const C*>(problem_.shear) + 9 * clip;
    const int64_t down = transposed ? 1 : 3;
    const int64_t right = transposed ? 3 : 1;
    // No structures named in the loop, which would keep GCC from vectorizing.
    const C xx = r[0], xy = r[right], xz = r[2 * right];
    const C yx = r[down], yy = r[down + right], yz = r[down + 2 * right];
    const C zx = r[2 * down], zy = r[2 * down + right], zz = r[2 * down + 2 * right];
    C* const x = planes.at[0];
    C* const y = planes.at[1];
    C* const z = planes.at[2];
    LANES (int64_t i = 0; i < lanes; ++i) {
      const C a = x[i], b = y[i], c = z[i];
      x[i] = xx * a + xy * b + xz * c;
      y[i] = yx * a + yy * b + yz * c;
      z[i] = zx * a + zy * b + zz * c;
    }
  }

  // to[joint] = from[other[joint]] in each frame
  void gather(Planes<C> from, const int16_t* other, int64_t rows, Planes<C> to) const {
    switch (problem_.bodies) {
      case 1:
        return gather_bodies(from, other, rows, to, [] { return int64_t{1}; });
      case 2:
        return gather_bodies(from, other, rows, to, [] { return int64_t{2}; });
      default:
        return gather_bodies(from, other, rows, to, [this] { return int64_t{problem_.bodies}; });
    }
  }

  template <class Bodies>
  IKEM_INLINE void gather_bodies(Planes<C> from, const int16_t* other, int64_t rows, Planes<C> to,
                                 Bodies num_bodies) const {
    const int64_t bodies = num_bodies();
    for (int64_t row = 0; row < rows * L; row += L) {
      const C* const source[3] = {from.at[0] + row, from.at[1] + row, from.at[2] + row};
      C* const target[3] = {to.at[0] + row, to.at[1] + row, to.at[2] + row};
      for (int64_t v = 0; v < skeleton_.num_joints; ++v) {
        const int64_t lane = other[v] * bodies;
        for (int c = 0; c < 3; ++c) {
          std::memcpy(target[c] + v * bodies, source[c] + lane, bodies * sizeof(C));
        }
      }
    }
  }

  // Calls f(lane of joint 0) for each body in each frame.
  template <class F>
  void for_each_body(int64_t rows, F f) const {
    for (int64_t row = 0; row < rows * L; row += L) {
      for (int64_t m = 0; m < problem_.bodies; ++m) {
        f(row + m);
      }
    }
  }

  int64_t lane_of(int64_t joint) const { return joint * problem_.bodies; }

  void derive_bones(Planes<C> x, int64_t rows, Planes<C> bone) const {
    gather(x, skeleton_.parents, rows, bone);
    for (int c = 0; c < 3; ++c) {
      LANES (int64_t i = 0; i < rows * L; ++i) {
        bone.at[c][i] = x.at[c][i] - bone.at[c][i];
      }
    }
    for_each_body(rows, [&](int64_t body) {
      bone.set(body + lane_of(skeleton_.root),
               torso_normal(bone.get(body + lane_of(skeleton_.spine)), bone.get(body + lane_of(skeleton_.left)),
                            bone.get(body + lane_of(skeleton_.right))));
    });
  }

  // The bone that each bone forms its angle with; zero for a joint that is its own partner, which makes its angle
  // and its axis zero.
  void find_partners(Planes<C> bone, int64_t rows, Planes<C> partner) const {
    gather(bone, skeleton_.partners, rows, partner);
    for (int64_t v = 0; v < skeleton_.num_joints; ++v) {
      if (skeleton_.partners[v] == v) {
        for_each_body(rows, [&](int64_t body) { partner.set(body + lane_of(v), {0, 0, 0}); });
      }
    }
  }

  void derive_angles(Planes<C> bone, Planes<C> partner, int64_t rows, C* angle, Planes<C> axis) const {
    LANES (int64_t i = 0; i < rows * L; ++i) {
      angle[i] = angle_between(bone.get(i), partner.get(i));
      axis.set(i, normalize(cross(bone.get(i), partner.get(i))));
    }
  }

  C scale(int64_t clip) const {
    return static_cast<C>(problem_.reference_frames) / static_cast<C>(problem_.num_frames[problem_.source(clip)]);
  }

  const Problem& problem_;
  const Skeleton& skeleton_;
  const Clips<const S> joints_;
  const int64_t L;  // lanes to a frame
};

template <class S>
class Forward : Tile<S> {
  using C = Compute<S>;
  using Tile<S>::problem_;
  using Tile<S>::L;

 public:
  Forward(const Problem& problem, Clips<const S> joints, S* out)
      : Tile<S>(problem, joints), out_(out), scratch_(13, (cpu_tile_frames(problem) + 2) * L) {}

  void derive(int64_t clip, int64_t begin, int64_t end) {
    const C s = this->scale(clip);
    const int64_t lanes = (end - begin) * L;
    this->load_joints(clip, begin, smaller(end + 2, problem_.frames), x_);
    const int64_t ahead = L;
    write(JOINT, clip, begin, lanes, lanes, [&](int c) {
      const C* const x = x_.at[c];
      return [=](int64_t i) { return x[i]; };
    });
    write(MOTION, clip, begin, lanes, lanes_ahead(begin, end, 1), [&](int c) {
      const C* const x = x_.at[c];
      return [=](int64_t i) { return s * (x[i + ahead] - x[i]); };
    });
    write(ACCELERATION, clip, begin, lanes, lanes_ahead(begin, end, 2), [&](int c) {
      const C* const x = x_.at[c];
      return [=](int64_t i) { return s * (s * (x[i + 2 * ahead] - x[i + ahead]) - s * (x[i + ahead] - x[i])); };
    });
    if (!problem_.wants(BONE) && !problem_.wants(ROTATION_AXIS) && !problem_.wants(ANGULAR_VELOCITY)) {
      return;
    }
    const int64_t rows = smaller(end + 1, problem_.frames) - begin;
    this->derive_bones(x_, rows, bone_);
    write(BONE, clip, begin, lanes, lanes, [&](int c) {
      const C* const bone = bone_.at[c];
      return [=](int64_t i) { return bone[i]; };
    });
    if (!problem_.wants(ROTATION_AXIS) && !problem_.wants(ANGULAR_VELOCITY)) {
      return;
    }
    this->find_partners(bone_, rows, partner_);
    write(ROTATION_AXIS, clip, begin, lanes, lanes, [&](int c) {
      const int d = (c + 1) % 3;
      const int e = (c + 2) % 3;
      const C *const bone_d = bone_.at[d], *const bone_e = bone_.at[e];
      const C *const partner_d = partner_.at[d], *const partner_e = partner_.at[e];
      return [=](int64_t i) { return bone_d[i] * partner_e[i] - bone_e[i] * partner_d[i]; };
    });
    if (problem_.wants(ANGULAR_VELOCITY)) {
      this->derive_angles(bone_, partner_, rows, angle_, axis_);
      write(ANGULAR_VELOCITY, clip, begin, lanes, lanes_ahead(begin, end, 1), [&](int c) {
        const C *const angle = angle_, *const axis = axis_.at[c];
        return [=](int64_t i) { return s * (angle[i + ahead] - angle[i]) * axis[i]; };
      });
    }
  }

 private:
  // The lanes of frames [begin, end) that have `reach` more frames after them.
  int64_t lanes_ahead(int64_t begin, int64_t end, int64_t reach) const {
    return larger(smaller(end, problem_.frames - reach) - begin, 0) * L;
  }

  // Writes `value_of(coordinate)(lane)` where it is known and zero after. What is called with lanes holds copies of
  // pointers, which the compiler can tell are not changed by what the loop writes.
  template <class F>
  IKEM_INLINE void write(Modality modality, int64_t clip, int64_t begin, int64_t lanes, int64_t known, F value_of) {
    if (!problem_.wants(modality)) {
      return;
    }
    for (int c = 0; c < 3; ++c) {
      const int64_t plane = (problem_.slots[modality] * problem_.clips + clip) * 3 + c;
      S* const out = out_ + (plane * problem_.frames + begin) * L;
      const auto value = value_of(c);
      LANES (int64_t i = 0; i < known; ++i) {
        out[i] = narrow<S>(value(i));
      }
      for (int64_t i = known; i < lanes; ++i) {
        out[i] = narrow<S>(C(0));
      }
    }
  }

  S* out_;
  Scratch<C> scratch_;
  const Planes<C> x_ = scratch_.planes();
  const Planes<C> bone_ = scratch_.planes();
  const Planes<C> partner_ = scratch_.planes();
  const Planes<C> axis_ = scratch_.planes();
  C* const angle_ = scratch_.plane();
};

template <class S>
class Backward : Tile<S> {
  using C = Compute<S>;
  using Tile<S>::problem_;
  using Tile<S>::skeleton_;
  using Tile<S>::L;
  using Tile<S>::lane_of;

 public:
  Backward(const Problem& problem, Clips<const S> joints, DerivedClips<const S> grad_out, S* grad_joints)
      : Tile<S>(problem, joints),
        grad_out_(grad_out),
        grad_joints_(grad_joints),
        scratch_(33, (cpu_tile_frames(problem) + 2) * L) {}

  // The gradient for frames [begin, end) of the input. With a mirrored crop each of them stands at up to three
  // places of the augmented clip: where it was, and mirrored at the start and at the end.
  void derive(int64_t clip, int64_t begin, int64_t end) {
    const int64_t lanes = (end - begin) * L;
    const int64_t T = problem_.frames;
    const int64_t shift = problem_.shift(clip);
    fill_zero(total_, lanes);
    add_place(clip, begin, begin - shift, end - shift);
    if (problem_.crop_start != nullptr) {
      add_place(clip, begin, -end - shift, -begin - shift);
      add_place(clip, begin, 2 * T - end - shift, 2 * T - begin - shift);
    }
    if (problem_.shear != nullptr) {
      this->shear(clip, lanes, total_, /*transposed=*/true);
    }
    for (int c = 0; c < 3; ++c) {
      S* out = grad_joints_ + ((clip * 3 + c) * T + begin) * L;
      LANES (int64_t i = 0; i < lanes; ++i) {
        out[i] = narrow<S>(total_.at[c][i]);
      }
    }
  }

 private:
  // Adds the gradient for frames [first, last) of the augmented clip, as far as there are such, to the rows of the
  // input's frames that they were taken from, of which row 0 is `begin`.
  void add_place(int64_t clip, int64_t begin, int64_t first, int64_t last) {
    first = larger(first, 0);
    last = smaller(last, problem_.frames);
    if (first >= last) {
      return;
    }
    derive_augmented(clip, first, last);
    for (int64_t t = first; t < last; ++t) {
      const int64_t row = (problem_.mirrored(t + problem_.shift(clip)) - begin) * L;
      for (int c = 0; c < 3; ++c) {
        const C* from = gradient_.at[c] + (t - first) * L;
        C* to = total_.at[c] + row;
        LANES (int64_t i = 0; i < L; ++i) {
          to[i] += from[i];
        }
      }
    }
  }

  // The gradient for frames [first, last) of the augmented clip.
  void derive_augmented(int64_t clip, int64_t first, int64_t last) {
    const int64_t T = problem_.frames;
    const int64_t lanes = (last - first) * L;
    const C s = this->scale(clip);
    load_gradient(JOINT, clip, first, last, T, gradient_);
    if (problem_.wants(MOTION)) {
      load_gradient(MOTION, clip, first - 1, last, T - 1, g_out_);
      for (int c = 0; c < 3; ++c) {
        const C* g = g_out_.at[c];
        LANES (int64_t i = 0; i < lanes; ++i) {
          gradient_.at[c][i] += s * (g[i] - g[i + L]);
        }
      }
    }
    if (problem_.wants(ACCELERATION)) {
      load_gradient(ACCELERATION, clip, first - 2, last, T - 2, g_out_);
      for (int c = 0; c < 3; ++c) {
        const C* g = g_out_.at[c];
        LANES (int64_t i = 0; i < lanes; ++i) {
          gradient_.at[c][i] += s * s * (g[i] - 2 * g[i + L] + g[i + 2 * L]);
        }
      }
    }
    if (problem_.wants(BONE) || problem_.wants(ROTATION_AXIS) || problem_.wants(ANGULAR_VELOCITY)) {
      add_bones(clip, first, last, s);
    }
  }

  // Row 0 of x, bone, partner, angle and axis is the frame before `first`, which angular velocity looks back to.
  void add_bones(int64_t clip, int64_t first, int64_t last, C s) {
    const int64_t rows = last - first;
    const int64_t lanes = rows * L;
    this->load_joints(clip, first - 1, last + 1, x_);
    this->derive_bones(x_, rows + 2, bone_);
    load_gradient(BONE, clip, first, last, problem_.frames, g_bone_);
    if (problem_.wants(ROTATION_AXIS) || problem_.wants(ANGULAR_VELOCITY)) {
      this->find_partners(bone_, rows + 2, partner_);
      load_gradient(ROTATION_AXIS, clip, first, last, problem_.frames, g_axis_);
      std::fill_n(g_angle_, lanes, C(0));
      if (problem_.wants(ANGULAR_VELOCITY)) {
        add_angular_velocity(clip, first, last, s);
      }
      // Copies, which the compiler can tell are not changed by what the loop writes.
      const Planes<C> bone = bone_, partner = partner_, g_axis = g_axis_, g_bone = g_bone_, g_partner = g_partner_;
      const C* const g_angle = g_angle_;
      const int64_t ahead = L;
      LANES (int64_t i = 0; i < lanes; ++i) {
        // No named structures, which would keep GCC from vectorizing.
        g_bone.add(i, rotation_gradient(bone.get(i + ahead), partner.get(i + ahead), g_axis.get(i), g_angle[i]));
        g_partner.set(
            i, rotation_gradient(partner.get(i + ahead), bone.get(i + ahead), C(-1) * g_axis.get(i), g_angle[i]));
      }
      for_each_joint(rows, [&](int64_t body, int64_t joint) {
        if (skeleton_.partners[joint] != joint) {
          g_bone_.add(body + lane_of(skeleton_.partners[joint]), g_partner_.get(body + lane_of(joint)));
        }
      });
    }
    add_torso_normal(rows);
    for_each_joint(rows, [&](int64_t body, int64_t joint) {
      if (joint != skeleton_.root) {
        const Vec3<C> g = g_bone_.get(body + lane_of(joint));
        gradient_.add(body + lane_of(joint), g);
        gradient_.add(body + lane_of(skeleton_.parents[joint]), C(-1) * g);
      }
    });
  }

  // Sets the gradients of the angles and adds to those of the axes.
  void add_angular_velocity(int64_t clip, int64_t first, int64_t last, C s) {
    const int64_t lanes = (last - first) * L;
    this->derive_angles(bone_, partner_, last - first + 2, angle_, axis_);
    load_gradient(ANGULAR_VELOCITY, clip, first - 1, last, problem_.frames - 1, g_out_);
    const Planes<C> bone = bone_, partner = partner_, axis = axis_, g_out = g_out_, g_axis = g_axis_;
    const C* const angle = angle_;
    C* const g_angle = g_angle_;
    C* const g_turn = g_turn_;
    const int64_t ahead = L;
    LANES (int64_t i = 0; i < lanes + ahead; ++i) {
      g_turn[i] = s * dot(g_out.get(i), axis.get(i));
    }
    LANES (int64_t i = 0; i < lanes; ++i) {
      g_angle[i] = g_turn[i] - g_turn[i + ahead];
      const C turn = s * (angle[i + 2 * ahead] - angle[i + ahead]);
      g_axis.add(i,
                 normalize_gradient(cross(bone.get(i + ahead), partner.get(i + ahead)), turn * g_out.get(i + ahead)));
    }
  }

  // Passes the gradient of the root's bone, the normal of the torso, on to the bones that it was made from.
  void add_torso_normal(int64_t rows) {
    this->for_each_body(rows, [&](int64_t body) {
      const int64_t root = body + lane_of(skeleton_.root);
      const int64_t spine = body + lane_of(skeleton_.spine);
      const int64_t left = body + lane_of(skeleton_.left);
      const int64_t right = body + lane_of(skeleton_.right);
      // In place of the root's own bone, which has no length, the normal stands by now.
      const auto bone = [&](int64_t lane) { return lane == root ? Vec3<C>{0, 0, 0} : bone_.get(lane + L); };
      const Torso<C> bones = {bone(spine), bone(left), bone(right)};
      const Torso<C> g = torso_normal_gradient(bones, g_bone_.get(root));
      g_bone_.add(spine, g.spine);
      g_bone_.add(left, g.left);
      g_bone_.add(right, g.right);
    });
  }

  template <class F>
  void for_each_joint(int64_t rows, F f) const {
    this->for_each_body(rows, [&](int64_t body) {
      for (int64_t joint = 0; joint < skeleton_.num_joints; ++joint) {
        f(body, joint);
      }
    });
  }

  // The output's gradient for frames [first, last) of a modality; zero outside of [0, end), and throughout if the
  // modality was not asked for.
  void load_gradient(Modality modality, int64_t clip, int64_t first, int64_t last, int64_t end, Planes<C> planes) {
    const int64_t slot = problem_.slots[modality];
    const int64_t* strides = grad_out_.strides;
    for (int c = 0; c < 3; ++c) {
      const S* data = grad_out_.data + slot * grad_out_.modality_stride + clip * strides[0] + c * strides[1];
      C* const lanes = planes.at[c];
      // Frames [begin, known) of those asked for are there.
      const int64_t begin = slot < 0 ? last : larger(first, 0);
      const int64_t known = larger(smaller(last, end), begin);
      std::fill_n(lanes, (begin - first) * L, C(0));
      this->read_frames(data + begin * strides[2], strides + 2, known - begin, lanes + (begin - first) * L);
      std::fill_n(lanes + (known - first) * L, (last - known) * L, C(0));
    }
  }

  const DerivedClips<const S> grad_out_;
  S* grad_joints_;
  Scratch<C> scratch_;
  const Planes<C> x_ = scratch_.planes();
  const Planes<C> bone_ = scratch_.planes();
  const Planes<C> partner_ = scratch_.planes();
  const Planes<C> axis_ = scratch_.planes();
  C* const angle_ = scratch_.plane();
  const Planes<C> g_out_ = scratch_.planes();
  const Planes<C> g_bone_ = scratch_.planes();
  const Planes<C> g_partner_ = scratch_.planes();
  const Planes<C> g_axis_ = scratch_.planes();
  C* const g_angle_ = scratch_.plane();
  C* const g_turn_ = scratch_.plane();
  const Planes<C> gradient_ = scratch_.planes();
  const Planes<C> total_ = scratch_.planes();
};

template <class Pass>
void run_tasks(const Problem& problem, Pass& pass, int64_t first_task, int64_t last_task) {
  const int64_t tile = cpu_tile_frames(problem);
  const int64_t tiles = cpu_tiles_per_clip(problem);
  for (int64_t task = first_task; task < last_task; ++task) {
    const int64_t begin = task % tiles * tile;
    pass.derive(task / tiles, begin, smaller(begin + tile, problem.frames));
  }
}

}  // namespace

template <class S>
void forward(const Problem& problem, Clips<const S> joints, S* out, int64_t first_task, int64_t last_task) {
  Forward<S> pass(problem, joints, out);
  run_tasks(problem, pass, first_task, last_task);
}

template <class S>
void backward(const Problem& problem, Clips<const S> joints, DerivedClips<const S> grad_out, S* grad_joints,
              int64_t first_task, int64_t last_task) {
  Backward<S> pass(problem, joints, grad_out, grad_joints);
  run_tasks(problem, pass, first_task, last_task);
}

#define INSTANTIATE(S)                                                            \
  template void forward<S>(const Problem&, Clips<const S>, S*, int64_t, int64_t); \
  template void backward<S>(const Problem&, Clips<const S>, DerivedClips<const S>, S*, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::modalities::IKEM_SIMD_LEVEL
