// A block works on a tile, some frames of one clip. It lays features out in shared memory as rows of channels, one row
// for each joint of each frame, and as in cpu.cpp three kinds of them meet there (see Order): those on the `narrow`
// side of the sum over joints, their `wide` sums, one for each part of the graph, and the `plain` ones across the sum
// over channels. What is K-fold stays in shared memory or registers.
//
// The floor is the memory: x and y once forward, and x and the gradient of y for each of the three kernels of the
// backward pass, most of which the second-level cache serves. The products run on the tensor cores, but for float64 and
// for float32 where TF32 is not allowed; the sums over joints look only at the values of the adjacency that are not
// zero.
#include <type_traits>
#include <utility>

#include "common/launch.h"
#include "common/mma.h"
#include "graph_conv/kernel.h"

namespace ikem::graph_conv::cuda {
namespace {

using ikem::cuda::SharedArrays;

constexpr int WARP = 32;
constexpr int WARPS = 4;            // along the rows
constexpr int ROWS = WARPS * WARP;  // at once; a thread has row `threadIdx.x % ROWS`
constexpr int MAX_SLICES = 3;       // of ROWS threads in a block, which share out channels or parts among them
constexpr int MAX_THREADS = ROWS * MAX_SLICES;
constexpr int64_t MAX_BLOCKS = 2147483647;

template <class T>
IKEM_INLINE T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
IKEM_INLINE T larger(T a, T b) {
  return a < b ? b : a;
}
template <class T>
IKEM_INLINE T divide_up(T a, T b) {
  return (a + b - 1) / b;
}
template <class T>
IKEM_INLINE T round_up(T a, T b) {
  return divide_up(a, b) * b;
}

__device__ int lowest_bit(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __ffs(static_cast<int>(bits)) - 1;
#else
  return __builtin_ctz(bits);
#endif
}

// For arrays that take turns in the same place.
IKEM_INLINE SharedArrays later(const SharedArrays& a, const SharedArrays& b) { return a.bytes() < b.bytes() ? b : a; }

template <class T>
constexpr int VECTOR = 16 / sizeof(T);

template <class T, int L>
struct alignas(sizeof(T) * L) Vector {
  T values[L];
};

template <class T, int L>
__device__ bool is_aligned(const T* at) {
  return reinterpret_cast<uintptr_t>(at) % sizeof(Vector<T, L>) == 0;
}

// Frames by joints by channels of one clip.
template <class S>
struct Plane {
  S* data;
  int64_t channel, frame, joint;  // strides
  int channels, frames, joints;

  __device__ int positions() const { return frames * joints; }
  __device__ S* at(int position) const { return data + position / joints * frame + position % joints * joint; }
};

template <class S>
__device__ Plane<S> plane_of(const Strided<S, 5>& tensor, int group, int clip) {
  const int64_t* strides = tensor.strides;
  return {tensor.data + group * strides[0] + clip * strides[1], strides[2], strides[3], strides[4], 0, 0, 0};
}

template <class S>
__device__ Plane<S> part_of(Plane<S> plane, int frame, int frames, int joint, int joints, int channel, int channels) {
  plane.data += frame * plane.frame + joint * plane.joint + channel * plane.channel;
  plane.frames = frames;
  plane.joints = joints;
  plane.channels = channels;
  return plane;
}

// Rows of at most so many channels, of a length such that vectors of eight successive rows lie in different banks of
// the shared memory.
template <class T, int CHANNELS>
struct Rows {
  static constexpr int LENGTH = CHANNELS + VECTOR<T>;
  static_assert(CHANNELS % (2 * VECTOR<T>) == 0);

  T* data;

  Rows() = default;
  __host__ __device__ Rows(SharedArrays& shared, int count) : data(shared.take<T>(int64_t{count} * LENGTH)) {}
  explicit __device__ Rows(T* data) : data(data) {}

  __device__ T* at(int row) const { return data + row * LENGTH; }
  __device__ Rows from(int row, int channel = 0) const { return Rows(at(row) + channel); }
  __device__ Vector<T, VECTOR<T>>& vector(int row, int channel) const {
    return *reinterpret_cast<Vector<T, VECTOR<T>>*>(at(row) + channel);
  }
};

// Fills `count` rows of `channels`, both rounded up as it suits the products: where the plane ends they are zero.
// Neighboring threads of those that share the work take neighboring positions, WIDTH of them at once.
template <int WIDTH, class S, int CHANNELS>
__device__ void load_rows(const Plane<const S>& plane, const Rows<S, CHANNELS>& rows, int count, int channels,
                          unsigned thread = threadIdx.x, unsigned threads = blockDim.x) {
  constexpr int L = VECTOR<S>;
#pragma unroll 1
  for (int row = static_cast<int>(thread % WIDTH); row < count; row += WIDTH) {
    const bool inside = row < plane.positions();
    const S* at = inside ? plane.at(row) : plane.data;
#pragma unroll 1
    for (int c = static_cast<int>(thread / WIDTH) * L; c < channels; c += static_cast<int>(threads / WIDTH) * L) {
      const S* from = at + c * plane.channel;
      Vector<S, L> vector{};
      if (inside && plane.channel == 1 && c + L <= plane.channels && is_aligned<S, L>(from)) {
        vector = *reinterpret_cast<const Vector<S, L>*>(from);
      } else if (inside) {
#pragma unroll
        for (int i = 0; i < L; ++i, from += plane.channel) {
          if (c + i < plane.channels) {
            vector.values[i] = *from;
          }
        }
      }
      rows.vector(row, c) = vector;
    }
  }
}

template <class S, class C, int L>
__device__ void store_vector(const Plane<S>& plane, S* at, int channel, const C (&values)[L]) {
  S* to = at + channel * plane.channel;
  if (plane.channel == 1 && channel + L <= plane.channels && is_aligned<S, L>(to)) {
    Vector<S, L> vector;
#pragma unroll
    for (int i = 0; i < L; ++i) {
      vector.values[i] = narrow<S>(values[i]);
    }
    *reinterpret_cast<Vector<S, L>*>(to) = vector;
    return;
  }
#pragma unroll
  for (int i = 0; i < L; ++i, to += plane.channel) {
    if (channel + i < plane.channels) {
      *to = narrow<S>(values[i]);
    }
  }
}

// What one warp sums up: M rows, from `a`, by N columns, from `b`. Both hold either a row of depth for each of them or,
// ACROSS, a row of all of them for each step of depth.
template <class S, bool TENSOR, int N, int M = WARP>
struct Product;

template <class S, int N, int M>
struct Product<S, true, N, M> {
  static constexpr int STEP = ikem::cuda::MMA_WORDS * 4 / sizeof(S);  // that the depth is a multiple of

  float sums[M / 16][N / 8][4] = {};

  template <bool ACROSS, int A, int B>
  __device__ void add(const Rows<S, A>& a, const Rows<S, B>& b, int depth) {
    using Operand = std::conditional_t<std::is_same_v<S, float>, ikem::cuda::Tf32, S>;
    const int lane = static_cast<int>(threadIdx.x) % WARP;
#pragma unroll 1
    for (int d = 0; d < depth; d += STEP) {
      uint32_t left[M / 16][4];
#pragma unroll
      for (int m = 0; m < M / 16; ++m) {
        ikem::cuda::load_left(left[m], lane, [&](int row, int i) { return word<ACROSS>(a, 16 * m + row, d, i); });
      }
#pragma unroll
      for (int n = 0; n < N / 8; ++n) {
        uint32_t right[2];
        ikem::cuda::load_right(right, lane, [&](int column, int i) { return word<ACROSS>(b, 8 * n + column, d, i); });
#pragma unroll
        for (int m = 0; m < M / 16; ++m) {
          ikem::cuda::mma<Operand>(sums[m][n], left[m], right);
        }
      }
    }
  }

  template <class F>
  __device__ void for_each(F f) {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
#pragma unroll
    for (int m = 0; m < M / 16; ++m) {
#pragma unroll
      for (int n = 0; n < N / 8; ++n) {
        ikem::cuda::for_each_sum(sums[m][n], lane,
                                 [&](int row, int column, float& sum) { f(16 * m + row, 8 * n + column, sum); });
      }
    }
  }

 private:
  // The i-th word of depth from d on.
  template <bool ACROSS, int CHANNELS>
  static __device__ uint32_t word(const Rows<S, CHANNELS>& rows, int index, int d, int i) {
    if constexpr (std::is_same_v<S, float>) {
      return ikem::cuda::to_tf32(ACROSS ? rows.at(d + i)[index] : rows.at(index)[d + i]).bits;
    } else if constexpr (ACROSS) {
      const uint32_t low = rows.at(d + 2 * i)[index].bits;
      const uint32_t high = rows.at(d + 2 * i + 1)[index].bits;
      return low | high << 16;
    } else {
      uint32_t bits;
      memcpy(&bits, __builtin_assume_aligned(rows.at(index) + d + 2 * i, sizeof(bits)), sizeof(bits));
      return bits;
    }
  }
};

template <class S, int N, int M>
struct Product<S, false, N, M> {
  using C = Compute<S>;
  static constexpr int STEP = VECTOR<S>;

  C sums[M / 8][N / 4] = {};

  // The rows lane / 4 + 8 m and the columns lane % 4 + 4 n.
  template <bool ACROSS, int A, int B>
  __device__ void add(const Rows<S, A>& a, const Rows<S, B>& b, int depth) {
    const int row = static_cast<int>(threadIdx.x) % WARP / 4;
    const int column = static_cast<int>(threadIdx.x) % 4;
    constexpr int L = ACROSS ? 1 : VECTOR<S>;
#pragma unroll 1
    for (int d = 0; d < depth; d += L) {
      Vector<S, L> left[M / 8];
#pragma unroll
      for (int m = 0; m < M / 8; ++m) {
        left[m] = load<ACROSS, L>(a, row + 8 * m, d);
      }
#pragma unroll
      for (int n = 0; n < N / 4; ++n) {
        const Vector<S, L> right = load<ACROSS, L>(b, column + 4 * n, d);
#pragma unroll
        for (int m = 0; m < M / 8; ++m) {
#pragma unroll
          for (int i = 0; i < L; ++i) {
            sums[m][n] += widen(left[m].values[i]) * widen(right.values[i]);
          }
        }
      }
    }
  }

  template <class F>
  __device__ void for_each(F f) {
    const int row = static_cast<int>(threadIdx.x) % WARP / 4;
    const int column = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int m = 0; m < M / 8; ++m) {
#pragma unroll
      for (int n = 0; n < N / 4; ++n) {
        f(row + 8 * m, column + 4 * n, sums[m][n]);
      }
    }
  }

 private:
  template <bool ACROSS, int L, int CHANNELS>
  static __device__ Vector<S, L> load(const Rows<S, CHANNELS>& rows, int index, int d) {
    return *reinterpret_cast<const Vector<S, L>*>(ACROSS ? rows.at(d) + index : rows.at(index) + d);
  }
};

// The adjacency from the side of one sum over joints, its sources and its targets.
template <class S>
struct Edges {
  const S* data;
  int64_t group, clip, part, channel, source, target;  // strides
  bool per_clip, per_channel;
  int parts, sources, targets;

  // Whether a block keeps a copy of all values in shared memory, besides bits that say which are not zero.
  __host__ __device__ bool kept() const {
    constexpr int64_t MOST = 32 * 1024 / sizeof(Compute<S>);
    return !per_channel && static_cast<int64_t>(parts) * sources * targets <= MOST;
  }
  __host__ __device__ int words() const { return divide_up(sources, 32); }
};

template <class S>
class SumOverJoints {
  using C = Compute<S>;

 public:
  __host__ __device__ SumOverJoints(const Edges<S>& edges, SharedArrays& shared) : edges_(edges) {
    const int columns = edges.parts * edges.targets;
    if (edges.kept()) {
      values_ = shared.take<C>(columns * edges.sources);
      bits_ = shared.take<uint32_t>(columns * edges.words());
    }
    totals_ = shared.take<C>(edges.per_channel ? 0 : columns);
  }

  // Goes to the adjacency of one clip. Needs a barrier before and after.
  __device__ void select(int group, int clip) {
    data_ = edges_.data + group * edges_.group + clip * edges_.clip;
    if (edges_.per_channel) {
      return;
    }
    for (int i = static_cast<int>(threadIdx.x); i < edges_.parts * edges_.targets; i += static_cast<int>(blockDim.x)) {
      const S* at = data_ + i / edges_.targets * edges_.part + i % edges_.targets * edges_.target;
      C total = 0;
      for (int word = 0; word < edges_.words(); ++word) {
        const int first = 32 * word;
        const int count = smaller(32, edges_.sources - first);
        uint32_t bits = 0;
#pragma unroll 8
        for (int j = 0; j < count; ++j) {
          const C value = widen(at[(first + j) * edges_.source]);
          total += value;
          bits |= static_cast<uint32_t>(value != 0) << j;
          if (values_ != nullptr) {
            values_[i * edges_.sources + first + j] = value;
          }
        }
        if (values_ != nullptr) {
          bits_[i * edges_.words() + word] = bits;
        }
      }
      totals_[i] = total;
    }
  }

  // The sum of the target's column of the adjacency.
  __device__ C total(int part, int target) const { return totals_[part * edges_.targets + target]; }

  // sums += the sources' rows times the target's values; `channel` is the rows' among those of the adjacency.
  template <class T, int L>
  __device__ void add(int part, int target, const T* row, int length, int channel, int channels, C (&sums)[L]) const {
    if (values_ != nullptr) {
      const int column = part * edges_.targets + target;
      const C* values = values_ + column * edges_.sources;
      for (int word = 0; word < edges_.words(); ++word) {
        for (uint32_t bits = bits_[column * edges_.words() + word]; bits != 0; bits &= bits - 1) {
          const int source = 32 * word + lowest_bit(bits);
          const auto vector = *reinterpret_cast<const Vector<T, L>*>(row + source * length);
#pragma unroll
          for (int i = 0; i < L; ++i) {
            sums[i] += values[source] * widen(vector.values[i]);
          }
        }
      }
      return;
    }
    const S* at = data_ + part * edges_.part + target * edges_.target + channel * edges_.channel;
#pragma unroll 1
    for (int source = 0; source < edges_.sources; ++source, at += edges_.source, row += length) {
      const C shared_value = edges_.per_channel ? C(0) : widen(*at);
      if (!edges_.per_channel && shared_value == 0) {
        continue;
      }
      const auto vector = *reinterpret_cast<const Vector<T, L>*>(row);
#pragma unroll
      for (int i = 0; i < L; ++i) {
        if (!edges_.per_channel) {
          sums[i] += shared_value * widen(vector.values[i]);
        } else if (channel + i < channels) {
          sums[i] += widen(at[i * edges_.channel]) * widen(vector.values[i]);
        }
      }
    }
  }

 private:
  const Edges<S>& edges_;
  const S* data_ = nullptr;
  C* values_ = nullptr;
  uint32_t* bits_ = nullptr;
  C* totals_ = nullptr;
};

// The product with the weights seen from one of its sides.
template <class S>
struct Weights {
  const S* data;
  int64_t group, part, out, in;  // strides

  // The rows of so many output channels, one for each.
  __device__ Plane<const S> rows(int g, int k, int first_out, int outs, int first_in, int ins) const {
    return {data + g * group + k * part + first_out * out + first_in * in, in, 0, out, ins, 1, outs};
  }
};

// One graph convolution as a kernel sees it: the operation itself, or that which gives the gradient of x.
template <class S>
struct Layer {
  Strided<const S, 5> x;
  Weights<S> weights;
  Strided<const S, 3> bias;
  Edges<S> edges;
  int groups, clips, frames;
  int in_channels, out_channels;
};

// How the frames and joints of a clip are cut up.
struct Tiles {
  int frames = 1;  // to a tile
  int joints = 0;  // to a tile, all of them unless they are more than ROWS
  int by_frames = 0, by_joints = 1;

  __host__ __device__ int per_clip() const { return by_frames * by_joints; }
};

Tiles make_tiles(int all_frames, int frames, int joints, bool split_joints) {
  Tiles tiles;
  tiles.by_frames = divide_up(all_frames, frames);
  tiles.frames = divide_up(all_frames, larger(tiles.by_frames, 1));
  tiles.joints = larger(1, split_joints ? smaller(joints, ROWS) : joints);
  tiles.by_joints = divide_up(joints, tiles.joints);
  return tiles;
}

// A tile's place.
struct Place {
  int clip, first_frame, frames, first_joint, joints;

  Place() = default;
  __device__ Place(const Tiles& tiles, int tile, int all_frames, int all_joints) {
    clip = tile / tiles.per_clip();
    first_frame = tile % tiles.per_clip() / tiles.by_joints * tiles.frames;
    frames = smaller(tiles.frames, all_frames - first_frame);
    first_joint = tile % tiles.by_joints * tiles.joints;
    joints = smaller(tiles.joints, all_joints - first_joint);
  }
};

// How a kernel goes about a layer: what is settled before it is launched.
struct Plan {
  Tiles tiles;
  int source_rows, target_rows;  // of a tile, rounded up
  int slices;                    // of ROWS threads
};

// Channels of the sum over channels that are in shared memory at once, where a warp has N columns.
template <class S, int N>
constexpr int DEPTH = (N > 16 || sizeof(S) == 8 ? 128 : 64) / sizeof(S);

// This thread's place in its block.
struct Self {
  int slice = static_cast<int>(threadIdx.x) / ROWS;
  int index = static_cast<int>(threadIdx.x) % ROWS;  // in the slice
  int warp = index / WARP;
  int first_row = warp * WARP;
};

// -- aggregate first -------------------------------------------------------------------------------------------------

// wide = the sums over the joints of one part of the graph, for the rows of the place's targets; `channel` is the first
// of the rows'. The vectors of a row are shared out among `turns` threads.
template <class S, int CHANNELS>
__device__ void sum_sources(const SumOverJoints<S>& joints, int part, const Place& place, int all_sources,
                            const Rows<S, CHANNELS>& sources, int channel, int channels, int padded,
                            const Rows<S, CHANNELS>& wide, int count, int turn, int turns) {
  constexpr int L = VECTOR<S>;
#pragma unroll 1
  for (int row = Self().index; row < count; row += ROWS) {
    const int frame = row / place.joints;
    const int target = place.first_joint + row % place.joints;
#pragma unroll 1
    for (int c = turn * L; c < padded; c += turns * L) {
      Compute<S> sums[L] = {};
      if (frame < place.frames) {
        joints.add(part, target, sources.at(frame * all_sources) + c, sources.LENGTH, channel + c, channels, sums);
      }
      Vector<S, L> vector;
#pragma unroll
      for (int i = 0; i < L; ++i) {
        vector.values[i] = narrow<S>(sums[i]);
      }
      wide.vector(row, c) = vector;
    }
  }
}

template <class S, int N>
struct AggregateShared {
  using C = Compute<S>;

  Place* place;  // in memory, as the products need the registers
  SumOverJoints<S> joints;
  Rows<C, N> bias;  // a row for each part, a slice's after another's
  Rows<S, DEPTH<S, N>> sources, wide, weights;
  Rows<C, N> out;  // a slice's rows after another's; takes the place of the three

  __host__ __device__ AggregateShared(SharedArrays& shared, const Layer<S>& layer, const Plan& plan)
      : place(shared.take<Place>(1)), joints(layer.edges, shared), bias(shared, plan.slices * layer.edges.parts) {
    SharedArrays same = shared;
    sources = Rows<S, DEPTH<S, N>>(shared, plan.source_rows);
    wide = Rows<S, DEPTH<S, N>>(shared, plan.target_rows);
    weights = Rows<S, DEPTH<S, N>>(shared, plan.slices * N);
    out = Rows<C, N>(same, plan.slices * plan.target_rows);
    shared = later(shared, same);
  }
};

// The bias of a part's channel; zero where there is none.
template <class S>
__device__ Compute<S> bias_of(const Layer<S>& layer, int group, int part, int out) {
  const int64_t* strides = layer.bias.strides;
  if (layer.bias.data == nullptr || out >= layer.out_channels) {
    return 0;
  }
  return widen(layer.bias.data[group * strides[0] + part * strides[1] + out * strides[2]]);
}

// A block has N output channels for each of its slices; a thread of a slice writes one row of them.
template <class S, bool TENSOR, int N>
__global__ void __launch_bounds__(MAX_THREADS, 2)
    aggregate_kernel(const __grid_constant__ Layer<S> layer, const __grid_constant__ Strided<S, 5> y,
                     const __grid_constant__ Plan plan) {
  using C = Compute<S>;
  constexpr int L = VECTOR<C>;
  using WarpProduct = Product<S, TENSOR, N>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  AggregateShared<S, N> shared(arrays, layer, plan);
  const Self self;
  const int parts = layer.edges.parts;
  const int columns = plan.slices * N;

  const int column_tiles = divide_up(layer.out_channels, columns);
  const int task = static_cast<int>(blockIdx.x);
  const int group = task / column_tiles / plan.tiles.per_clip() / layer.clips;
  const Place& place = *shared.place;
  if (threadIdx.x == 0) {
    *shared.place = Place(plan.tiles, task / column_tiles % (plan.tiles.per_clip() * layer.clips), layer.frames,
                          layer.edges.targets);
  }
  __syncthreads();
  const int first_out = task % column_tiles * columns;
  const int outs = smaller(columns, layer.out_channels - first_out);
  const int own_outs = smaller(N, outs - self.slice * N);  // this slice's, if positive
  const int rows = place.frames * place.joints;
  shared.joints.select(group, place.clip);
#pragma unroll 1
  for (int i = self.index; i < parts * N; i += ROWS) {
    shared.bias.at(self.slice * parts + i / N)[i % N] =
        bias_of(layer, group, i / N, first_out + self.slice * N + i % N);
  }

  WarpProduct product;
#pragma unroll 1
  for (int c = 0; c < layer.in_channels; c += DEPTH<S, N>) {
    const int channels = smaller(DEPTH<S, N>, layer.in_channels - c);
    const int padded = round_up(channels, WarpProduct::STEP);
    __syncthreads();
    load_rows<ROWS>(part_of(plane_of(layer.x, group, place.clip), place.first_frame, place.frames, 0,
                            layer.edges.sources, c, channels),
                    shared.sources, place.frames * layer.edges.sources, padded);
#pragma unroll 1
    for (int k = 0; k < parts; ++k) {
      __syncthreads();
      sum_sources(shared.joints, k, place, layer.edges.sources, shared.sources, c, layer.in_channels, padded,
                  shared.wide, rows, self.slice, plan.slices);
      load_rows<WARP>(layer.weights.rows(group, k, first_out, outs, c, channels), shared.weights, columns, padded);
      __syncthreads();
      if (self.first_row < rows && own_outs > 0) {
        product.template add<false>(shared.wide.from(self.first_row), shared.weights.from(self.slice * N), padded);
      }
    }
  }

  __syncthreads();
  const Rows<C, N> out = shared.out.from(self.slice * plan.target_rows);
  if (self.first_row < rows && own_outs > 0) {
    product.for_each([&](int row, int column, C sum) { out.from(self.first_row).at(row)[column] = sum; });
  }
  __syncthreads();
  if (self.index < rows && own_outs > 0) {
    const Plane<S> to = part_of(plane_of(y, group, place.clip), place.first_frame, place.frames, place.first_joint,
                                place.joints, first_out + self.slice * N, own_outs);
    S* at = to.at(self.index);
    const int target = place.first_joint + self.index % place.joints;
#pragma unroll 1
    for (int c = 0; c < own_outs; c += L) {
      Vector<C, L> sums = out.vector(self.index, c);
      for (int k = 0; layer.bias.data != nullptr && k < parts; ++k) {
        const C total = shared.joints.total(k, target);
        const Vector<C, L> bias = shared.bias.vector(self.slice * parts + k, c);
#pragma unroll
        for (int i = 0; i < L; ++i) {
          sums.values[i] += total * bias.values[i];
        }
      }
      store_vector(to, at, c, sums.values);
    }
  }
}

// -- transform first -------------------------------------------------------------------------------------------------

// The rows of x by the weights of some parts of the graph.
template <class S, class T, int N>
struct Transform {
  Rows<S, DEPTH<S, N>> x, weights;
  Rows<T, N> wide;  // a part's rows after another's
  Rows<Compute<S>, N> bias;

  // Where the products are made in one go, they take the place of what they are made of.
  __host__ __device__ Transform(SharedArrays& shared, const Layer<S>& layer, const Plan& plan, int parts)
      : bias(shared, plan.slices) {
    SharedArrays same = shared;
    x = Rows<S, DEPTH<S, N>>(shared, smaller(plan.source_rows, ROWS));
    weights = Rows<S, DEPTH<S, N>>(shared, plan.slices * N);
    const bool in_one_go = plan.source_rows <= ROWS && parts <= plan.slices;
    wide = in_one_go ? Rows<T, N>(same, parts * plan.source_rows) : Rows<T, N>(shared, parts * plan.source_rows);
    shared = later(shared, same);
  }

  // Takes the parts from first_part on, one for each slice, at some joints of the place, with its frames no more than
  // ROWS. Needs a barrier before and ends with one: what else is loaded right before is there afterwards.
  template <bool TENSOR>
  __device__ __forceinline__ void run(const Layer<S>& layer, const Plan& plan, int group, const Place& place,
                                      int first_joint, int joints, int first_part, int parts, int first_out,
                                      int first_row) const {
    using C = Compute<S>;
    using WarpProduct = Product<S, TENSOR, N>;
    const Self self;
    const int rows = place.frames * joints;
    const int outs = smaller(N, layer.out_channels - first_out);
    if (self.slice < parts && self.index < N) {
      bias.at(self.slice)[self.index] = bias_of(layer, group, first_part + self.slice, first_out + self.index);
    }
    WarpProduct product;
#pragma unroll 1
    for (int c = 0; c == 0 || c < layer.in_channels; c += DEPTH<S, N>) {
      const int channels = smaller(DEPTH<S, N>, layer.in_channels - c);
      const int padded = round_up(channels, WarpProduct::STEP);
      load_rows<ROWS>(part_of(plane_of(layer.x, group, place.clip), place.first_frame, place.frames, first_joint,
                              joints, c, channels),
                      x, round_up(rows, WARP), padded);
      if (self.slice < parts) {
        load_rows<WARP>(layer.weights.rows(group, first_part + self.slice, first_out, outs, c, channels),
                        weights.from(self.slice * N), N, padded, self.index, ROWS);
      }
      __syncthreads();
      if (self.slice < parts && self.first_row < rows) {
        product.template add<false>(x.from(self.first_row), weights.from(self.slice * N), padded);
      }
      __syncthreads();
    }
    if (self.slice < parts && self.first_row < rows) {
      const Rows<T, N> to = wide.from(self.slice * plan.source_rows + first_row + self.first_row);
      product.for_each(
          [&](int row, int column, C sum) { to.at(row)[column] = narrow<T>(sum + bias.at(self.slice)[column]); });
    }
    __syncthreads();
  }

  // The same at all joints; more of them than ROWS come with a single frame.
  template <bool TENSOR>
  __device__ __forceinline__ void run_all(const Layer<S>& layer, const Plan& plan, int group, const Place& place,
                                          int first_part, int parts, int first_out, int first_wide) const {
#pragma unroll 1
    for (int joint = 0; joint < layer.edges.sources; joint += ROWS) {
      run<TENSOR>(layer, plan, group, place, joint, smaller(ROWS, layer.edges.sources - joint), first_part, parts,
                  first_out, first_wide * plan.source_rows + joint);
    }
  }
};

template <class S, int N>
struct TransformShared {
  Place* place;  // in memory, as the products need the registers
  SumOverJoints<S> joints;
  Transform<S, Compute<S>, N> transform;

  __host__ __device__ TransformShared(SharedArrays& shared, const Layer<S>& layer, const Plan& plan)
      : place(shared.take<Place>(1)), joints(layer.edges, shared), transform(shared, layer, plan, layer.edges.parts) {}
};

// A block has N output channels; the slices share out the vectors of each row of them.
template <class S, bool TENSOR, int N>
__global__ void __launch_bounds__(MAX_THREADS, 2)
    transform_kernel(const __grid_constant__ Layer<S> layer, const __grid_constant__ Strided<S, 5> y,
                     const __grid_constant__ Plan plan) {
  using C = Compute<S>;
  constexpr int L = VECTOR<C>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  TransformShared<S, N> shared(arrays, layer, plan);
  const Self self;
  const Rows<C, N>& wide = shared.transform.wide;
  const int parts = layer.edges.parts;
  const int targets = layer.edges.targets;

  const int column_tiles = divide_up(layer.out_channels, N);
  const int task = static_cast<int>(blockIdx.x);
  const int group = task / column_tiles / plan.tiles.per_clip() / layer.clips;
  const Place& place = *shared.place;
  if (threadIdx.x == 0) {
    *shared.place =
        Place(plan.tiles, task / column_tiles % (plan.tiles.per_clip() * layer.clips), layer.frames, targets);
  }
  __syncthreads();
  const int first_out = task % column_tiles * N;
  const int outs = smaller(N, layer.out_channels - first_out);
  shared.joints.select(group, place.clip);
#pragma unroll 1
  for (int k = 0; k < parts; k += plan.slices) {
    shared.transform.template run_all<TENSOR>(layer, plan, group, place, k, smaller(plan.slices, parts - k), first_out,
                                              k);
  }
  const Plane<S> to =
      part_of(plane_of(y, group, place.clip), place.first_frame, place.frames, 0, targets, first_out, outs);
#pragma unroll 1
  for (int row = self.index; row < to.positions(); row += ROWS) {
    S* at = to.at(row);
    const C* frame = wide.at(row / targets * layer.edges.sources);
#pragma unroll 1
    for (int c = self.slice * L; c < outs; c += plan.slices * L) {
      C sums[L] = {};
#pragma unroll 1
      for (int k = 0; k < parts; ++k) {
        shared.joints.add(k, row % targets, frame + k * plan.source_rows * wide.LENGTH + c, wide.LENGTH, first_out + c,
                          layer.out_channels, sums);
      }
      store_vector(to, at, c, sums);
    }
  }
}

// -- gradients of weight and bias ------------------------------------------------------------------------------------

// The sums over all positions of plain times wide features.
template <class S>
struct WeightGradient {
  Strided<const S, 5> narrow, plain;
  Edges<S> edges;  // from narrow to wide
  int groups, clips, frames;
  int narrow_channels, plain_channels;
  int64_t size, part, narrow_stride, plain_stride;  // of the weights
  bool transform_first;                             // x is plain
};

// Tiles are summed up by chunks, one after another in a block; the chunks' sums are added up afterwards.
struct Chunks {
  int count, tiles;
};

// What a block is at. All its threads share it in memory, as the products need their registers. What changes with the
// tile is apart from what does not: threads load 16 bytes at once, and would read along what another one is writing.
struct ChunkTask {
  int group_and_chunk, group, tile, last_tile;
  alignas(16) Place place;  // of the tile

  __device__ ChunkTask(int group_and_chunk, const Chunks& chunks, const Plan& plan, int clips)
      : group_and_chunk(group_and_chunk),
        group(group_and_chunk / chunks.count),
        tile(group_and_chunk % chunks.count * chunks.tiles),
        last_tile(smaller(tile + chunks.tiles, clips * plan.tiles.per_clip())) {}

  // Both are for all threads, and end with a barrier.
  __device__ void begin_tile(const Tiles& tiles, int all_frames, int all_joints) {
    if (threadIdx.x == 0) {
      place = Place(tiles, tile, all_frames, all_joints);
    }
    __syncthreads();
  }
  __device__ void end_tile() {
    if (threadIdx.x == 0) {
      ++tile;
    }
    __syncthreads();
  }
};

template <int N, int PLAIN>
struct WeightTask : ChunkTask {
  alignas(16) int first_part;
  int first_column, columns, first_plain, plains;

  template <class S>
  __device__ WeightTask(const WeightGradient<S>& gradient, const Plan& plan, const Chunks& chunks)
      : WeightTask(gradient, plan, chunks, static_cast<int>(blockIdx.x), divide_up(gradient.narrow_channels, N),
                   divide_up(gradient.plain_channels, PLAIN), divide_up(gradient.edges.parts, plan.slices)) {}

 private:
  template <class S>
  __device__ WeightTask(const WeightGradient<S>& gradient, const Plan& plan, const Chunks& chunks, int block,
                        int column_tiles, int plain_tiles, int part_tiles)
      : ChunkTask(block / column_tiles / plain_tiles / part_tiles, chunks, plan, gradient.clips),
        first_part(block / column_tiles / plain_tiles % part_tiles * plan.slices),
        first_column(block % column_tiles * N),
        columns(smaller(N, gradient.narrow_channels - first_column)),
        first_plain(block / column_tiles % plain_tiles * PLAIN),
        plains(smaller(PLAIN, gradient.plain_channels - first_plain)) {}
};

// A block sums up PLAIN plain by N narrow channels of as many parts as it has slices.
template <class S, int N, int PLAIN>
struct WeightShared {
  SumOverJoints<S> joints;
  Rows<S, N> narrow;
  Rows<S, PLAIN> plain;
  Rows<S, N> wide;            // a part's rows after another's
  Rows<Compute<S>, N> total;  // takes the place of the three
  WeightTask<N, PLAIN>* task;

  __host__ __device__ WeightShared(SharedArrays& shared, const WeightGradient<S>& gradient, const Plan& plan)
      : joints(gradient.edges, shared), task(shared.take<WeightTask<N, PLAIN>>(1)) {
    SharedArrays same = shared;
    narrow = Rows<S, N>(shared, plan.source_rows);
    plain = Rows<S, PLAIN>(shared, plan.target_rows);
    wide = Rows<S, N>(shared, plan.slices * plan.target_rows);
    total = Rows<Compute<S>, N>(same, plan.slices * PLAIN);
    shared = later(shared, same);
  }
};

// total = the products of the warps that share out the depth, in their order.
template <class P, class T, int N>
__device__ void add_up(P& product, bool counts, int turn, int turns, const Rows<T, N>& total) {
#pragma unroll 1
  for (int i = 0; i < turns; ++i) {
    __syncthreads();
    if (counts && i == turn) {
      product.for_each([&](int row, int column, T sum) {
        T& to = total.at(row)[column];
        to = i == 0 ? sum : to + sum;
      });
    }
  }
  __syncthreads();
}

// A slice has a part of the graph; its warps share out the plain channels, and then the depth.
template <class S, bool TENSOR, int N, int PLAIN>
__global__ void __launch_bounds__(MAX_THREADS, 2)
    weight_gradient_kernel(const __grid_constant__ WeightGradient<S> gradient, const __grid_constant__ Plan plan,
                           const __grid_constant__ Chunks chunks, Compute<S>* weight, Compute<S>* bias) {
  using C = Compute<S>;
  using WarpProduct = Product<S, TENSOR, N>;
  constexpr int ROW_TILES = PLAIN / WARP, TURNS = WARPS / ROW_TILES;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  WeightShared<S, N, PLAIN> shared(arrays, gradient, plan);
  const Self self;
  const Edges<S>& edges = gradient.edges;
  const int first_row = self.warp % ROW_TILES * WARP;
  const int turn = self.warp / ROW_TILES;
  WeightTask<N, PLAIN>& task = *shared.task;
  if (threadIdx.x == 0) {
    task = WeightTask<N, PLAIN>(gradient, plan, chunks);
  }
  __syncthreads();

  const int part = task.first_part + self.slice;
  const bool counts = part < edges.parts;
  const bool sums_bias = bias != nullptr && counts &&
                         (gradient.transform_first ? task.first_plain == 0 && self.index < task.columns
                                                   : task.first_column == 0 && self.index < task.plains);
  const Rows<S, N> wide = shared.wide.from(self.slice * plan.target_rows);
  C bias_sum = 0;
  WarpProduct product;
#pragma unroll 1
  for (bool first = true; task.tile < task.last_tile; first = false) {
    const Place& place = task.place;
    task.begin_tile(plan.tiles, gradient.frames, edges.targets);
    if (first || (edges.per_clip && task.tile % plan.tiles.per_clip() == 0)) {
      shared.joints.select(task.group, place.clip);
    }
    load_rows<ROWS>(part_of(plane_of(gradient.narrow, task.group, place.clip), place.first_frame, place.frames, 0,
                            edges.sources, task.first_column, task.columns),
                    shared.narrow, place.frames * edges.sources, N);
    const int rows = place.frames * place.joints;
    const int padded = round_up(rows, WarpProduct::STEP * TURNS);
    load_rows<ROWS>(part_of(plane_of(gradient.plain, task.group, place.clip), place.first_frame, place.frames,
                            place.first_joint, place.joints, task.first_plain, task.plains),
                    shared.plain, padded, PLAIN);
    __syncthreads();
    if (counts) {
      sum_sources(shared.joints, part, place, edges.sources, shared.narrow, task.first_column, gradient.narrow_channels,
                  N, wide, padded, 0, 1);
    }
    __syncthreads();
    if (counts && first_row < task.plains) {
      const int depth = padded / TURNS;
      product.template add<true>(shared.plain.from(turn * depth, first_row), wide.from(turn * depth), depth);
    }
#pragma unroll 1
    for (int row = 0; sums_bias && row < rows; ++row) {
      bias_sum += gradient.transform_first ? widen(wide.at(row)[self.index])
                                           : widen(shared.plain.at(row)[self.index]) *
                                                 shared.joints.total(part, place.first_joint + row % place.joints);
    }
    task.end_tile();
  }

  add_up(product, counts && first_row < task.plains, turn, TURNS, shared.total.from(self.slice * PLAIN + first_row));
  if (counts && weight != nullptr) {
    C* to = weight + task.group_and_chunk * gradient.size + part * gradient.part +
            task.first_plain * gradient.plain_stride + task.first_column * gradient.narrow_stride;
#pragma unroll 1
    for (int i = self.index; i < task.plains * task.columns; i += ROWS) {
      // Neighboring threads write neighbors.
      const int row = gradient.transform_first ? i % task.plains : i / task.columns;
      const int column = gradient.transform_first ? i / task.plains : i % task.columns;
      to[row * gradient.plain_stride + column * gradient.narrow_stride] =
          shared.total.at(self.slice * PLAIN + row)[column];
    }
  }
  if (sums_bias) {
    const int out_channels = gradient.transform_first ? gradient.narrow_channels : gradient.plain_channels;
    const int first_out = gradient.transform_first ? task.first_column : task.first_plain;
    bias[(int64_t{task.group_and_chunk} * edges.parts + part) * out_channels + first_out + self.index] = bias_sum;
  }
}

// -- gradient of the adjacency ---------------------------------------------------------------------------------------

// Output channels at once. With 32, what a thread holds of the products leaves too few registers for two blocks to a
// multiprocessor.
constexpr int ADJACENCY_COLUMNS = 16;

struct AdjacencyTask : ChunkTask {
  alignas(16) int first_part;
  int parts, first_source, sources, first_target, targets;

  template <class S>
  __device__ AdjacencyTask(const Layer<S>& layer, const Plan& plan, const Chunks& chunks)
      : AdjacencyTask(layer, plan, chunks, static_cast<int>(blockIdx.x), divide_up(layer.edges.targets, WARP),
                      divide_up(layer.edges.sources, WARP), divide_up(layer.edges.parts, plan.slices)) {}

 private:
  template <class S>
  __device__ AdjacencyTask(const Layer<S>& layer, const Plan& plan, const Chunks& chunks, int block, int target_tiles,
                           int source_tiles, int part_tiles)
      : ChunkTask(block / target_tiles / source_tiles / part_tiles, chunks, plan, layer.clips),
        first_part(block / target_tiles / source_tiles % part_tiles * plan.slices),
        parts(smaller(plan.slices, layer.edges.parts - first_part)),
        first_source(block / target_tiles % source_tiles * WARP),
        sources(smaller(WARP, layer.edges.sources - first_source)),
        first_target(block % target_tiles * WARP),
        targets(smaller(WARP, layer.edges.targets - first_target)) {}
};

// The sums over frames and channels of x by the weights times the gradient of y.
template <class S, int N>
struct AdjacencyShared {
  Transform<S, S, N> transform;
  Rows<S, N> more;  // a product takes so many rows from any row on, those after the last included
  Rows<S, N> grad_y;
  Rows<Compute<S>, WARP> total;  // a slice's rows after another's
  AdjacencyTask* task;

  __host__ __device__ AdjacencyShared(SharedArrays& shared, const Layer<S>& layer, const Plan& plan)
      : transform(shared, layer, plan, plan.slices),
        more(shared, WARP),
        grad_y(shared, plan.target_rows + WARP),
        total(shared, plan.slices * WARP),
        task(shared.take<AdjacencyTask>(1)) {}
};

// A block sums up 32 by 32 joints of as many parts as it has slices, each warp a quarter of them.
template <class S, bool TENSOR, int N>
__global__ void __launch_bounds__(MAX_THREADS, 2)
    adjacency_gradient_kernel(const __grid_constant__ Layer<S> layer,
                              const __grid_constant__ Strided<const S, 5> grad_y, const __grid_constant__ Plan plan,
                              const __grid_constant__ Chunks chunks, Compute<S>* adjacency) {
  using C = Compute<S>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  const AdjacencyShared<S, N> shared(arrays, layer, plan);
  const Self self;
  AdjacencyTask& task = *shared.task;
  if (threadIdx.x == 0) {
    task = AdjacencyTask(layer, plan, chunks);
  }
  __syncthreads();

  constexpr int HALF = WARP / 2;
  const int row = self.warp % 2 * HALF, column = self.warp / 2 * HALF;  // of the warp's quarter
#pragma unroll 1
  for (bool first_tile = true; task.tile < task.last_tile; first_tile = false) {
    const Place& place = task.place;
    task.begin_tile(plan.tiles, layer.frames, layer.edges.targets);
#pragma unroll 1
    for (int o = 0; o < layer.out_channels; o += N) {
      load_rows<ROWS>(part_of(plane_of(grad_y, task.group, place.clip), place.first_frame, place.frames,
                              task.first_target, task.targets, o, smaller(N, layer.out_channels - o)),
                      shared.grad_y, place.frames * task.targets, N);
      shared.transform.template run<TENSOR>(layer, plan, task.group, place, task.first_source, task.sources,
                                            task.first_part, task.parts, o, 0);
      if (self.slice < task.parts) {
        Product<S, TENSOR, HALF, HALF> product;
        static_assert(N % decltype(product)::STEP == 0);
        const Rows<S, N> wide = shared.transform.wide.from(self.slice * plan.source_rows + row);
        const Rows<S, N> gradient = shared.grad_y.from(column);
#pragma unroll 1
        for (int frame = 0; frame < place.frames; ++frame) {
          product.template add<false>(wide.from(frame * task.sources), gradient.from(frame * task.targets), N);
        }
        const Rows<C, WARP> total = shared.total.from(self.slice * WARP + row, column);
        const bool first = first_tile && o == 0;
        product.for_each([&](int i, int j, C sum) { total.at(i)[j] = first ? sum : total.at(i)[j] + sum; });
      }
      __syncthreads();
    }
    task.end_tile();
  }

  const int64_t first_row =
      (int64_t{task.group_and_chunk} * layer.edges.parts + task.first_part + self.slice) * layer.edges.sources +
      task.first_source;
  C* to = adjacency + first_row * layer.edges.targets + task.first_target;
#pragma unroll 1
  for (int i = self.index; self.slice < task.parts && i < task.sources * task.targets; i += ROWS) {
    const int source = i / task.targets, target = i % task.targets;
    to[source * layer.edges.targets + target] = shared.total.at(self.slice * WARP + source)[target];
  }
}

template <class S, int N>
struct ChannelAdjacencyShared {
  Transform<S, Compute<S>, N> transform;
  Rows<S, N> grad_y;

  __host__ __device__ ChannelAdjacencyShared(SharedArrays& shared, const Layer<S>& layer, const Plan& plan)
      : transform(shared, layer, plan, 1), grad_y(shared, plan.target_rows) {}
};

// With an adjacency for each channel a block has some channels of one clip and one part, and its sums are over frames
// alone.
template <class S, bool TENSOR, int N>
__global__ void __launch_bounds__(ROWS, 4)
    channel_adjacency_gradient_kernel(const __grid_constant__ Layer<S> layer,
                                      const __grid_constant__ Strided<const S, 5> grad_y,
                                      const __grid_constant__ Plan plan, Compute<S>* adjacency) {
  using C = Compute<S>;
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  const ChannelAdjacencyShared<S, N> shared(arrays, layer, plan);
  const int parts = layer.edges.parts, sources = layer.edges.sources, targets = layer.edges.targets;

  const int column_tiles = divide_up(layer.out_channels, N);
  const int task = static_cast<int>(blockIdx.x);
  const int first_out = task % column_tiles * N;
  const int outs = smaller(N, layer.out_channels - first_out);
  const int group_clip_part = task / column_tiles;
  const int part = group_clip_part % parts;
  const int clip = group_clip_part / parts % layer.clips;
  const int group = group_clip_part / parts / layer.clips;
  C* to = adjacency + (int64_t{group_clip_part} * layer.out_channels + first_out) * sources * targets;
#pragma unroll 1
  for (int tile = 0; tile < plan.tiles.per_clip(); ++tile) {
    const Place place(plan.tiles, clip * plan.tiles.per_clip() + tile, layer.frames, targets);
    __syncthreads();
    load_rows<ROWS>(
        part_of(plane_of(grad_y, group, clip), place.first_frame, place.frames, 0, targets, first_out, outs),
        shared.grad_y, place.frames * targets, N);
    shared.transform.template run_all<TENSOR>(layer, plan, group, place, part, 1, first_out, 0);
#pragma unroll 1
    for (int i = Self().index; i < outs * sources * targets; i += ROWS) {
      const int target = i % targets;
      const int source = i / targets % sources;
      const int channel = i / targets / sources;
      C sum = tile == 0 ? C(0) : to[i];
#pragma unroll 1
      for (int frame = 0; frame < place.frames; ++frame) {
        sum += shared.transform.wide.at(frame * sources + source)[channel] *
               widen(shared.grad_y.at(frame * targets + target)[channel]);
      }
      to[i] = sum;
    }
  }
}

// -- sums of the chunks' sums ----------------------------------------------------------------------------------------

// out[i] = the sum over j < count of partials[i / size][j][i % size], for i below total.
template <class S>
struct Reduction {
  const Compute<S>* partials;
  S* out;
  int64_t total, size, count;
};

template <class S>
struct Reductions {
  Reduction<S> each[3];
};

constexpr int REDUCTION_LANES = 32;
constexpr int REDUCTION_TURNS = 16;

template <class S>
__global__ void __launch_bounds__(REDUCTION_LANES* REDUCTION_TURNS)
    reduce_kernel(const __grid_constant__ Reductions<S> reductions) {
  using C = Compute<S>;
  IKEM_DYNAMIC_SHARED(memory);
  C* sums = reinterpret_cast<C*>(memory);
  const Reduction<S>& reduction = reductions.each[blockIdx.y];
  const int lane = static_cast<int>(threadIdx.x) % REDUCTION_LANES;
  const int turn = static_cast<int>(threadIdx.x) / REDUCTION_LANES;
  for (int64_t first = blockIdx.x * static_cast<int64_t>(REDUCTION_LANES); first < reduction.total;
       first += gridDim.x * static_cast<int64_t>(REDUCTION_LANES)) {
    const int64_t i = first + lane;
    C sum = 0;
    if (i < reduction.total) {
      const C* from = reduction.partials + i / reduction.size * reduction.count * reduction.size + i % reduction.size;
#pragma unroll 4
      for (int64_t j = turn; j < reduction.count; j += REDUCTION_TURNS) {
        sum += from[j * reduction.size];
      }
    }
    __syncthreads();
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (turn == 0 && i < reduction.total) {
      for (int t = 1; t < REDUCTION_TURNS; ++t) {
        sum += sums[t * REDUCTION_LANES + lane];
      }
      reduction.out[i] = narrow<S>(sum);
    }
  }
}

// -- launches --------------------------------------------------------------------------------------------------------

constexpr size_t PREFERRED_BYTES = 99 * 1024;  // what every GPU has; twice in those of data centers

template <class Shared, class Operation>
size_t shared_bytes(const Operation& operation, const Plan& plan) {
  SharedArrays arrays(reinterpret_cast<unsigned char*>(16));  // only counts
  const Shared shared(arrays, operation, plan);
  return arrays.bytes();
}

// The most frames to a tile, and no more of them than ROWS positions, with which the preferred shared memory suffices;
// make(frames) plans.
template <class Shared, class Operation, class Make>
Plan plan_for(const Operation& operation, const Make& make) {
  int frames = larger(1, ROWS / larger(1, larger(operation.edges.sources, operation.edges.targets)));
  Plan plan = make(frames);
  while (frames > 1 && shared_bytes<Shared>(operation, plan) > PREFERRED_BYTES) {
    plan = make(--frames);
  }
  return plan;
}

template <class Shared, class Operation, class Kernel, class... Arguments>
const char* launch(Kernel kernel, int64_t blocks, void* stream, const Operation& operation, const Plan& plan,
                   const Arguments&... arguments) {
  const size_t bytes = shared_bytes<Shared>(operation, plan);
  if (const char* error = ikem::cuda::allow_shared_memory(kernel, bytes)) {
    return error;
  }
  if (larger(blocks, int64_t{operation.groups} * operation.clips * plan.tiles.per_clip()) > MAX_BLOCKS) {
    return "more tiles than a grid has blocks; pass fewer clips at a time";
  }
  IKEM_LAUNCH(kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(plan.slices * ROWS), bytes,
              static_cast<cudaStream_t>(stream), operation, arguments...);
  return ikem::cuda::launch_error();
}

// float64 has no tensor cores here, and takes half as many columns at once for its registers' sake.
template <class S>
int columns_for(int channels) {
  return channels <= 16 || sizeof(S) == 8 ? 16 : 32;
}

int share_out(int tasks) { return divide_up(larger(tasks, 1), divide_up(larger(tasks, 1), MAX_SLICES)); }

// Calls f(whether to use tensor cores), as a constant.
template <class S, class F>
auto dispatch(bool allow_tf32, F f) {
  if constexpr (sizeof(S) == 2) {
    return f(std::true_type{});
  } else if constexpr (std::is_same_v<S, float>) {
    return allow_tf32 ? f(std::true_type{}) : f(std::false_type{});
  } else {
    return f(std::false_type{});
  }
}

// The same with how many columns a warp has.
template <class S, class F>
auto dispatch(bool allow_tf32, int columns, F f) {
  return dispatch<S>(allow_tf32, [&](auto tensor) {
    if constexpr (sizeof(S) < 8) {
      if (columns > 16) {
        return f(tensor, std::integral_constant<int, 32>{});
      }
    }
    return f(tensor, std::integral_constant<int, 16>{});
  });
}

template <class S>
Layer<S> make_layer(const Problem& problem, const Operands<S>& operands) {
  const int64_t* w = operands.weight.strides;
  const int64_t* a = operands.adjacency.strides;
  const auto joints = static_cast<int>(problem.joints), out_joints = static_cast<int>(problem.out_joints);
  return {operands.x,
          {operands.weight.data, w[0], w[1], w[2], w[3]},
          operands.bias,
          {operands.adjacency.data, a[0], a[1], a[2], a[3], a[4], a[5], problem.per_clip, problem.per_channel,
           static_cast<int>(problem.parts), joints, out_joints},
          static_cast<int>(problem.groups),
          static_cast<int>(problem.clips),
          static_cast<int>(problem.frames),
          static_cast<int>(problem.in_channels),
          static_cast<int>(problem.out_channels)};
}

// The graph convolution that takes y's gradient to that of x.
template <class S>
Layer<S> transposed(Layer<S> layer, const Strided<const S, 5>& grad_y) {
  layer.x = grad_y;
  layer.bias.data = nullptr;
  std::swap(layer.in_channels, layer.out_channels);
  std::swap(layer.weights.in, layer.weights.out);
  std::swap(layer.edges.source, layer.edges.target);
  std::swap(layer.edges.sources, layer.edges.targets);
  return layer;
}

template <class Shared, class S>
Plan plan_layer(const Layer<S>& layer, int slices, bool split_joints) {
  return plan_for<Shared>(layer, [&](int frames) {
    Plan plan;
    plan.tiles = make_tiles(layer.frames, frames, layer.edges.targets, split_joints);
    plan.source_rows = round_up(plan.tiles.frames * layer.edges.sources, WARP);
    plan.target_rows = round_up(plan.tiles.frames * plan.tiles.joints, WARP);
    plan.slices = slices;
    return plan;
  });
}

template <class S>
const char* aggregate(const Layer<S>& layer, const Strided<S, 5>& y, bool allow_tf32, void* stream) {
  return dispatch<S>(allow_tf32, columns_for<S>(layer.out_channels), [&](auto tensor, auto n) {
    constexpr int N = decltype(n)::value;
    using Shared = AggregateShared<S, N>;
    const Plan plan = plan_layer<Shared>(layer, share_out(divide_up(layer.out_channels, N)), /*split_joints=*/true);
    const int64_t tasks =
        int64_t{layer.groups} * layer.clips * plan.tiles.per_clip() * divide_up(layer.out_channels, plan.slices * N);
    return launch<Shared>(aggregate_kernel<S, decltype(tensor)::value, N>, tasks, stream, layer, plan, y, plan);
  });
}

template <class S>
const char* transform(const Layer<S>& layer, const Strided<S, 5>& y, bool allow_tf32, void* stream) {
  const int slices = share_out(layer.edges.parts);
  // Many joints leave room for few channels.
  const bool many = shared_bytes<TransformShared<S, 32>>(
                        layer, plan_layer<TransformShared<S, 32>>(layer, slices, false)) > PREFERRED_BYTES;
  return dispatch<S>(allow_tf32, many ? 16 : columns_for<S>(layer.out_channels), [&](auto tensor, auto n) {
    constexpr int N = decltype(n)::value;
    using Shared = TransformShared<S, N>;
    const Plan plan = plan_layer<Shared>(layer, slices, /*split_joints=*/false);
    const int64_t tasks =
        int64_t{layer.groups} * layer.clips * plan.tiles.per_clip() * divide_up(layer.out_channels, N);
    return launch<Shared>(transform_kernel<S, decltype(tensor)::value, N>, tasks, stream, layer, plan, y, plan);
  });
}

template <class S>
const char* convolve(const Layer<S>& layer, const Strided<S, 5>& y, Order order, bool allow_tf32, void* stream) {
  return order == Order::aggregate_first ? aggregate(layer, y, allow_tf32, stream)
                                         : transform(layer, y, allow_tf32, stream);
}

// Blocks that a gradient's sums are spread over: some for each multiprocessor of the largest GPUs. As it is the same on
// all, so is every bit of the sums.
constexpr int64_t BLOCKS = 512;

// As many chunks as that takes; none where there is nothing to sum up.
Chunks make_chunks(const Problem& problem, const Plan& plan, int64_t blocks_per_chunk) {
  const int64_t tiles = problem.clips * plan.tiles.per_clip();
  const bool nothing = problem.groups == 0 || tiles == 0 || problem.joints == 0 || problem.out_joints == 0 ||
                       problem.parts == 0 || problem.in_channels == 0 || problem.out_channels == 0;
  if (nothing) {
    return {0, 0};
  }
  const int64_t wanted = smaller(larger<int64_t>(BLOCKS / (problem.groups * blocks_per_chunk), 1), tiles);
  const int64_t each = divide_up(tiles, wanted);
  return {static_cast<int>(divide_up(tiles, each)), static_cast<int>(each)};
}

// A gradient that is made of sums: so many sets, of so many partial sums each, of one size.
struct Sums {
  int64_t sets, count, size;
};

// A set of one partial sum is the gradient itself.
template <class S>
bool is_direct(const Sums& sums) {
  return std::is_same_v<S, Compute<S>> && sums.count == 1;
}

template <class S>
int64_t partial_elements(const Sums& sums) {
  return is_direct<S>(sums) ? 0 : sums.sets * sums.count * sums.size;
}

// Where a kernel writes the sums of what is to become the result; notes down what is then left to be added up.
template <class S>
Compute<S>* begin_sums(Reduction<S>& reduction, const Sums& sums, S* result, Compute<S>* partials) {
  if (result == nullptr) {
    return nullptr;
  }
  if constexpr (std::is_same_v<S, Compute<S>>) {
    if (is_direct<S>(sums)) {
      return result;
    }
  }
  reduction = {partials, result, sums.sets * sums.size, sums.size, sums.count};
  return partials;
}

template <class S>
WeightGradient<S> make_weight_gradient(const Problem& problem, const Layer<S>& layer,
                                       const Strided<const S, 5>& grad_y) {
  const bool transform = problem.order == Order::transform_first;
  const int64_t in = problem.in_channels, out = problem.out_channels;
  WeightGradient<S> gradient{};
  gradient.edges = transform ? transposed(layer, grad_y).edges : layer.edges;
  gradient.groups = layer.groups;
  gradient.clips = layer.clips;
  gradient.frames = layer.frames;
  gradient.narrow = transform ? grad_y : layer.x;
  gradient.plain = transform ? layer.x : grad_y;
  gradient.narrow_channels = transform ? layer.out_channels : layer.in_channels;
  gradient.plain_channels = transform ? layer.in_channels : layer.out_channels;
  gradient.size = problem.parts * out * in;
  gradient.part = out * in;
  gradient.narrow_stride = transform ? in : 1;
  gradient.plain_stride = transform ? 1 : in;
  gradient.transform_first = transform;
  return gradient;
}

// A gradient's plan and its chunks.
struct ChunkedPlan {
  Plan plan;
  int64_t blocks_per_chunk;
  Chunks chunks;
};

template <class S, int N, int PLAIN>
ChunkedPlan plan_weight(const Problem& problem, const WeightGradient<S>& gradient) {
  const Edges<S>& edges = gradient.edges;
  ChunkedPlan chunked;
  chunked.plan = plan_for<WeightShared<S, N, PLAIN>>(gradient, [&](int frames) {
    Plan plan;
    plan.tiles = make_tiles(gradient.frames, frames, edges.targets, /*split_joints=*/true);
    plan.source_rows = round_up(plan.tiles.frames * edges.sources, WARP);
    plan.target_rows = round_up(plan.tiles.frames * plan.tiles.joints, 2 * WARP);
    plan.slices = share_out(edges.parts);
    return plan;
  });
  chunked.blocks_per_chunk = int64_t{divide_up(gradient.narrow_channels, N)} *
                             divide_up(gradient.plain_channels, PLAIN) * divide_up(edges.parts, chunked.plan.slices);
  chunked.chunks = make_chunks(problem, chunked.plan, chunked.blocks_per_chunk);
  return chunked;
}

// Calls f(whether to use tensor cores, narrow and plain channels of a block), as constants.
template <class S, class F>
auto dispatch_weight(const WeightGradient<S>& gradient, bool allow_tf32, F f) {
  return dispatch<S>(allow_tf32, columns_for<S>(gradient.narrow_channels), [&](auto tensor, auto n) {
    if constexpr (decltype(n)::value > 16) {
      if (gradient.plain_channels > WARP) {
        return f(tensor, n, std::integral_constant<int, 2 * WARP>{});
      }
    }
    return f(tensor, n, std::integral_constant<int, WARP>{});
  });
}

Sums weight_sums(const Problem& problem, const Chunks& chunks) {
  return {problem.groups, chunks.count, problem.parts * problem.out_channels * problem.in_channels};
}

Sums bias_sums(const Problem& problem, const Chunks& chunks) {
  return {problem.groups, chunks.count, problem.parts * problem.out_channels};
}

template <class Shared, class S>
ChunkedPlan plan_adjacency(const Problem& problem, const Layer<S>& layer) {
  const Edges<S>& edges = layer.edges;
  const int most_joints = edges.per_channel ? larger(edges.sources, edges.targets) : WARP;  // of a block
  ChunkedPlan chunked;
  chunked.plan = plan_for<Shared>(layer, [&](int frames) {
    Plan plan;
    plan.tiles = make_tiles(layer.frames, frames, edges.targets, /*split_joints=*/false);
    plan.source_rows = round_up(plan.tiles.frames * smaller(edges.sources, most_joints), WARP);
    plan.target_rows = plan.tiles.frames * smaller(edges.targets, most_joints);
    plan.slices = edges.per_channel ? 1 : share_out(edges.parts);
    return plan;
  });
  chunked.blocks_per_chunk = int64_t{divide_up(edges.sources, WARP)} * divide_up(edges.targets, WARP) *
                             divide_up(edges.parts, chunked.plan.slices);
  chunked.chunks = make_chunks(problem, chunked.plan, larger<int64_t>(chunked.blocks_per_chunk, 1));
  if (edges.per_clip && chunked.chunks.count > 0) {
    chunked.chunks = {layer.clips, chunked.plan.tiles.per_clip()};
  }
  return chunked;
}

Sums adjacency_sums(const Problem& problem, const Chunks& chunks) {
  const bool per_clip = problem.per_clip;
  return {problem.groups * (per_clip ? problem.clips : 1), per_clip ? smaller(chunks.count, 1) : chunks.count,
          adjacency_size(problem)};
}

template <class S>
const char* weight_gradient(const Problem& problem, const WeightGradient<S>& gradient, const Gradients<S>& partials,
                            const Results<S>& results, bool allow_tf32, Reductions<S>& reductions, void* stream) {
  return dispatch_weight(gradient, allow_tf32, [&](auto tensor, auto n, auto plain) -> const char* {
    constexpr int N = decltype(n)::value, PLAIN = decltype(plain)::value;
    const auto [plan, blocks_per_chunk, chunks] = plan_weight<S, N, PLAIN>(problem, gradient);
    Compute<S>* const weight =
        begin_sums(reductions.each[0], weight_sums(problem, chunks), results.weight, partials.weight);
    Compute<S>* const bias = begin_sums(reductions.each[1], bias_sums(problem, chunks), results.bias, partials.bias);
    if (chunks.count == 0) {
      return nullptr;
    }
    return launch<WeightShared<S, N, PLAIN>>(weight_gradient_kernel<S, decltype(tensor)::value, N, PLAIN>,
                                             problem.groups * chunks.count * blocks_per_chunk, stream, gradient, plan,
                                             plan, chunks, weight, bias);
  });
}

template <class S>
const char* adjacency_gradient(const Problem& problem, const Layer<S>& layer, const Strided<const S, 5>& grad_y,
                               const Gradients<S>& partials, const Results<S>& results, bool allow_tf32,
                               Reductions<S>& reductions, void* stream) {
  return dispatch<S>(allow_tf32, [&](auto tensor) -> const char* {
    constexpr bool TENSOR = decltype(tensor)::value;
    constexpr int N = ADJACENCY_COLUMNS;
    const auto begin = [&](const Chunks& chunks) {
      return begin_sums(reductions.each[2], adjacency_sums(problem, chunks), results.adjacency, partials.adjacency);
    };
    if (layer.edges.per_channel) {
      using Shared = ChannelAdjacencyShared<S, N>;
      const auto [plan, blocks_per_chunk, chunks] = plan_adjacency<Shared>(problem, layer);
      Compute<S>* const adjacency = begin(chunks);
      const int64_t blocks = int64_t{layer.groups} * layer.clips * layer.edges.parts * divide_up(layer.out_channels, N);
      return chunks.count == 0 ? nullptr
                               : launch<Shared>(channel_adjacency_gradient_kernel<S, TENSOR, N>, blocks, stream, layer,
                                                plan, grad_y, plan, adjacency);
    }
    using Shared = AdjacencyShared<S, N>;
    const auto [plan, blocks_per_chunk, chunks] = plan_adjacency<Shared>(problem, layer);
    Compute<S>* const adjacency = begin(chunks);
    return chunks.count == 0 ? nullptr
                             : launch<Shared>(adjacency_gradient_kernel<S, TENSOR, N>,
                                              problem.groups * chunks.count * blocks_per_chunk, stream, layer, plan,
                                              grad_y, plan, chunks, adjacency);
  });
}

template <class S>
const char* reduce(const Reductions<S>& reductions, void* stream) {
  int64_t most = 0;
  for (const Reduction<S>& reduction : reductions.each) {
    most = larger(most, reduction.total);
  }
  if (most == 0) {
    return nullptr;
  }
  const auto blocks = static_cast<unsigned>(smaller(divide_up<int64_t>(most, REDUCTION_LANES), MAX_BLOCKS));
  constexpr int THREADS = REDUCTION_LANES * REDUCTION_TURNS;
  IKEM_LAUNCH(reduce_kernel<S>, dim3(blocks, 3), THREADS, THREADS * sizeof(Compute<S>),
              static_cast<cudaStream_t>(stream), reductions);
  return ikem::cuda::launch_error();
}

}  // namespace

template <class S>
const char* forward(const Problem& problem, const Operands<S>& operands, const Strided<S, 5>& y, bool allow_tf32,
                    void* stream) {
  return convolve(make_layer(problem, operands), y, problem.order, allow_tf32, stream);
}

template <class S>
Workspace workspace(const Problem& problem) {
  const Layer<S> layer = make_layer<S>(problem, {});
  const WeightGradient<S> gradient = make_weight_gradient<S>(problem, layer, {});
  const Chunks weight = dispatch_weight(gradient, false, [&](auto, auto n, auto plain) {
    return plan_weight<S, decltype(n)::value, decltype(plain)::value>(problem, gradient).chunks;
  });
  const Chunks adjacency = plan_adjacency<AdjacencyShared<S, ADJACENCY_COLUMNS>>(problem, layer).chunks;
  return {partial_elements<S>(weight_sums(problem, weight)), partial_elements<S>(bias_sums(problem, weight)),
          partial_elements<S>(adjacency_sums(problem, adjacency))};
}

template <class S>
const char* backward(const Problem& problem, const Operands<S>& operands, const Strided<const S, 5>& grad_y,
                     const Gradients<S>& gradients, const Results<S>& results, bool allow_tf32, void* stream) {
  const Layer<S> layer = make_layer(problem, operands);
  const char* error = nullptr;
  if (gradients.x.data != nullptr) {
    const Order order = problem.order == Order::aggregate_first ? Order::transform_first : Order::aggregate_first;
    error = convolve(transposed(layer, grad_y), gradients.x, order, allow_tf32, stream);
  }
  Reductions<S> reductions{};
  if (error == nullptr && (results.weight != nullptr || results.bias != nullptr)) {
    error = weight_gradient(problem, make_weight_gradient(problem, layer, grad_y), gradients, results, allow_tf32,
                            reductions, stream);
  }
  if (error == nullptr && results.adjacency != nullptr) {
    error = adjacency_gradient(problem, layer, grad_y, gradients, results, allow_tf32, reductions, stream);
  }
  return error == nullptr ? reduce(reductions, stream) : error;
}

#define INSTANTIATE(S)                                                                                    \
  template const char* forward<S>(const Problem&, const Operands<S>&, const Strided<S, 5>&, bool, void*); \
  template Workspace workspace<S>(const Problem&);                                                        \
  template const char* backward<S>(const Problem&, const Operands<S>&, const Strided<const S, 5>&,        \
                                   const Gradients<S>&, const Results<S>&, bool, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::graph_conv::cuda
