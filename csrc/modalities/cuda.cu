// A block derives a tile of frames of one clip at a time. As in cpu.cpp a lane is one joint of one body in one frame,
// L lanes to a frame; a block's threads walk over the lanes of the tile.
#include "common/launch.h"
#include "modalities/kernel.h"
#include "modalities/math.h"

namespace ikem::modalities::cuda {
namespace {

using ikem::cuda::SharedArrays;

constexpr int THREADS = 256;
constexpr int64_t TILE_LANES = 1024;
constexpr int64_t MAX_BLOCKS = 2147483647;

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

template <class C>
struct Planes {
  C* x;
  C* y;
  C* z;

  __device__ Vec3<C> get(int lane) const { return {x[lane], y[lane], z[lane]}; }
  __device__ void set(int lane, Vec3<C> value) const {
    x[lane] = value.x;
    y[lane] = value.y;
    z[lane] = value.z;
  }
  __device__ void add(int lane, Vec3<C> value) const { set(lane, get(lane) + value); }
};

template <class C>
__host__ __device__ Planes<C> take_planes(SharedArrays& shared, int64_t lanes) {
  C* x = shared.take<C>(lanes);
  C* y = shared.take<C>(lanes);
  C* z = shared.take<C>(lanes);
  return {x, y, z};
}

// The lanes of the skeleton in one frame: where to find each in the input, and its neighbors' lanes.
struct LaneTables {
  int32_t* parent;
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

template <class C>
struct ForwardShared {
  LaneTables tables;
  Planes<C> x, bone;
  C* angle;

  __host__ __device__ ForwardShared(SharedArrays& shared, int64_t lanes, int64_t frames) : tables(shared, lanes) {
    x = take_planes<C>(shared, (frames + 2) * lanes);
    bone = take_planes<C>(shared, (frames + 1) * lanes);
    angle = shared.take<C>((frames + 1) * lanes);
  }
};

// Room for a frame before the tile, which angular velocity looks back to, and one after.
template <class C>
struct BackwardShared {
  LaneTables tables;
  Planes<C> x, bone, g_bone, g_partner, total;
  C* angle;
  C* g_turn;

  __host__ __device__ BackwardShared(SharedArrays& shared, int64_t lanes, int64_t frames) : tables(shared, lanes) {
    x = take_planes<C>(shared, (frames + 2) * lanes);
    bone = take_planes<C>(shared, (frames + 2) * lanes);
    angle = shared.take<C>((frames + 2) * lanes);
    g_turn = shared.take<C>((frames + 1) * lanes);
    g_bone = take_planes<C>(shared, frames * lanes);
    g_partner = take_planes<C>(shared, frames * lanes);
    total = take_planes<C>(shared, frames * lanes);
  }
};

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

// Calls f(lane in the tile, frame in the tile, lane in the frame) for this thread's lanes of `rows` frames.
template <class F>
__device__ void for_each_lane(int rows, int lanes, F f) {
  int row = threadIdx.x / lanes;
  int lane = threadIdx.x % lanes;
  for (int i = threadIdx.x; i < rows * lanes; i += THREADS) {
    f(i, row, lane);
    lane += THREADS % lanes;
    row += THREADS / lanes;
    if (lane >= lanes) {
      lane -= lanes;
      ++row;
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
  int L;

  // Frames [first, first + rows) of the augmented clip; those outside of the clip are zero.
  __device__ void load_joints(int64_t clip, int64_t first, int rows) const {
    const int64_t shift = problem.shift(clip);
    const Shear<C> shear = shear_of<C>(problem, clip, /*transposed=*/false);
    const S* data = joints.data + problem.source(clip) * joints.strides[0];
    for_each_lane(rows, L, [&](int i, int row, int lane) {
      const int64_t t = first + row;
      Vec3<C> position = {0, 0, 0};
      if (t >= 0 && t < problem.frames) {
        const S* at = data + problem.mirrored(t + shift) * joints.strides[2] + tables.offset[lane];
        position = {widen(at[0]), widen(at[joints.strides[1]]), widen(at[2 * joints.strides[1]])};
        position = problem.shear == nullptr ? position : shear(position);
      }
      x.set(i, position);
    });
    __syncthreads();
  }

  __device__ void derive_bones(int rows) const {
    for_each_lane(rows, L,
                  [&](int i, int, int lane) { bone.set(i, x.get(i) - x.get(i - lane + tables.parent[lane])); });
    __syncthreads();
    for_each_body(rows, [&](int root, int spine, int left, int right) {
      bone.set(root, torso_normal(bone.get(spine), bone.get(left), bone.get(right)));
    });
    __syncthreads();
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

  __device__ void derive_angles(int rows, C* angle) const {
    for_each_lane(rows, L, [&](int i, int, int lane) { angle[i] = angle_between(bone.get(i), partner(i, lane)); });
    __syncthreads();
  }
};

template <class S>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(const __grid_constant__ Problem problem, const __grid_constant__ Clips<const S> joints, S* out,
                   int64_t tile_frames) {
  using C = Compute<S>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  const int L = static_cast<int>(problem.lanes());
  const ForwardShared<C> shared(arrays, L, tile_frames);
  shared.tables.fill(problem, joints.strides);
  const Tile<S> tile{problem, joints, shared.tables, shared.x, shared.bone, L};
  const bool wants_angles = problem.wants(ANGULAR_VELOCITY);
  const bool wants_bones = problem.wants(BONE) || problem.wants(ROTATION_AXIS) || wants_angles;

  const int64_t T = problem.frames;
  const int64_t tiles = (T + tile_frames - 1) / tile_frames;
  for (int64_t task = blockIdx.x; task < problem.clips * tiles; task += gridDim.x) {
    __syncthreads();
    const int64_t clip = task / tiles;
    const int64_t begin = task % tiles * tile_frames;
    const int rows = static_cast<int>(begin + tile_frames < T ? tile_frames : T - begin);
    const int rows_ahead = static_cast<int>(begin + rows + 2 <= T ? rows + 2 : T - begin);
    const int bone_rows = rows < rows_ahead ? rows + 1 : rows;
    tile.load_joints(clip, begin, rows_ahead);
    if (wants_bones) {
      tile.derive_bones(bone_rows);
    }
    if (wants_angles) {
      tile.derive_angles(bone_rows, shared.angle);
    }

    const C s = time_scale<C>(problem, clip);
    const int64_t plane = T * L;  // one coordinate of one clip in the output
    const auto write = [&](Modality modality, int i, Vec3<C> value) {
      S* at = out + (problem.slots[modality] * problem.clips + clip) * 3 * plane + begin * L + i;
      at[0] = narrow<S>(value.x);
      at[plane] = narrow<S>(value.y);
      at[2 * plane] = narrow<S>(value.z);
    };
    for_each_lane(rows, L, [&](int i, int row, int lane) {
      const Vec3<C> zero = {0, 0, 0};
      const bool has_next = begin + row + 1 < T;
      const bool has_second = begin + row + 2 < T;
      const Vec3<C> here = shared.x.get(i);
      const Vec3<C> motion = has_next ? s * (shared.x.get(i + L) - here) : zero;
      if (problem.wants(JOINT)) {
        write(JOINT, i, here);
      }
      if (problem.wants(MOTION)) {
        write(MOTION, i, motion);
      }
      if (problem.wants(ACCELERATION)) {
        write(ACCELERATION, i, has_second ? s * (s * (shared.x.get(i + 2 * L) - shared.x.get(i + L)) - motion) : zero);
      }
      if (problem.wants(BONE)) {
        write(BONE, i, shared.bone.get(i));
      }
      if (problem.wants(ROTATION_AXIS) || wants_angles) {
        const Vec3<C> axis = cross(shared.bone.get(i), tile.partner(i, lane));
        if (problem.wants(ROTATION_AXIS)) {
          write(ROTATION_AXIS, i, axis);
        }
        if (wants_angles) {
          write(ANGULAR_VELOCITY, i, has_next ? s * (shared.angle[i + L] - shared.angle[i]) * normalize(axis) : zero);
        }
      }
    });
  }
}

template <class S>
struct BackwardTile : Tile<S> {
  using C = Compute<S>;
  using Tile<S>::problem;
  using Tile<S>::L;
  using Tile<S>::bone;

  const DerivedClips<const S>& grad_out;
  const Children& children;   // by parent
  const Children& partnered;  // by partner
  const BackwardShared<C>& shared;

  __device__ BackwardTile(const Problem& problem, const Clips<const S>& joints, const DerivedClips<const S>& grad_out,
                          const Children& children, const Children& partnered, const BackwardShared<C>& shared)
      : Tile<S>{problem, joints, shared.tables, shared.x, shared.bone, static_cast<int>(problem.lanes())},
        grad_out(grad_out),
        children(children),
        partnered(partnered),
        shared(shared) {}

  // The output's gradient at frame t; zero outside of [0, end), and if the modality was not asked for.
  __device__ Vec3<C> gradient(Modality modality, int64_t clip, int64_t t, int64_t end, int lane) const {
    if (!problem.wants(modality) || t < 0 || t >= end) {
      return {0, 0, 0};
    }
    const int64_t* strides = grad_out.strides;
    const S* at = grad_out.data + problem.slots[modality] * grad_out.modality_stride + clip * strides[0] +
                  t * strides[2] + (lane / problem.bodies) * strides[3] + (lane % problem.bodies) * strides[4];
    return {widen(at[0]), widen(at[strides[1]]), widen(at[2 * strides[1]])};
  }

  // The sum over the joints that name this lane's joint, in the same frame.
  __device__ Vec3<C> sum_children(const Children& tree, Planes<C> planes, int i, int lane) const {
    const int joint = lane / problem.bodies;
    const int frame_and_body = i - joint * problem.bodies;
    Vec3<C> sum = {0, 0, 0};
    for (int child = tree.first[joint]; child < tree.first[joint + 1]; ++child) {
      sum = sum + planes.get(frame_and_body + tree.joints[child] * problem.bodies);
    }
    return sum;
  }

  // Adds the gradient for frames [first, last) of the augmented clip, as far as there are such, to the rows of the
  // input's frames that they were taken from, of which row 0 is `begin`.
  __device__ void add_place(int64_t clip, int64_t begin, int64_t first, int64_t last) const {
    first = first < 0 ? 0 : first;
    last = last > problem.frames ? problem.frames : last;
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
    for_each_lane(rows, L, [&](int i, int row, int lane) {
      const int64_t t = first + row;
      Vec3<C> sum =
          gradient(JOINT, clip, t, T, lane) +
          s * (gradient(MOTION, clip, t - 1, T - 1, lane) - gradient(MOTION, clip, t, T - 1, lane)) +
          s * s *
              (gradient(ACCELERATION, clip, t - 2, T - 2, lane) -
               C(2) * gradient(ACCELERATION, clip, t - 1, T - 2, lane) + gradient(ACCELERATION, clip, t, T - 2, lane));
      if (wants_bones) {
        const bool is_root = lane / problem.bodies == problem.skeleton.root;
        sum =
            sum + (is_root ? Vec3<C>{0, 0, 0} : shared.g_bone.get(i)) - sum_children(children, shared.g_bone, i, lane);
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
      this->derive_angles(rows + 2, shared.angle);
      for_each_lane(rows + 1, L, [&](int i, int row, int lane) {
        const Vec3<C> axis = normalize(cross(bone.get(i), this->partner(i, lane)));
        shared.g_turn[i] = s * dot(gradient(ANGULAR_VELOCITY, clip, first - 1 + row, T - 1, lane), axis);
      });
      __syncthreads();
    }
    for_each_lane(rows, L, [&](int i, int row, int lane) {
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
      for_each_lane(rows, L, [&](int i, int, int lane) {
        shared.g_bone.add(i, sum_children(partnered, shared.g_partner, i, lane));
      });
      __syncthreads();
    }
    this->for_each_body(rows, [&](int root, int spine, int left, int right) {
      const Torso<C> bones = {bone.get(spine + L), bone.get(left + L), bone.get(right + L)};
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
                    const __grid_constant__ DerivedClips<const S> grad_out, const __grid_constant__ Children children,
                    const __grid_constant__ Children partnered, S* grad_joints, int64_t tile_frames) {
  using C = Compute<S>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  const int L = static_cast<int>(problem.lanes());
  const BackwardShared<C> shared(arrays, L, tile_frames);
  shared.tables.fill(problem, joints.strides);
  const BackwardTile<S> tile(problem, joints, grad_out, children, partnered, shared);

  const int64_t T = problem.frames;
  const int64_t tiles = (T + tile_frames - 1) / tile_frames;
  for (int64_t task = blockIdx.x; task < problem.clips * tiles; task += gridDim.x) {
    const int64_t clip = task / tiles;
    const int64_t begin = task % tiles * tile_frames;
    const int64_t end = begin + tile_frames < T ? begin + tile_frames : T;
    const int rows = static_cast<int>(end - begin);
    const int64_t shift = problem.shift(clip);
    for_each_lane(rows, L, [&](int i, int, int) { shared.total.set(i, {0, 0, 0}); });
    __syncthreads();
    // With a mirrored crop, the input's frames stand at up to three places of the augmented clip.
    tile.add_place(clip, begin, begin - shift, end - shift);
    if (problem.crop_start != nullptr) {
      tile.add_place(clip, begin, -end - shift, -begin - shift);
      tile.add_place(clip, begin, 2 * T - end - shift, 2 * T - begin - shift);
    }
    const Shear<C> shear = shear_of<C>(problem, clip, /*transposed=*/true);
    for_each_lane(rows, L, [&](int i, int, int) {
      const Vec3<C> total = shared.total.get(i);
      const Vec3<C> g = problem.shear == nullptr ? total : shear(total);
      S* at = grad_joints + clip * 3 * T * L + begin * L + i;
      at[0] = narrow<S>(g.x);
      at[T * L] = narrow<S>(g.y);
      at[2 * T * L] = narrow<S>(g.z);
    });
    __syncthreads();
  }
}

template <class Shared>
size_t shared_bytes(int64_t lanes, int64_t frames) {
  SharedArrays arrays(reinterpret_cast<unsigned char*>(16));  // only counts
  Shared(arrays, lanes, frames);
  return arrays.bytes();
}

// How many frames to a tile: about TILE_LANES lanes, as the shared memory allows, and tiles of about the same size.
template <class Shared>
int64_t choose_tile_frames(const Problem& problem) {
  const int64_t L = problem.lanes();
  int64_t most = TILE_LANES / L < 1 ? 1 : TILE_LANES / L;
  while (most > 1 && shared_bytes<Shared>(L, most) > 48 * 1024) {
    --most;
  }
  const int64_t tiles = (problem.frames + most - 1) / most;
  return (problem.frames + tiles - 1) / tiles;
}

template <class Shared, class Kernel, class... Arguments>
const char* launch(Kernel kernel, const Problem& problem, void* stream, const Arguments&... arguments) {
  const int64_t tile_frames = choose_tile_frames<Shared>(problem);
  const size_t bytes = shared_bytes<Shared>(problem.lanes(), tile_frames);
  if (const char* error = ikem::cuda::allow_shared_memory(kernel, bytes)) {
    return error;
  }
  const int64_t tasks = problem.clips * ((problem.frames + tile_frames - 1) / tile_frames);
  const auto blocks = static_cast<unsigned>(tasks < MAX_BLOCKS ? tasks : MAX_BLOCKS);
  IKEM_LAUNCH(kernel, blocks, THREADS, bytes, static_cast<cudaStream_t>(stream), problem, arguments..., tile_frames);
  return ikem::cuda::launch_error();
}

}  // namespace

template <class S>
const char* forward(const Problem& problem, Clips<const S> joints, S* out, void* stream) {
  return launch<ForwardShared<Compute<S>>>(forward_kernel<S>, problem, stream, joints, out);
}

template <class S>
const char* backward(const Problem& problem, Clips<const S> joints, DerivedClips<const S> grad_out, S* grad_joints,
                     void* stream) {
  const Children children = reverse(problem.skeleton.parents, problem.skeleton.num_joints);
  const Children partnered = reverse(problem.skeleton.partners, problem.skeleton.num_joints);
  return launch<BackwardShared<Compute<S>>>(backward_kernel<S>, problem, stream, joints, grad_out, children, partnered,
                                            grad_joints);
}

#define INSTANTIATE(S)                                                        \
  template const char* forward<S>(const Problem&, Clips<const S>, S*, void*); \
  template const char* backward<S>(const Problem&, Clips<const S>, DerivedClips<const S>, S*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::modalities::cuda
