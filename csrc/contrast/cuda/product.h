// Products of matrices on CUDA, with a function of the caller's applied to what comes out. Each block makes one tile of
// the product: slices of both factors pass through shared memory, some of them on their way while one is multiplied.
//
// float32 and float64 are multiplied as they are, by fused multiply-adds; with TENSOR float32 is rounded to TF32 for
// the tensor cores, which take float16 and bfloat16 in any case and add up in float32. The order of every sum follows
// from the sizes alone.
#pragma once

#include "common/async_copy.h"
#include "common/integers.h"
#include "common/launch.h"
#include "common/mma.h"
#include "common/pack.h"
#include "contrast/kernel.h"

namespace ikem::contrast::cuda {
namespace {

// Vectors (groups, parts, lines, elements), strides in elements.
template <class T>
struct Source {
  const T* data;
  int64_t group, part, line, element;
  bool aligned;  // lines can be copied 16 bytes at a time

  Source(const Vectors<T>& vectors, int64_t groups)
      : data(vectors.data),
        group(groups > 1 ? vectors.strides[0] : 0),
        part(vectors.parts > 1 ? vectors.strides[1] : 0),
        line(vectors.strides[2]),
        element(vectors.strides[3]) {
    const auto fits = [](int64_t stride) { return stride * static_cast<int64_t>(sizeof(T)) % ASYNC_COPY_BYTES == 0; };
    aligned = element == 1 && fits(group) && fits(part) && fits(line) &&
              reinterpret_cast<uintptr_t>(data) % ASYNC_COPY_BYTES == 0;
  }

  Source from_line(int64_t first) const {
    Source source = *this;
    source.data += first * line;
    return source;
  }

 private:
  static constexpr int ASYNC_COPY_BYTES = ikem::cuda::ASYNC_COPY_BYTES;
};

// Whether a sum runs over a factor's elements, or over its lines.
enum class Depth { elements, lines };

// A slice of one factor in shared memory: EXTENT rows (or columns) of the product, DEEP terms of its sums. Lines are
// padded so that the lanes of a warp find what they need in different banks.
template <class T, Depth DEPTH, int EXTENT, int DEEP>
struct Slice {
  static constexpr bool ALONG = DEPTH == Depth::elements;
  static constexpr int LINES = ALONG ? EXTENT : DEEP;
  static constexpr int ELEMENTS = ALONG ? DEEP : EXTENT;
  static constexpr int UNIT = ikem::cuda::ASYNC_COPY_BYTES / static_cast<int>(sizeof(T));
  static constexpr int PITCH = ELEMENTS + (ALONG ? UNIT : 8);
  static constexpr int SIZE = LINES * PITCH;

  T* memory;

  __device__ T at(int index, int depth) const { return memory[ALONG ? index * PITCH + depth : depth * PITCH + index]; }

  // Fills the slice from a group's part: rows from `first` on of `extent`, terms from `depth` on of `end`. What lies
  // beyond is zero.
  template <int THREADS>
  __device__ void load(const Source<T>& source, int64_t group, int64_t part, int64_t first, int64_t extent,
                       int64_t depth, int64_t end) const {
    const int64_t first_line = ALONG ? first : depth;
    const int64_t first_element = ALONG ? depth : first;
    const int lines = room(ALONG ? extent - first : end - depth, LINES);
    const int elements = room(ALONG ? end - depth : extent - first, ELEMENTS);
    const T* from = source.data + group * source.group + part * source.part + first_line * source.line +
                    first_element * source.element;
    constexpr int UNITS = ELEMENTS / UNIT;
#pragma unroll 2
    for (int i = threadIdx.x; i < LINES * UNITS; i += THREADS) {
      const int line = i / UNITS;
      const int element = i % UNITS * UNIT;
      const int wanted = line < lines ? elements - element : 0;
      T* to = memory + line * PITCH + element;
      const T* unit = from + line * source.line + element * source.element;
      if (source.aligned && (wanted >= UNIT || wanted <= 0)) {
        ikem::cuda::copy_async(to, unit, wanted > 0);
      } else {
        for (int e = 0; e < UNIT; ++e) {
          to[e] = e < wanted ? unit[e * source.element] : T{};
        }
      }
    }
  }

 private:
  __device__ static int room(int64_t left, int most) { return left < most ? static_cast<int>(left) : most; }
};

// The product's tile in the registers of a block's threads, by fused multiply-adds: 16 x 16 threads, each with a
// square of elements.
template <class C, Depth A_DEPTH, Depth B_DEPTH>
struct PlainTile {
  static constexpr int SIDE = sizeof(C) == 8 ? 4 : 8;
  static constexpr int EXTENT = 16 * SIDE;
  static constexpr int THREADS = 256;
  static constexpr int BLOCKS_PER_SM = 2;
  static constexpr int DEEP = 64 / static_cast<int>(sizeof(C));
  using A = Slice<C, A_DEPTH, EXTENT, DEEP>;
  using B = Slice<C, B_DEPTH, EXTENT, DEEP>;

  C sums[SIDE][SIDE] = {};

  __device__ void add(A a, B b) {
    C left[SIDE][PACK], right[SIDE][PACK];
#pragma unroll 1  // or else registers are spilled
    for (int depth = 0; depth < DEEP; depth += PACK) {
      read(a, depth, thread_row(), left);
      read(b, depth, thread_column(), right);
#pragma unroll
      for (int k = 0; k < PACK; ++k) {
#pragma unroll
        for (int i = 0; i < SIDE; ++i) {
#pragma unroll
          for (int j = 0; j < SIDE; ++j) {
            sums[i][j] += left[i][k] * right[j][k];
          }
        }
      }
    }
  }

  // Calls f(row, column, sum) for this thread's elements.
  template <class F>
  __device__ void for_each(F f) {
#pragma unroll
    for (int i = 0; i < SIDE; ++i) {
#pragma unroll
      for (int j = 0; j < SIDE; ++j) {
        f(index<A>(thread_row(), i), index<B>(thread_column(), j), sums[i][j]);
      }
    }
  }

 private:
  // Shared memory is read 16 bytes at a time: along the depth, or along the rows (columns).
  static constexpr int PACK = ikem::cuda::PACK<C>;

  // A warp spans 4 x 8 threads.
  __device__ static int thread_row() { return static_cast<int>(threadIdx.x / 64 * 4 + threadIdx.x % 32 / 8); }
  __device__ static int thread_column() { return static_cast<int>(threadIdx.x / 32 % 2 * 8 + threadIdx.x % 8); }

  template <class Slice>
  __device__ static int index(int thread, int i) {
    return Slice::ALONG ? thread + 16 * i : PACK * (thread + 16 * (i / PACK)) + i % PACK;
  }

  template <class Slice>
  __device__ static void read(Slice slice, int depth, int thread, C (&values)[SIDE][PACK]) {
    const auto pack = [&](int row, int k) {
      return ikem::cuda::read_pack<PACK>(slice.memory +
                                         (Slice::ALONG ? row * Slice::PITCH + k : k * Slice::PITCH + row));
    };
#pragma unroll
    for (int i = 0; i < SIDE; i += Slice::ALONG ? 1 : PACK) {
#pragma unroll
      for (int k = 0; k < (Slice::ALONG ? 1 : PACK); ++k) {
        const auto read = pack(index<Slice>(thread, i), depth + k);
#pragma unroll
        for (int v = 0; v < PACK; ++v) {
          values[Slice::ALONG ? i : i + v][Slice::ALONG ? v : k] = read.values[v];
        }
      }
    }
  }
};

// The same by the tensor cores: four warps, each with a quarter of the tile.
template <class TA, Depth A_DEPTH, class TB, Depth B_DEPTH>
struct TensorTile {
  static constexpr int EXTENT = 128;
  static constexpr int THREADS = 128;
  static constexpr int BLOCKS_PER_SM = 2;
  static constexpr int DEEP = 64 / static_cast<int>(sizeof(TA));
  using A = Slice<TA, A_DEPTH, EXTENT, DEEP>;
  using B = Slice<TB, B_DEPTH, EXTENT, DEEP>;

  float sums[4][8][4] = {};

  __device__ void add(A a, B b) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < DEEP / STEP; ++step) {
      uint32_t right[8][2];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        ikem::cuda::load_right(right[j], lane, [&](int column, int word) {
          return read(b, first_column() + 8 * j + column, step * STEP + word * PACKED);
        });
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t left[4];
        ikem::cuda::load_left(left, lane, [&](int row, int word) {
          return read(a, first_row() + 16 * i + row, step * STEP + word * PACKED);
        });
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          ikem::cuda::mma<Scalar>(sums[i][j], left, right[j]);
        }
      }
    }
  }

  template <class F>
  __device__ void for_each(F f) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        ikem::cuda::for_each_sum(sums[i][j], threadIdx.x % 32, [&](int row, int column, float sum) {
          f(first_row() + 16 * i + row, first_column() + 8 * j + column, sum);
        });
      }
    }
  }

 private:
  // Two factors of the same half precision are multiplied in it, all others in TF32, in which half precision is exact.
  static constexpr int PACKED = 4 / static_cast<int>(sizeof(TA));
  using Scalar = std::conditional_t<PACKED == 2, TA, ikem::cuda::Tf32>;
  static constexpr int STEP = ikem::cuda::MMA_WORDS * PACKED;
  static_assert(PACKED == 1 || (std::is_same_v<TA, TB> && A::ALONG && B::ALONG));

  __device__ static int first_row() { return static_cast<int>(threadIdx.x / 64 * 64); }
  __device__ static int first_column() { return static_cast<int>(threadIdx.x / 32 % 2 * 64); }

  template <class Slice>
  __device__ static uint32_t read(Slice slice, int index, int depth) {
    if constexpr (PACKED == 2) {
      return *reinterpret_cast<const uint32_t*>(slice.memory + index * Slice::PITCH + depth);
    } else {
      return ikem::cuda::to_tf32(widen(slice.at(index, depth))).bits;
    }
  }
};

// (groups, rows, column_parts * columns) = sums over depth_parts * depth terms, which `splits` blocks share (only where
// depth_parts is 1): each makes a part of its own.
template <class TA, class TB>
struct Product {
  Source<TA> a;
  Source<TB> b;
  int64_t groups, rows, columns, column_parts, depth, depth_parts, splits;

  template <class Tile>
  IKEM_INLINE int64_t tasks() const {
    return groups * splits * column_parts * divide_up(columns, Tile::EXTENT) * divide_up(rows, Tile::EXTENT);
  }
};

// Where an element of a product belongs.
struct Place {
  int64_t split, group, column_part, row, column;
};

constexpr int STAGES = 4;

template <class Tile>
constexpr size_t tile_bytes() {
  using A = typename Tile::A;
  using B = typename Tile::B;
  return STAGES * (A::SIZE * sizeof(A::memory[0]) + B::SIZE * sizeof(B::memory[0]));
}

template <class Tile, class TA, class TB, class Emit>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS_PER_SM)
    product_kernel(const __grid_constant__ Product<TA, TB> product, const __grid_constant__ Emit emit) {
  IKEM_DYNAMIC_SHARED(memory);
  using A = typename Tile::A;
  using B = typename Tile::B;
  TA* const a_memory = reinterpret_cast<TA*>(memory);
  TB* const b_memory = reinterpret_cast<TB*>(a_memory + STAGES * A::SIZE);

  const int64_t tasks = product.template tasks<Tile>();
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    // Blocks that run together share columns: their tiles of the queue are in the cache.
    const int64_t row_tiles = divide_up(product.rows, Tile::EXTENT);
    const int64_t column_tiles = divide_up(product.columns, Tile::EXTENT);
    const int64_t first_row = task % row_tiles * Tile::EXTENT;
    int64_t rest = task / row_tiles;
    const int64_t first_column = rest % column_tiles * Tile::EXTENT;
    rest /= column_tiles;
    const int64_t column_part = rest % product.column_parts;
    rest /= product.column_parts;
    const int64_t group = rest % product.groups;
    const int64_t split = rest / product.groups;

    const int64_t share = divide_up(divide_up(product.depth, product.splits), Tile::DEEP) * Tile::DEEP;
    const int64_t begin = split * share;
    const int64_t end = begin + share < product.depth ? begin + share : product.depth;
    const int64_t slices = (begin < end ? divide_up(end - begin, Tile::DEEP) : 0) * product.depth_parts;

    int64_t depth = begin, depth_part = 0;  // of the slice to be loaded next
    const auto load = [&](int64_t slice) {
      if (slice < slices) {
        const int64_t stage = slice % STAGES;
        A{a_memory + stage * A::SIZE}.template load<Tile::THREADS>(product.a, group, depth_part, first_row,
                                                                   product.rows, depth, end);
        B{b_memory + stage * B::SIZE}.template load<Tile::THREADS>(product.b, group, depth_part + column_part,
                                                                   first_column, product.columns, depth, end);
        depth += Tile::DEEP;
        if (depth >= end) {
          depth = begin;
          ++depth_part;
        }
      }
      ikem::cuda::commit_copies();
    };

    __syncthreads();
    for (int slice = 0; slice < STAGES - 1; ++slice) {
      load(slice);
    }
    Tile tile;
    for (int64_t slice = 0; slice < slices; ++slice) {
      ikem::cuda::wait_for_copies<STAGES - 2>();
      __syncthreads();
      load(slice + STAGES - 1);
      const int64_t stage = slice % STAGES;
      tile.add(A{a_memory + stage * A::SIZE}, B{b_memory + stage * B::SIZE});
    }
    ikem::cuda::wait_for_copies<0>();
    tile.for_each([&](int row, int column, auto sum) {
      if (first_row + row < product.rows && first_column + column < product.columns) {
        emit(Place{split, group, column_part, first_row + row, first_column + column}, sum);
      }
    });
  }
}

// Calls emit(Place, sum) on the device for each element of the product.
template <class Tile, class TA, class TB, class Emit>
const char* multiply(const Product<TA, TB>& product, const Emit& emit, cudaStream_t stream) {
  const int64_t tasks = product.template tasks<Tile>();
  if (tasks == 0) {
    return nullptr;
  }
  const auto kernel = product_kernel<Tile, TA, TB, Emit>;
  return ikem::cuda::launch(kernel, ikem::cuda::blocks_for(tasks), Tile::THREADS, tile_bytes<Tile>(), stream, product,
                            emit);
}

}  // namespace
}  // namespace ikem::contrast::cuda
