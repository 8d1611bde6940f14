// How the blocks go through features: each through some channels, and of these through a chunk of their positions.
//
// With the channels innermost, LAST, a position is a row of channels, and a thread has a pack of V of them. Otherwise a
// position is a pack of V elements of one channel of one clip, and a block has one channel. Packs start where memory
// may be read that many elements at a time, so the first and the last of a clip's channel may reach beyond it.
#pragma once

#include "batch_norm/kernel.h"
#include "batch_norm/math.h"
#include "common/integers.h"
#include "common/launch.h"
#include "common/pack.h"

namespace ikem::batch_norm::cuda {
namespace {

using namespace ::ikem::cuda;

constexpr int THREADS = 256;

// Blocks that the work is spread over, some for each multiprocessor of the largest GPUs. As it is the same on all, so
// is every bit of the sums.
constexpr int64_t BLOCKS = 1024;

// To a multiprocessor: asked for more, the compiler spills registers.
template <int V>
constexpr int BLOCKS_AT_ONCE = V >= 8 ? 3 : 4;

struct Walk {
  Layout layout;
  int columns, rows;                  // of threads: packs of channels, by positions
  int64_t tiles;                      // of the channels; a block has one
  int64_t packs;                      // of one channel of one clip, unless LAST
  int64_t positions, chunks, length;  // of which a chunk has `length`
  int64_t row_packs, row_clips;       // how far `rows` positions are

  int64_t blocks() const { return tiles * chunks; }
};

template <int V, bool LAST>
Walk make_walk(const Layout& layout) {
  constexpr int64_t MIN_TURNS = 4;  // of a thread, so that what follows on them counts little
  Walk walk{layout, 1, THREADS, layout.channels, 1, layout.outer};
  if (layout.numel() == 0) {
    return walk;
  }
  if (LAST) {
    const int64_t channel_packs = layout.channels / V;
    walk.columns = static_cast<int>(smaller<int64_t>(channel_packs, THREADS));
    walk.rows = THREADS / walk.columns;
    walk.tiles = divide_up(channel_packs, walk.columns);
  } else {
    walk.packs = layout.inner % V == 0 ? layout.inner / V : (layout.inner + 2 * (V - 1)) / V;
    walk.positions = layout.outer * walk.packs;
    walk.row_packs = walk.rows % walk.packs;
    walk.row_clips = walk.rows / walk.packs;
  }
  const int64_t most = divide_up(walk.positions, MIN_TURNS * walk.rows);
  const int64_t wanted = smaller(larger<int64_t>(BLOCKS / walk.tiles, 1), most);
  walk.length = round_up(divide_up(walk.positions, wanted), walk.rows);
  walk.chunks = divide_up(walk.positions, walk.length);
  return walk;
}

// Where a pack lies, and which of its elements count.
template <int V, bool LAST>
struct Window {
  int64_t at;
  int from, to;
  uint32_t place, step;  // in the order (o, i, c), and from element to element

  __device__ bool is_whole() const { return LAST || V == 1 || to - from == V; }
  __device__ bool has(int i) const { return LAST || V == 1 || (i >= from && i < to); }
};

// This thread's part of a walk.
template <int V, bool LAST>
class Turn {
 public:
  static constexpr int CHANNELS = LAST ? V : 1;  // that a thread has to do with
  int64_t channel, chunk;                        // the first of them
  int row;
  bool active;

  __device__ explicit Turn(const Walk& walk)
      : chunk(blockIdx.x / walk.tiles), row(static_cast<int>(threadIdx.x) / walk.columns), walk_(walk) {
    const int column = static_cast<int>(threadIdx.x) % walk.columns;
    channel = (blockIdx.x % walk.tiles * walk.columns + column) * CHANNELS;
    active = row < walk.rows && channel < walk.layout.channels;
  }

  // Calls f(Window) for this thread's packs.
  template <class F>
  __device__ void for_each(F f) const {
    if (!active) {
      return;
    }
    const Layout& layout = walk_.layout;
    const int64_t end = smaller((chunk + 1) * walk_.length, walk_.positions);
    int64_t position = chunk * walk_.length + row;
    if constexpr (LAST) {
      for (; position < end; position += walk_.rows) {
        const int64_t at = position * layout.channels + channel;
        f(Window<V, LAST>{at, 0, V, static_cast<uint32_t>(at), 1});
      }
    } else {
      int64_t clip = position / walk_.packs;
      int64_t pack = position % walk_.packs;
      for (; position < end; position += walk_.rows) {
        const int64_t begin = (clip * layout.channels + channel) * layout.inner;  // of the clip's channel
        const int64_t at = begin / V * V + pack * V;
        const int from = static_cast<int>(larger<int64_t>(begin - at, 0));
        const int to = static_cast<int>(smaller<int64_t>(begin + layout.inner - at, V));
        const int64_t place = (clip * layout.inner + at - begin) * layout.channels + channel;
        if (from < to) {
          f(Window<V, LAST>{at, from, to, static_cast<uint32_t>(place), static_cast<uint32_t>(layout.channels)});
        }
        pack += walk_.row_packs;
        clip += walk_.row_clips;
        if (pack >= walk_.packs) {
          pack -= walk_.packs;
          ++clip;
        }
      }
    }
  }

 private:
  const Walk& walk_;
};

// Zero where an element does not count.
template <class T, int V, bool LAST, class C>
__device__ void load(const T* data, const Window<V, LAST>& window, C (&values)[V]) {
  Pack<T, V> pack{};
  if (window.is_whole()) {
    pack = read_pack<V>(data + window.at);
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (window.has(i)) {
        pack.values[i] = data[window.at + i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) {
    values[i] = widen(pack.values[i]);
  }
}

template <class S, int V, bool LAST>
__device__ void store(S* data, const Window<V, LAST>& window, const Compute<S> (&values)[V]) {
  Pack<S, V> pack;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    pack.values[i] = narrow<S>(values[i]);
  }
  if (window.is_whole()) {
    write_pack(data + window.at, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (window.has(i)) {
      data[window.at + i] = pack.values[i];
    }
  }
}

// Numbers of a thread's channels.
template <class C, int V, bool LAST>
class PerChannel {
 public:
  __device__ PerChannel(const C* values, const Turn<V, LAST>& turn) {
#pragma unroll
    for (int i = 0; i < Turn<V, LAST>::CHANNELS; ++i) {
      values_[i] = turn.active ? values[turn.channel + i] : C(0);
    }
  }

  __device__ C at(int i) const { return values_[LAST ? i : 0]; }

 private:
  C values_[Turn<V, LAST>::CHANNELS];
};

// Which entries stay: see `Dropout`.
template <class C>
class Kept {
 public:
  __device__ explicit Kept(const Dropout& dropout)
      : seed_(dropout.seed_memory == nullptr ? dropout.seed : *dropout.seed_memory),
        threshold_(dropout.threshold),
        gain_(static_cast<C>(dropout.gain)) {}

  template <int V, bool LAST>
  __device__ C operator()(const Window<V, LAST>& window, int i) const {
    return random_bits(seed_, window.place + i * window.step) >= threshold_ ? gain_ : C(0);
  }

 private:
  uint64_t seed_;
  uint32_t threshold_;
  C gain_;
};

// own = what the threads of its column have, put together from top to bottom in a fixed order, in the first row;
// `memory` is shared, for one T of each thread. For all threads of the block.
template <class T, int V, bool LAST, class F>
__device__ void reduce_rows(T& own, T* memory, const Walk& walk, const Turn<V, LAST>& turn, F combine) {
  int half = 1;
  while (2 * half < walk.rows) {
    half *= 2;
  }
  memory[threadIdx.x] = own;
  for (; half > 0; half /= 2) {
    __syncthreads();
    if (turn.row < half && turn.row + half < walk.rows) {
      combine(own, memory[threadIdx.x + half * walk.columns]);
      memory[threadIdx.x] = own;
    }
  }
}

// Calls f(walk, constant V, constant LAST): with packs where all tensors may be read and written by them.
template <class S, class F>
auto with_walk(const Layout& layout, bool aligned, F f) {
  const auto call = [&](auto v, auto last) {
    return f(make_walk<decltype(v)::value, decltype(last)::value>(layout), v, last);
  };
  constexpr std::integral_constant<int, PACK<S>> whole{};
  constexpr std::integral_constant<int, 1> single{};
  if (layout.inner == 1) {
    return aligned && layout.channels % PACK<S> == 0 ? call(whole, std::true_type{}) : call(single, std::true_type{});
  }
  return aligned ? call(whole, std::false_type{}) : call(single, std::false_type{});
}

// Whether packs may start at each of the pointers, null among them.
template <class... T>
bool are_aligned(const T*... data) {
  return (... && (reinterpret_cast<uintptr_t>(data) % 16 == 0));
}

}  // namespace
}  // namespace ikem::batch_norm::cuda
