// A block derives a tile of frames of one clip at a time, in shared memory, from where whole runs of lanes are written.
// As in cpu.cpp a lane is one joint of one body in one frame, L lanes to a frame, and the lanes of a tile are numbered
// through its frames, as they follow each other in the output.
#include <algorithm>

#include "common/integers.h"
#include "common/launch.h"
#include "common/pack.h"
#include "modalities/kernel.h"
#include "modalities/math.h"

namespace ikem::modalities::cuda {
namespace {

using namespace ::ikem::cuda;

constexpr int THREADS = 256;
constexpr int64_t TILE_LANES = 1024;
constexpr int64_t MAX_CLIPS = 65535;  // along the second axis of a grid

// How a block's threads walk over the lanes of a tile, or over packs of them. Made on the host, so that the threads
// need not divide.
struct Walk {
  int lanes, row_step, lane_step;
  unsigned reciprocal;

  explicit Walk(int64_t lanes)
      : lanes(static_cast<int>(lanes)),
        row_step(static_cast<int>(THREADS / lanes)),
        lane_step(static_cast<int>(THREADS % lanes)),
        reciprocal(static_cast<unsigned>((65535 + lanes) / lanes)) {}

  // Calls f(index in the tile, frame in the tile, lane in the frame) for this thread's lanes of `rows` frames.
  template <class F>
  __device__ void operator()(int rows, F f) const {
    int row = static_cast<int>(threadIdx.x * reciprocal >> 16);  // threadIdx.x / lanes, for as many as 256 threads
    int lane = static_cast<int>(threadIdx.x) - row * lanes;
    for (int i = threadIdx.x; i < rows * lanes; i += THREADS) {
      f(i, row, lane);
      lane += lane_step;
      row += row_step;
      if (lane >= lanes) {
        lane -= lanes;
        ++row;
      }
    }
  }
};

// How the input is read: `width` lanes of a frame at once.
struct Reading {
  int width;
  Walk lanes, packs;
};

// For each joint the others that name it, in ascending order: the reverse of a table of parents or partners.
struct Children {
  int16_t first[MAX_JOINTS + 1];  // into `joints`, one more than there are joints
  int16_t joints[MAX_JOINTS];
};

Children reverse(const int16_t* table, int32_t num_joints) {
  Children children{};
  int16_t count = 0;
  for (int32_t joint = 0; joint < num_joints; ++joint) {
    children.first[joint] = count;
    for (int32_t child = 0; child < num_joints; ++child) {
      if (table[child] == joint && child != joint) {
        children.joints[count++] = static_cast<int16_t>(child);
      }
    }
  }
  children.first[num_joints] = count;
  return children;
}

// The three coordinates of a run of lanes.
template <class C>
struct Planes {
  C* first;
  int stride;

  __device__ C* plane(int coordinate) const { return first + coordinate * stride; }
  __device__ Vec3<C> get(int lane) const { return {first[lane], first[lane + stride], first[lane + 2 * stride]}; }
  __device__ void set(int lane, Vec3<C> value) const {
    first[lane] = value.x;
    first[lane + stride] = value.y;
    first[lane + 2 * stride] = value.z;
  }
  __device__ void add(int lane, Vec3<C> value) const { set(lane, get(lane) + value); }
};

template <class C>
__host__ __device__ Planes<C> take_planes(SharedArrays& shared, int64_t lanes) {
  const int64_t stride = (lanes + 3) / 4 * 4;  // so that each plane starts where a pack may
  return {shared.take<C>(3 * stride), static_cast<int>(stride)};
}

// The lanes of the skeleton in one frame: where to find each in the input, and its neighbors' lanes.
struct LaneTables {
  int32_t* parent;   // the root's is itself
  int32_t* partner;  // -1: none
  int64_t* offset;

  __host__ __device__ LaneTables(SharedArrays& shared, int64_t lanes) {
    offset = shared.take<int64_t>(lanes);
    parent = shared.take<int32_t>(lanes);
    partner = shared.take<int32_t>(lanes);
  }

  __device__ void fill(const Problem& problem, const int64_t* strides) const {
    const int bodies = problem.bodies;
    const int lanes = problem.skeleton.num_joints * bodies;
    for (int lane = threadIdx.x; lane < lanes; lane += THREADS) {
      const int joint = lane / bodies;
      const int body = lane % bodies;
      const int other = problem.skeleton.partners[joint];
      parent[lane] = problem.skeleton.parents[joint] * bodies + body;
      partner[lane] = other == joint ? -1 : other * bodies + body;
      offset[lane] = joint * strides[3] + body * strides[4];
    }
  }
};

// Where each lane is found in the output's gradient, and which lanes take it for their parent or partner.
struct GradientTables {
  int64_t* offset;
  int32_t* joint;
  int16_t *children, *first_child;
  int16_t *partnered, *first_partnered;

  __host__ __device__ GradientTables(SharedArrays& shared, int64_t lanes, int64_t joints) {
    offset = shared.take<int64_t>(lanes);
    joint = shared.take<int32_t>(lanes);
    children = shared.take<int16_t>(joints);
    first_child = shared.take<int16_t>(joints + 1);
    partnered = shared.take<int16_t>(joints);
    first_partnered = shared.take<int16_t>(joints + 1);
  }

  __device__ void fill(const Problem& problem, const int64_t* strides, const Children& by_parent,
                       const Children& by_partner) const {
    const int bodies = problem.bodies;
    const int joints = problem.skeleton.num_joints;
    for (int lane = threadIdx.x; lane < joints * bodies; lane += THREADS) {
      joint[lane] = lane / bodies;
      offset[lane] = joint[lane] * strides[3] + lane % bodies * strides[4];
    }
    for (int i = threadIdx.x; i <= joints; i += THREADS) {
      first_child[i] = by_parent.first[i];
      first_partnered[i] = by_partner.first[i];
      if (i < joints) {
        children[i] = by_parent.joints[i];
        partnered[i] = by_partner.joints[i];
      }
    }
  }
};

// Room for the two frames after the tile that acceleration looks ahead to.
template <class C>
struct ForwardShared {
  LaneTables tables;
  Planes<C> x, bone, axis;
  C* angle;

  __host__ __device__ ForwardShared(SharedArrays& shared, const Problem& problem, int64_t frames)
      : tables(shared, problem.lanes()) {
    const int64_t lanes = problem.lanes();
    x = take_planes<C>(shared, (frames + 2) * lanes);
    bone = take_planes<C>(shared, (frames + 1) * lanes);
    axis = take_planes<C>(shared, frames * lanes);
    angle = shared.take<C>((frames + 1) * lanes);
  }
};

// Room for a frame before the tile, which angular velocity looks back to, and one after.
template <class C>
struct BackwardShared {
  LaneTables tables;
  GradientTables gradient_tables;
  Planes<C> x, bone, g_bone, g_partner, total;
  C* angle;
  C* g_turn;

  __host__ __device__ BackwardShared(SharedArrays& shared, const Problem& problem, int64_t frames)
      : tables(shared, problem.lanes()), gradient_tables(shared, problem.lanes(), problem.skeleton.num_joints) {
    const int64_t lanes = problem.lanes();
    x = take_planes<C>(shared, (frames + 2) * lanes);
    bone = take_planes<C>(shared, (frames + 2) * lanes);
    angle = shared.take<C>((frames + 2) * lanes);
    g_turn = shared.take<C>((frames + 1) * lanes);
    g_bone = take_planes<C>(shared, frames * lanes);
    g_partner = take_planes<C>(shared, frames * lanes);
    total = take_planes<C>(shared, frames * lanes);
  }
};

// The W lanes one frame of L lanes ahead. With W = 4, L may be 2 more than a multiple of it.
template <int W, class C>
__device__ Pack<C, W> read_ahead(const C* lanes, int L) {
  if constexpr (W > 1) {
    if (L % W != 0) {
      const auto low = read_pack<W / 2>(lanes + L);
      const auto high = read_pack<W / 2>(lanes + L + W / 2);
      Pack<C, W> pack;
      for (int j = 0; j < W / 2; ++j) {
        pack.values[j] = low.values[j];
        pack.values[j + W / 2] = high.values[j];
      }
      return pack;
    }
  }
  return read_pack<W>(lanes + L);
}

template <class C>
__device__ C time_scale(const Problem& problem, int64_t clip) {
  return static_cast<C>(problem.reference_frames) / static_cast<C>(problem.num_frames[problem.source(clip)]);
}

template <class C>
struct Shear {
  Vec3<C> rows[3];

  __device__ Vec3<C> operator()(Vec3<C> v) const { return {dot(rows[0], v), dot(rows[1], v), dot(rows[2], v)}; }
};

template <class C>
__device__ Shear<C> shear_of(const Problem& problem, int64_t clip, bool transposed) {
  if (problem.shear == nullptr) {
    return {{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}};
  }
  const C* r = static_cast<const C*>(problem.shear) + 9 * clip;
  const int down = transposed ? 1 : 3;
  const int right = transposed ? 3 : 1;
  return {{{r[0], r[right], r[2 * right]},
           {r[down], r[down + right], r[down + 2 * right]},
           {r[2 * down], r[2 * down + right], r[2 * down + 2 * right]}}};
}

// Calls f(clip, first frame) for this block's tiles.
template <class F>
__device__ void for_each_tile(const Problem& problem, int64_t tile_frames, F f) {
  for (int64_t clip = blockIdx.y; clip < problem.clips; clip += gridDim.y) {
    for (int64_t begin = blockIdx.x * tile_frames; begin < problem.frames; begin += gridDim.x * tile_frames) {
      f(clip, begin);
    }
  }
}

// What the forward and the backward pass share: frames of the augmented clip and their bones in shared memory.
template <class S>
struct Tile {
  using C = Compute<S>;

  const Problem& problem;
  const Clips<const S>& joints;
  const LaneTables& tables;
  Planes<C> x, bone;
  const Reading& reading;
  int L;

  // Frames [first, first + rows) of the augmented clip; those outside of the clip are zero.
  __device__ void load_joints(int64_t clip, int64_t first, int rows) const {
    switch (reading.width) {
      case 4:
        load_packs<4>(clip, first, rows);
        break;
      case 2:
        load_packs<2>(clip, first, rows);
        break;
      default:
        load_packs<1>(clip, first, rows);
    }
    __syncthreads();
  }

  template <int W>
  __device__ void load_packs(int64_t clip, int64_t first, int rows) const {
    const int64_t shift = problem.shift(clip);
    const Shear<C> shear = shear_of<C>(problem, clip, /*transposed=*/false);
    const S* data = joints.data + problem.source(clip) * joints.strides[0];
    reading.packs(rows, [&](int i, int row, int pack) {
      const int64_t t = first + row;
      Pack<C, W> position[3] = {};
      if (t >= 0 && t < problem.frames) {
        const S* at = data + problem.mirrored(t + shift) * joints.strides[2] + tables.offset[pack * W];
        Pack<S, W> read[3];
        for (int c = 0; c < 3; ++c) {
          read[c] = read_pack<W>(at + c * joints.strides[1]);
        }
        for (int j = 0; j < W; ++j) {
          const Vec3<C> there = {widen(read[0].values[j]), widen(read[1].values[j]), widen(read[2].values[j])};
          const Vec3<C> here = problem.shear == nullptr ? there : shear(there);
          position[0].values[j] = here.x;
          position[1].values[j] = here.y;
          position[2].values[j] = here.z;
        }
      }
      for (int c = 0; c < 3; ++c) {
        write_pack(x.plane(c) + i * W, position[c]);
      }
    });
  }

  __device__ void derive_bones(int rows) const {
    reading.lanes(rows, [&](int i, int, int lane) {
      if (tables.parent[lane] != lane) {
        bone.set(i, own_bone(i, lane));
      }
    });
    for_each_body(rows, [&](int root, int spine, int left, int right) {
      const Torso<C> bones = torso(spine, left, right);
      bone.set(root, torso_normal(bones.spine, bones.left, bones.right));
    });
    __syncthreads();
  }

  // From the parent to the joint.
  __device__ Vec3<C> own_bone(int i, int lane) const { return x.get(i) - x.get(i - lane + tables.parent[lane]); }

  __device__ Torso<C> torso(int spine, int left, int right) const {
    return {own_bone(spine, spine % L), own_bone(left, left % L), own_bone(right, right % L)};
  }

  // Calls f(lanes of the root, the spine, the left and the right shoulder) for each body of each frame.
  template <class F>
  __device__ void for_each_body(int rows, F f) const {
    const Skeleton& skeleton = problem.skeleton;
    const int bodies = problem.bodies;
    for (int i = threadIdx.x; i < rows * bodies; i += THREADS) {
      const int body = i / bodies * L + i % bodies;
      f(body + skeleton.root * bodies, body + skeleton.spine * bodies, body + skeleton.left * bodies,
        body + skeleton.right * bodies);
    }
  }

  __device__ Vec3<C> partner(int i, int lane) const {
    const int other = tables.partner[lane];
    return other < 0 ? Vec3<C>{0, 0, 0} : bone.get(i - lane + other);
  }
};

// Up to 64 registers, so that four blocks fit: while some wait for a barrier or for memory, others write.
template <class S>
constexpr int FORWARD_BLOCKS = sizeof(Compute<S>) == 8 ? 1 : 4;

// Writes a tile's planes from shared memory, W lanes at a time.
template <class S, int W>
__global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS<S>)
    forward_kernel(const __grid_constant__ Problem problem, const __grid_constant__ Clips<const S> joints,
                   const __grid_constant__ Reading reading, S* out, int64_t tile_frames) {
  using C = Compute<S>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  const int L = static_cast<int>(problem.lanes());
  const ForwardShared<C> shared(arrays, problem, tile_frames);
  shared.tables.fill(problem, joints.strides);
  const Tile<S> tile{problem, joints, shared.tables, shared.x, shared.bone, reading, L};
  const bool wants_angles = problem.wants(ANGULAR_VELOCITY);
  const bool wants_pairs = problem.wants(ROTATION_AXIS) || wants_angles;

  const int64_t T = problem.frames;
  for_each_tile(problem, tile_frames, [&](int64_t clip, int64_t begin) {
    __syncthreads();
    const int rows = static_cast<int>(begin + tile_frames < T ? tile_frames : T - begin);
    const int rows_ahead = static_cast<int>(begin + rows + 2 <= T ? rows + 2 : T - begin);
    tile.load_joints(clip, begin, rows_ahead);
    if (wants_pairs || problem.wants(BONE)) {
      const int bone_rows = rows < rows_ahead ? rows + 1 : rows;
      tile.derive_bones(bone_rows);
      if (wants_pairs) {
        reading.lanes(bone_rows, [&](int i, int row, int lane) {
          const Vec3<C> bone = shared.bone.get(i);
          const Vec3<C> partner = tile.partner(i, lane);
          if (row < rows) {
            shared.axis.set(i, cross(bone, partner));
          }
          if (wants_angles) {
            shared.angle[i] = angle_between(bone, partner);
          }
        });
        __syncthreads();
      }
    }

    const C s = time_scale<C>(problem, clip);
    const int64_t plane = T * L;  // one coordinate of one clip in the output
    S* const first = out + clip * 3 * plane + begin * L;
    const auto write = [&](Modality modality, int c, int i, const Pack<C, W>& values) {
      Pack<S, W> narrowed;
      for (int j = 0; j < W; ++j) {
        narrowed.values[j] = narrow<S>(values.values[j]);
      }
      write_pack(first + (problem.slots[modality] * problem.clips * 3 + c) * plane + i, narrowed);
    };
    // The frames of the tile that have one, and two, more after them end at these lanes.
    const int with_next = (begin + rows + 1 <= T ? rows : rows - 1) * L;
    const int with_second = (begin + rows + 2 <= T ? rows : static_cast<int>(T - begin) - 2) * L;
    for (int i = static_cast<int>(threadIdx.x) * W; i < rows * L; i += THREADS * W) {
      for (int c = 0; c < 3; ++c) {
        const C* x = shared.x.plane(c) + i;
        const auto here = read_pack<W>(x);
        if (problem.wants(JOINT)) {
          write(JOINT, c, i, here);
        }
        if (problem.wants(MOTION) || problem.wants(ACCELERATION)) {
          const auto next = read_ahead<W>(x, L);
          const auto second = read_pack<W>(x + 2 * L);
          Pack<C, W> motion, acceleration;
          for (int j = 0; j < W; ++j) {
            motion.values[j] = i + j < with_next ? s * (next.values[j] - here.values[j]) : 0;
            acceleration.values[j] =
                i + j < with_second ? s * (s * (second.values[j] - next.values[j]) - motion.values[j]) : 0;
          }
          if (problem.wants(MOTION)) {
            write(MOTION, c, i, motion);
          }
          if (problem.wants(ACCELERATION)) {
            write(ACCELERATION, c, i, acceleration);
          }
        }
        if (problem.wants(BONE)) {
          write(BONE, c, i, read_pack<W>(shared.bone.plane(c) + i));
        }
      }
      if (!wants_pairs) {
        continue;
      }
      Pack<C, W> axis[3];
      for (int c = 0; c < 3; ++c) {
        axis[c] = read_pack<W>(shared.axis.plane(c) + i);
        if (problem.wants(ROTATION_AXIS)) {
          write(ROTATION_AXIS, c, i, axis[c]);
        }
      }
      if (wants_angles) {
        const auto here = read_pack<W>(shared.angle + i);
        const auto next = read_ahead<W>(shared.angle + i, L);
        for (int j = 0; j < W; ++j) {
          const C turn = i + j < with_next ? s * (next.values[j] - here.values[j]) : 0;
          const Vec3<C> velocity = turn * normalize(Vec3<C>{axis[0].values[j], axis[1].values[j], axis[2].values[j]});
          axis[0].values[j] = velocity.x;
          axis[1].values[j] = velocity.y;
          axis[2].values[j] = velocity.z;
        }
        for (int c = 0; c < 3; ++c) {
          write(ANGULAR_VELOCITY, c, i, axis[c]);
        }
      }
    }
  });
}

template <class S>
struct BackwardTile : Tile<S> {
  using C = Compute<S>;
  using Tile<S>::problem;
  using Tile<S>::reading;
  using Tile<S>::L;
  using Tile<S>::bone;

  const DerivedClips<const S>& grad_out;
  const BackwardShared<C>& shared;
  const GradientTables& tables;

  __device__ BackwardTile(const Problem& problem, const Clips<const S>& joints, const Reading& reading,
                          const DerivedClips<const S>& grad_out, const BackwardShared<C>& shared)
      : Tile<S>{problem, joints, shared.tables, shared.x, shared.bone, reading, static_cast<int>(problem.lanes())},
        grad_out(grad_out),
        shared(shared),
        tables(shared.gradient_tables) {}

  // The output's gradient at frame t; zero outside of [0, end), and if the modality was not asked for.
  __device__ Vec3<C> gradient(Modality modality, int64_t clip, int64_t t, int64_t end, int lane) const {
    if (!problem.wants(modality) || t < 0 || t >= end) {
      return {0, 0, 0};
    }
    const int64_t* strides = grad_out.strides;
    const S* at = grad_out.data + problem.slots[modality] * grad_out.modality_stride + clip * strides[0] +
                  t * strides[2] + tables.offset[lane];
    return {widen(at[0]), widen(at[strides[1]]), widen(at[2 * strides[1]])};
  }

  // The sum over the joints that name this lane's joint, in the same frame.
  __device__ Vec3<C> sum_named_by(const int16_t* joints, const int16_t* first, Planes<C> planes, int i,
                                  int lane) const {
    const int joint = tables.joint[lane];
    const int frame_and_body = i - joint * problem.bodies;
    Vec3<C> sum = {0, 0, 0};
    for (int at = first[joint]; at < first[joint + 1]; ++at) {
      sum = sum + planes.get(frame_and_body + joints[at] * problem.bodies);
    }
    return sum;
  }

  // Adds the gradient for `rows` frames of the augmented clip from `first` on, as far as there are such, to the rows of
  // the input's frames that they were taken from, of which row 0 is `begin`.
  __device__ void add_place(int64_t clip, int64_t begin, int64_t first, int64_t all_rows) const {
    const int64_t last = first + all_rows < problem.frames ? first + all_rows : problem.frames;
    first = first < 0 ? 0 : first;
    if (first >= last) {
      return;
    }
    const int rows = static_cast<int>(last - first);
    const int64_t T = problem.frames;
    const C s = time_scale<C>(problem, clip);
    const bool wants_bones = problem.wants(BONE) || problem.wants(ROTATION_AXIS) || problem.wants(ANGULAR_VELOCITY);
    if (wants_bones) {
      derive_bone_gradient(clip, first, rows, s);
    }
    const int64_t shift = problem.shift(clip);
    reading.lanes(rows, [&](int i, int row, int lane) {
      const int64_t t = first + row;
      Vec3<C> sum =
          gradient(JOINT, clip, t, T, lane) +
          s * (gradient(MOTION, clip, t - 1, T - 1, lane) - gradient(MOTION, clip, t, T - 1, lane)) +
          s * s *
              (gradient(ACCELERATION, clip, t - 2, T - 2, lane) -
               C(2) * gradient(ACCELERATION, clip, t - 1, T - 2, lane) + gradient(ACCELERATION, clip, t, T - 2, lane));
      if (wants_bones) {
        const bool is_root = tables.joint[lane] == problem.skeleton.root;
        sum = sum + (is_root ? Vec3<C>{0, 0, 0} : shared.g_bone.get(i)) -
              sum_named_by(tables.children, tables.first_child, shared.g_bone, i, lane);
      }
      shared.total.add(static_cast<int>(problem.mirrored(t + shift) - begin) * L + lane, sum);
    });
    __syncthreads();
  }

  // Row 0 of x, bone and angle is the frame before `first`.
  __device__ void derive_bone_gradient(int64_t clip, int64_t first, int rows, C s) const {
    const int64_t T = problem.frames;
    this->load_joints(clip, first - 1, rows + 2);
    this->derive_bones(rows + 2);
    const bool wants_angles = problem.wants(ANGULAR_VELOCITY);
    const bool wants_pairs = problem.wants(ROTATION_AXIS) || wants_angles;
    if (wants_angles) {
      reading.lanes(rows + 2, [&](int i, int row, int lane) {
        const Vec3<C> partner = this->partner(i, lane);
        shared.angle[i] = angle_between(bone.get(i), partner);
        if (row <= rows) {
          const Vec3<C> axis = normalize(cross(bone.get(i), partner));
          shared.g_turn[i] = s * dot(gradient(ANGULAR_VELOCITY, clip, first - 1 + row, T - 1, lane), axis);
        }
      });
      __syncthreads();
    }
    reading.lanes(rows, [&](int i, int row, int lane) {
      Vec3<C> g = gradient(BONE, clip, first + row, T, lane);
      if (wants_pairs) {
        const Vec3<C> b = bone.get(i + L);
        const Vec3<C> w = this->partner(i + L, lane);
        Vec3<C> g_axis = gradient(ROTATION_AXIS, clip, first + row, T, lane);
        C g_angle = 0;
        if (wants_angles) {
          g_angle = shared.g_turn[i] - shared.g_turn[i + L];
          const C turn = s * (shared.angle[i + 2 * L] - shared.angle[i + L]);
          g_axis = g_axis +
                   normalize_gradient(cross(b, w), turn * gradient(ANGULAR_VELOCITY, clip, first + row, T - 1, lane));
        }
        g = g + rotation_gradient(b, w, g_axis, g_angle);
        shared.g_partner.set(i, rotation_gradient(w, b, C(-1) * g_axis, g_angle));
      }
      shared.g_bone.set(i, g);
    });
    __syncthreads();
    if (wants_pairs) {
      reading.lanes(rows, [&](int i, int, int lane) {
        shared.g_bone.add(i, sum_named_by(tables.partnered, tables.first_partnered, shared.g_partner, i, lane));
      });
      __syncthreads();
    }
    this->for_each_body(rows, [&](int root, int spine, int left, int right) {
      const Torso<C> bones = this->torso(spine + L, left + L, right + L);
      const Torso<C> g = torso_normal_gradient(bones, shared.g_bone.get(root));
      shared.g_bone.add(spine, g.spine);
      shared.g_bone.add(left, g.left);
      shared.g_bone.add(right, g.right);
    });
    __syncthreads();
  }
};

template <class S>
__global__ void __launch_bounds__(THREADS, sizeof(Compute<S>) == 8 ? 1 : 2)
    backward_kernel(const __grid_constant__ Problem problem, const __grid_constant__ Clips<const S> joints,
                    const __grid_constant__ Reading reading, const __grid_constant__ DerivedClips<const S> grad_out,
                    const __grid_constant__ Children children, const __grid_constant__ Children partnered,
                    S* grad_joints, int64_t tile_frames) {
  using C = Compute<S>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  const int L = static_cast<int>(problem.lanes());
  const BackwardShared<C> shared(arrays, problem, tile_frames);
  shared.tables.fill(problem, joints.strides);
  shared.gradient_tables.fill(problem, grad_out.strides, children, partnered);
  const BackwardTile<S> tile(problem, joints, reading, grad_out, shared);

  const int64_t T = problem.frames;
  for_each_tile(problem, tile_frames, [&](int64_t clip, int64_t begin) {
    const int64_t end = begin + tile_frames < T ? begin + tile_frames : T;
    const int rows = static_cast<int>(end - begin);
    const int64_t shift = problem.shift(clip);
    reading.lanes(rows, [&](int i, int, int) { shared.total.set(i, {0, 0, 0}); });
    __syncthreads();
    // With a mirrored crop, the input's frames stand at up to three places of the augmented clip: where they were, and
    // mirrored at the start and at the end.
#pragma unroll 1  // the code of one place fills the instruction cache as it is
    for (int place = 0; place < (problem.crop_start == nullptr ? 1 : 3); ++place) {
      const int64_t mirrored = place == 0 ? begin : place == 1 ? -end : 2 * T - end;
      tile.add_place(clip, begin, mirrored - shift, rows);
    }
    const Shear<C> shear = shear_of<C>(problem, clip, /*transposed=*/true);
    reading.lanes(rows, [&](int i, int, int) {
      const Vec3<C> total = shared.total.get(i);
      const Vec3<C> g = problem.shear == nullptr ? total : shear(total);
      S* at = grad_joints + clip * 3 * T * L + begin * L + i;
      at[0] = narrow<S>(g.x);
      at[T * L] = narrow<S>(g.y);
      at[2 * T * L] = narrow<S>(g.z);
    });
    __syncthreads();
  });
}

template <class Shared>
size_t shared_bytes(const Problem& problem, int64_t frames) {
  return count_bytes([&](SharedArrays& arrays) { Shared(arrays, problem, frames); });
}

// How many frames to a tile: about TILE_LANES lanes, as the shared memory allows, and tiles of about the same size.
template <class Shared>
int64_t choose_tile_frames(const Problem& problem) {
  const int64_t L = problem.lanes();
  int64_t most = TILE_LANES / L < 1 ? 1 : TILE_LANES / L;
  while (most > 1 && shared_bytes<Shared>(problem, most) > 48 * 1024) {
    --most;
  }
  return divide_up(problem.frames, divide_up(problem.frames, most));
}

// Reads as many lanes at once as divide a frame, if they lie side by side and every frame starts where such a pack may.
template <class S>
Reading choose_reading(const Problem& problem, const Clips<const S>& joints) {
  const bool side_by_side = joints.strides[3] == problem.bodies && (joints.strides[4] == 1 || problem.bodies == 1);
  for (const int width : {4, 2}) {
    const size_t alignment = std::min<size_t>(width * sizeof(S), 16);
    bool fits =
        side_by_side && problem.lanes() % width == 0 && reinterpret_cast<uintptr_t>(joints.data) % alignment == 0;
    for (int axis = 0; axis < 3; ++axis) {
      fits = fits && joints.strides[axis] % width == 0;
    }
    if (fits) {
      return {width, Walk(problem.lanes()), Walk(problem.lanes() / width)};
    }
  }
  return {1, Walk(problem.lanes()), Walk(problem.lanes())};
}

template <class Shared, class Kernel, class... Arguments>
const char* launch(Kernel kernel, const Problem& problem, int64_t tile_frames, void* stream,
                   const Arguments&... arguments) {
  const dim3 blocks(blocks_for(divide_up(problem.frames, tile_frames)),
                    static_cast<unsigned>(smaller(problem.clips, MAX_CLIPS)));
  return ikem::cuda::launch(kernel, blocks, THREADS, shared_bytes<Shared>(problem, tile_frames), stream, problem,
                            arguments..., tile_frames);
}

}  // namespace

template <class S>
const char* forward(const Problem& problem, Clips<const S> joints, S* out, void* stream) {
  using Shared = ForwardShared<Compute<S>>;
  const int64_t L = problem.lanes();
  const Reading reading = choose_reading(problem, joints);
  int64_t tile_frames = choose_tile_frames<Shared>(problem);
  // Every tile of every coordinate starts where four lanes may be written at once, in an even number of frames.
  if (L % 2 == 0 && problem.frames * L % 4 == 0) {
    tile_frames += L % 4 == 0 ? 0 : tile_frames % 2;
    return launch<Shared>(forward_kernel<S, 4>, problem, tile_frames, stream, joints, reading, out);
  }
  return launch<Shared>(forward_kernel<S, 1>, problem, tile_frames, stream, joints, reading, out);
}

template <class S>
const char* backward(const Problem& problem, Clips<const S> joints, DerivedClips<const S> grad_out, S* grad_joints,
                     void* stream) {
  const Children children = reverse(problem.skeleton.parents, problem.skeleton.num_joints);
  const Children partnered = reverse(problem.skeleton.partners, problem.skeleton.num_joints);
  using Shared = BackwardShared<Compute<S>>;
  return launch<Shared>(backward_kernel<S>, problem, choose_tile_frames<Shared>(problem), stream, joints,
                        choose_reading(problem, joints), grad_out, children, partnered, grad_joints);
}

#define INSTANTIATE(S)                                                        \
  template const char* forward<S>(const Problem&, Clips<const S>, S*, void*); \
  template const char* backward<S>(const Problem&, Clips<const S>, DerivedClips<const S>, S*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::modalities::cuda
