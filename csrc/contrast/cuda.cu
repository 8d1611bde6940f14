// Similarities are made for one chunk of the keys after another, in memory that does not grow with the keys and stays
// in the card's second-level cache, and are reduced from there: what is left of a chunk are sums. To keep a tile of
// similarities within a block and multiply it on the spot would save the way to the cache and back. But the sums of
// vectors that are hundreds of elements wide (the implicit exchange's are 768) do not fit into a block's registers with
// it, and to make the similarities again for each piece of their width costs more than that way.
//
// How the work is cut up follows from the sizes alone, and all that several blocks yield is merged in a fixed order.
#include <cmath>
#include <limits>

#include "common/warp.h"
#include "contrast/cuda/product.h"

namespace ikem::contrast::cuda {
namespace {

using namespace ::ikem::cuda;

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / WARP;
#ifndef IKEM_MAX_SIMILARITIES  // the tests want fewer
#define IKEM_MAX_SIMILARITIES (int64_t{1} << 22)
#endif
constexpr int64_t MAX_SIMILARITIES = IKEM_MAX_SIMILARITIES;
constexpr int64_t KEYS_MULTIPLE = 128;
constexpr int64_t BLOCKS_WANTED = 264;  // two for each multiprocessor of the largest cards

template <class C>
constexpr C NONE = -std::numeric_limits<C>::infinity();

__device__ __forceinline__ float exponential(float x) { return exp2f(x * 1.44269504f); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

template <class C>
__device__ C larger(C a, C b) {
  return a > b ? a : b;
}

template <class C>
__device__ ExpSum<C> merged(ExpSum<C> a, ExpSum<C> b) {
  const C max = larger(a.max, b.max);
  return max > NONE<C> ? ExpSum<C>{max, a.sum * exponential(a.max - max) + b.sum * exponential(b.max - max)} : a;
}

template <class C>
__device__ C log_of(ExpSum<C> total) {
  return total.max + log(total.sum);
}

// ---- How the work is cut up ----

// The keys in chunks, for `rows` rows of similarities. There is at least one, though it may be empty.
struct Chunks {
  int64_t keys, size, count;

  Chunks(int64_t rows, int64_t keys) : keys(keys) {
    const int64_t wanted = divide_up(rows * keys, MAX_SIMILARITIES);
    size = divide_up(divide_up(keys, wanted > 1 ? wanted : 1), KEYS_MULTIPLE) * KEYS_MULTIPLE;
    size = size > 0 ? size : KEYS_MULTIPLE;
    count = keys > 0 ? divide_up(keys, size) : 1;
  }

  // Calls f(keys, whether they are the first) until it returns an error.
  template <class F>
  const char* for_each(F f) const {
    for (int64_t begin = 0; begin < count * size; begin += size) {
      const Range range{begin, begin + size < keys ? begin + size : keys};
      if (const char* error = f(range, begin == 0)) {
        return error;
      }
    }
    return nullptr;
  }
};

// Into how many sums of vectors the sum over a chunk's keys is split, to keep all of the card busy.
int64_t count_splits(int64_t groups, int64_t queries, int64_t width, int64_t chunk_keys) {
  const int64_t tiles = groups * divide_up(queries, 128) * divide_up(width, 128);
  const int64_t most = divide_up(chunk_keys, KEYS_MULTIPLE);
  const int64_t wanted = BLOCKS_WANTED / (tiles > 0 ? tiles : 1);
  return wanted < 1 ? 1 : wanted < most ? wanted : most;
}

template <class Workspace, class... Arguments>
int64_t workspace_bytes(const Arguments&... arguments) {
  return static_cast<int64_t>(count_bytes([&](SharedArrays& arrays) { Workspace(arrays, arguments...); }));
}

template <class Kernel, class... Arguments>
const char* launch(Kernel kernel, int64_t tasks, size_t shared_bytes, cudaStream_t stream,
                   const Arguments&... arguments) {
  if (tasks == 0) {
    return nullptr;
  }
  return ikem::cuda::launch(kernel, blocks_for(tasks), THREADS, shared_bytes, stream, arguments...);
}

// ---- Products ----

// Half precision is multiplied by tensor cores; float32 by them only where TENSOR, and otherwise as it is.
template <class S, bool TENSOR>
struct Tiles {
  using C = Compute<S>;
  using Similarities = TensorTile<S, Depth::elements, S, Depth::elements>;
  using Means = TensorTile<C, Depth::elements, S, Depth::lines>;
  using Gradient = TensorTile<C, Depth::lines, C, Depth::lines>;
};
template <class S>
struct Tiles<S, false> {
  using Similarities = PlainTile<S, Depth::elements, Depth::elements>;
  using Means = PlainTile<S, Depth::elements, Depth::lines>;
  using Gradient = PlainTile<S, Depth::lines, Depth::lines>;
};

// Calls f(Tiles<S, ...>{}).
template <class S, class F>
const char* with_tiles(bool allow_tf32, F f) {
  return dispatch_tensor_cores<S>(allow_tf32, [&](auto tensor) { return f(Tiles<S, decltype(tensor)::value>{}); });
}

// Vectors whose parts follow each other in memory have one part.
template <class S>
Vectors<S> joined(Vectors<S> vectors) {
  if (vectors.parts > 1 && vectors.strides[1] == vectors.part_width * vectors.strides[3]) {
    vectors.part_width *= vectors.parts;
    vectors.parts = 1;
  }
  return vectors;
}

// Contiguous rows (groups, count, parts * part_width).
template <class T>
Vectors<T> rows_of(const T* data, int64_t count, int64_t parts, int64_t part_width) {
  return {data, parts, part_width, {count * parts * part_width, part_width, parts * part_width, 1}};
}

// Stores a similarity, or, given the log-sum-exps, the gradient of sum(weights * log_sums) for it.
template <class C>
struct StoreSimilarity {
  C* out;  // (groups, queries, pitch)
  int64_t queries, pitch;
  C scale = 0;
  const C *log_sums = nullptr, *weights = nullptr;  // (groups, queries)

  __device__ void operator()(const Place& place, C sum) const {
    const int64_t row = place.group * queries + place.row;
    out[row * pitch + place.column] =
        log_sums == nullptr ? sum : scale * weights[row] * exponential(scale * sum - log_sums[row]);
  }
};

// Adds to the sums of vectors; what was added before shrinks by the factors.
template <class C>
struct AddVectors {
  C* out;            // (splits, groups, queries, width)
  const C* factors;  // (groups, queries), or null: 1
  bool first;        // nothing was added before
  int64_t groups, queries, width, part_width;

  __device__ void operator()(const Place& place, C sum) const {
    const int64_t row = place.group * queries + place.row;
    C* to = out + (place.split * groups * queries + row) * width + place.column_part * part_width + place.column;
    const C before = first ? C(0) : factors == nullptr ? *to : *to * factors[row];
    *to = before + sum;
  }
};

template <class C>
struct StoreKeyGradient {
  C* out;  // (groups, parts, keys, part_width)
  int64_t parts, keys, first_key, part_width;

  __device__ void operator()(const Place& place, C sum) const {
    const int64_t vector = (place.group * parts + place.column_part) * keys + first_key + place.row;
    out[vector * part_width + place.column] = sum;
  }
};

template <class S>
__global__ void __launch_bounds__(THREADS) narrow_kernel(const Compute<S>* from, S* to, int64_t size) {
  for (int64_t i = blockIdx.x * int64_t{THREADS} + threadIdx.x; i < size; i += gridDim.x * int64_t{THREADS}) {
    to[i] = narrow<S>(from[i]);
  }
}

// Queries for the tensor cores: in half precision in the queue's type, which loses nothing where they come from it.
template <class S>
struct Queries {
  const Compute<S>* data;
  S* narrowed;  // null where S is the type computed in
  int64_t groups, count, width;

  static S* take(SharedArrays& arrays, int64_t size) {
    return std::is_same_v<S, Compute<S>> ? nullptr : arrays.take<S>(size);
  }

  const char* prepare(cudaStream_t stream) const {
    if constexpr (std::is_same_v<S, Compute<S>>) {
      return nullptr;
    } else {
      const int64_t size = groups * count * width;
      return launch(narrow_kernel<S>, divide_up(size, THREADS), 0, stream, data, narrowed, size);
    }
  }

  Vectors<S> to_multiply(int64_t parts, int64_t part_width) const {
    if constexpr (std::is_same_v<S, Compute<S>>) {
      return rows_of(data, count, parts, part_width);
    } else {
      return rows_of<S>(narrowed, count, parts, part_width);
    }
  }
};

// emit(Place, similarity of a query with one of the keys), in chunks of keys.
template <class Tile, class S, class Emit>
const char* multiply_similarities(const Queries<S>& q, const Vectors<S>& queue, Range keys, const Emit& emit,
                                  cudaStream_t stream) {
  const Vectors<S> vectors = joined(queue);
  const Product<S, S> product{Source<S>(q.to_multiply(vectors.parts, vectors.part_width), q.groups),
                              Source<S>(vectors, q.groups).from_line(keys.begin),
                              q.groups,
                              q.count,
                              keys.size(),
                              /*column_parts=*/1,
                              vectors.part_width,
                              vectors.parts,
                              /*splits=*/1};
  return multiply<Tile>(product, emit, stream);
}

// Adds the chunk's keys by the weights, (groups, queries, pitch), to `sums`.
template <class Tile, class S, class C = Compute<S>>
const char* add_vectors(const C* weights, int64_t pitch, int64_t groups, int64_t queries, const Vectors<S>& queue,
                        Range keys, int64_t splits, C* sums, const C* factors, bool first, cudaStream_t stream) {
  const Vectors<S> vectors = joined(queue);
  const Product<C, S> product{Source<C>(rows_of(weights, queries, 1, pitch), groups),
                              Source<S>(vectors, groups).from_line(keys.begin),
                              groups,
                              queries,
                              vectors.part_width,
                              vectors.parts,
                              keys.size(),
                              /*depth_parts=*/1,
                              splits};
  const AddVectors<C> emit{sums, factors, first, groups, queries, vectors.width(), vectors.part_width};
  return multiply<Tile>(product, emit, stream);
}

// The gradient for the chunk's keys from that of the similarities, (groups, queries, pitch).
template <class Tile, class C>
const char* multiply_key_gradient(const C* gradient, int64_t pitch, int64_t groups, int64_t queries, const C* q,
                                  int64_t parts, int64_t part_width, int64_t all_keys, Range keys, C* grad_queue,
                                  cudaStream_t stream) {
  const Product<C, C> product{Source<C>(rows_of(gradient, queries, 1, pitch), groups),
                              Source<C>(rows_of(q, queries, parts, part_width), groups),
                              groups,
                              keys.size(),
                              part_width,
                              parts,
                              queries,
                              /*depth_parts=*/1,
                              /*splits=*/1};
  return multiply<Tile>(product, StoreKeyGradient<C>{grad_queue, parts, all_keys, keys.begin, part_width}, stream);
}

// out (rows, width) = the sum of the splits, (splits, rows, width), divided by the rows' totals unless they are null.
template <class C>
__global__ void __launch_bounds__(THREADS)
    sum_splits_kernel(const C* parts, int64_t splits, const ExpSum<C>* totals, int64_t rows, int64_t width, C* out) {
  const int64_t size = rows * width;
  for (int64_t i = blockIdx.x * int64_t{THREADS} + threadIdx.x; i < size; i += gridDim.x * int64_t{THREADS}) {
    C sum = 0;
    for (int64_t split = 0; split < splits; ++split) {
      sum += parts[split * size + i];
    }
    const C total = totals == nullptr ? C(1) : totals[i / width].sum;
    out[i] = total == 0 ? C(0) : sum / total;
  }
}

// ---- One queue ----

template <class S>
struct QueueWorkspace {
  using C = Compute<S>;
  Chunks chunks;
  int64_t splits;
  C* similarities;  // (G, N, chunks.size)
  S* q;             // see Queries
  ExpSum<C>* sums;  // (G, N)
  C* factors;       // (G, N)
  C* vectors;       // (splits, G, N, width)

  QueueWorkspace(SharedArrays& arrays, const QueueProblem& problem, bool with_means)
      : chunks(problem.groups * problem.queries, problem.keys),
        splits(count_splits(problem.groups, problem.queries, problem.width, chunks.size)) {
    const int64_t rows = problem.groups * problem.queries;
    similarities = arrays.take<C>(rows * chunks.size);
    q = Queries<S>::take(arrays, rows * problem.width);
    sums = arrays.take<ExpSum<C>>(rows);
    factors = arrays.take<C>(rows);
    vectors = arrays.take<C>(with_means ? splits * rows * problem.width : 0);
  }
};

// Takes a chunk's similarities into the rows' sums. If asked for, similarities become exp(scale * s - sum.max), and
// factors what earlier ones shrink by.
template <class C>
__global__ void __launch_bounds__(THREADS) weigh_kernel(C* similarities, int64_t rows, int64_t keys, int64_t pitch,
                                                        C scale, bool first, bool store, ExpSum<C>* sums, C* factors) {
  __shared__ C warps[WARPS];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    C* s = similarities + row * pitch;
    C max = NONE<C>;
    for (int64_t i = threadIdx.x; i < keys; i += THREADS) {
      max = larger(max, scale * s[i]);
    }
    const ExpSum<C> before = first ? ExpSum<C>{NONE<C>, C(0)} : sums[row];
    max = larger(before.max, reduce_block<THREADS>(max, warps, larger<C>));
    C sum = 0;
    for (int64_t i = threadIdx.x; i < keys; i += THREADS) {
      const C e = exponential(scale * s[i] - max);
      sum += e;
      if (store) {
        s[i] = e;
      }
    }
    sum = reduce_block<THREADS>(sum, warps, [](C a, C b) { return a + b; });
    if (threadIdx.x == 0) {
      const C factor = before.sum > 0 ? exponential(before.max - max) : C(0);
      sums[row] = {max, before.sum * factor + sum};
      factors[row] = factor;
    }
  }
}

template <class C>
__global__ void __launch_bounds__(THREADS) log_kernel(const ExpSum<C>* sums, int64_t rows, C* log_sums) {
  for (int64_t row = blockIdx.x * int64_t{THREADS} + threadIdx.x; row < rows; row += gridDim.x * int64_t{THREADS}) {
    log_sums[row] = log_of(sums[row]);
  }
}

// ---- The exchange between sets of queues ----

// Keys whose similarities are in shared memory together.
template <class C>
constexpr int SEGMENT = 4096 / static_cast<int>(sizeof(C));
constexpr int64_t MAX_SECTIONS = 8;

// What the kernels need to know of the problem.
struct Exchange {
  int64_t learners, guides, queries, topk;
  bool within, context;
  int64_t pitch;     // similarities: (sets, queries, pitch), the learners first, then the guides if they are others
  int64_t sections;  // into which a chunk's keys are cut; each keeps sums of its own

  IKEM_INLINE int64_t sets() const { return learners + (within ? 0 : guides); }
  IKEM_INLINE int64_t guide_set(int64_t guide) const { return within ? guide : learners + guide; }
  IKEM_INLINE int64_t pairs() const {
    return !context ? 0 : within ? learners * (learners - 1) / 2 : learners * guides;
  }
  IKEM_INLINE int64_t sums() const { return learners + pairs(); }

  // Learner and guide of a pair; within one set a < b.
  IKEM_INLINE void find_pair(int64_t pair, int64_t& a, int64_t& b) const {
    if (!within) {
      a = pair / guides;
      b = pair % guides;
      return;
    }
    for (a = 0; pair >= learners - 1 - a; ++a) {
      pair -= learners - 1 - a;
    }
    b = a + 1 + pair;
  }
};

// The nearest entries so far: largest first, of equal ones that of the lower index.
template <class C>
struct Nearest {
  C* values;         // (sections, B, N, topk)
  int64_t* indices;  // likewise
  int64_t* counts;   // (sections, B, N)
};

template <class S>
struct ExchangeWorkspace {
  using C = Compute<S>;
  Chunks chunks;
  Exchange exchange;
  int64_t splits;
  C* similarities;
  S *q, *guide;     // see Queries
  ExpSum<C>* sums;  // (sections, singles and then pairs, N)
  Nearest<C> nearest;
  C* vectors;  // (splits, A, N, width)

  ExchangeWorkspace(SharedArrays& arrays, const ExchangeProblem& problem, bool forward)
      : chunks((problem.learners + (problem.within ? 0 : problem.guides)) * problem.queries, problem.keys),
        splits(count_splits(problem.learners, problem.queries, problem.width, chunks.size)) {
    const int64_t A = problem.learners, B = problem.guides, N = problem.queries;
    const int64_t wanted = divide_up(2 * BLOCKS_WANTED, N > 0 ? N : 1), most = divide_up(chunks.size, SEGMENT<C>);
    const int64_t sections = wanted < most ? wanted : most;
    exchange = {A,
                B,
                N,
                problem.topk,
                problem.within,
                problem.context,
                chunks.size,
                sections < MAX_SECTIONS ? sections : MAX_SECTIONS};
    similarities = arrays.take<C>(exchange.sets() * N * chunks.size);
    q = Queries<S>::take(arrays, A * N * problem.width);
    guide = Queries<S>::take(arrays, problem.within ? 0 : B * N * problem.guide_width);
    const int64_t kept = forward ? exchange.sections : 0;
    sums = arrays.take<ExpSum<C>>(kept * exchange.sums() * N);
    nearest.values = arrays.take<C>(kept * B * N * problem.topk);
    nearest.indices = arrays.take<int64_t>(kept * B * N * problem.topk);
    nearest.counts = arrays.take<int64_t>(kept * B * N);
    vectors = arrays.take<C>(forward ? 0 : splits * A * N * problem.width);
  }
};

// A list of the nearest entries, which a warp keeps.
template <class C>
struct NearestList {
  C* values;
  int64_t* indices;
  int64_t capacity, count;

  __device__ bool takes(C value) const { return count < capacity || (capacity > 0 && value > values[capacity - 1]); }

  __device__ void insert(C value, int64_t index, int lane) {
    __syncwarp();  // all lanes have looked at what changes now
    const int64_t last = count < capacity ? count : capacity - 1;
    int64_t place = last;
    for (int64_t first = 0; first < last; first += 32) {
      const unsigned smaller = __ballot_sync(ALL_LANES, first + lane < last && value > values[first + lane]);
      if (smaller != 0) {
        place = first + lowest_bit(smaller);
        break;
      }
    }
    for (int64_t top = last; top > place; top -= 32) {
      const int64_t to = top - lane;
      const C moved_value = to > place ? values[to - 1] : C(0);
      const int64_t moved_index = to > place ? indices[to - 1] : 0;
      __syncwarp();
      if (to > place) {
        values[to] = moved_value;
        indices[to] = moved_index;
      }
      __syncwarp();
    }
    if (lane == 0) {
      values[place] = value;
      indices[place] = index;
    }
    count = last + 1;
    __syncwarp();
  }
};

// Takes a segment of similarities, those of the keys from first_key on, into a list.
template <class C>
__device__ void add_nearest(const C* s, int size, int64_t first_key, int lane, NearestList<C>& list) {
  C max = NONE<C>;
  for (int i = lane; i < size; i += 32) {
    max = larger(max, s[i]);
  }
  if (__ballot_sync(ALL_LANES, list.takes(max)) == 0) {
    return;
  }
  for (int first = 0; first < size; first += 32) {
    const bool exists = first + lane < size;
    const C own = exists ? s[first + lane] : C(0);
    for (unsigned left = __ballot_sync(ALL_LANES, exists && list.takes(own)); left != 0; left &= left - 1) {
      const int from = lowest_bit(left);
      const C value = __shfl_sync(ALL_LANES, own, from);
      if (list.takes(value)) {
        list.insert(value, first_key + first + from, lane);
      }
    }
  }
}

// Adds exp(term(i)), i < size, to this lane's total.
template <class C, class Term>
__device__ void add_exponentials(int size, int lane, ExpSum<C>& total, Term term) {
  constexpr int PER_LANE = SEGMENT<C> / 32;
  C x[PER_LANE];
  C max = total.max;
#pragma unroll
  for (int j = 0; j < PER_LANE; ++j) {
    const int i = 32 * j + lane;
    x[j] = i < size ? term(i) : NONE<C>;
    max = larger(max, x[j]);
  }
  if (!(max > NONE<C>)) {
    return;
  }
  C sum = total.sum * exponential(total.max - max);
#pragma unroll
  for (int j = 0; j < PER_LANE; ++j) {
    sum += exponential(x[j] - max);
  }
  total = {max, sum};
}

template <class C>
size_t sum_exchange_bytes(const Exchange& exchange) {
  return count_bytes([&](SharedArrays& arrays) {
    arrays.take<C>(exchange.sets() * SEGMENT<C>);
    arrays.take<ExpSum<C>>(exchange.sums() * 32);
  });
}

// A block takes a section of the chunk's similarities of one query into its sums and nearest entries. Its warps share
// the sums out among them; each lane has a part of its own until the section is done.
template <class C>
__global__ void __launch_bounds__(THREADS, sizeof(C) == 8 ? 1 : 2)
    sum_exchange_kernel(const __grid_constant__ Exchange exchange, const C* similarities, C scale, int64_t first_key,
                        int64_t keys, bool first, ExpSum<C>* sums, Nearest<C> nearest) {
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  C* const s = arrays.take<C>(exchange.sets() * SEGMENT<C>);
  ExpSum<C>* const totals = arrays.take<ExpSum<C>>(exchange.sums() * 32);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int64_t N = exchange.queries, B = exchange.guides, num_sums = exchange.sums();

  for (int64_t task = blockIdx.x; task < exchange.sections * N; task += gridDim.x) {
    const int64_t n = task % N, section = task / N;
    const int64_t share = divide_up(keys, exchange.sections);
    const int64_t begin = section * share;
    const int64_t end = begin + share < keys ? begin + share : keys;
    ExpSum<C>* const kept = sums + section * num_sums * N + n;
    for (int64_t sum = warp; sum < num_sums; sum += WARPS) {
      totals[sum * 32 + lane] = first || lane > 0 ? ExpSum<C>{NONE<C>, C(0)} : kept[sum * N];
    }

    // The warps that have one sum less come first to the lists.
    const int64_t first_list = (warp + WARPS - num_sums % WARPS) % WARPS;
    for (int64_t b = first_list; first && b < B; b += WARPS) {
      nearest.counts[(section * B + b) * N + n] = 0;  // by all lanes alike
    }

    for (int64_t segment = begin; segment < end; segment += SEGMENT<C>) {
      const int size = static_cast<int>(end - segment < SEGMENT<C> ? end - segment : SEGMENT<C>);
      __syncthreads();
      for (int64_t set = 0; set < exchange.sets(); ++set) {
        const C* from = similarities + (set * N + n) * exchange.pitch + segment;
        for (int i = threadIdx.x; i < size; i += THREADS) {
          s[set * SEGMENT<C> + i] = from[i];
        }
      }
      __syncthreads();
      for (int64_t sum = warp; sum < num_sums; sum += WARPS) {
        ExpSum<C> total = totals[sum * 32 + lane];
        if (sum < exchange.learners) {
          const C* a = s + sum * SEGMENT<C>;
          add_exponentials(size, lane, total, [=](int i) { return scale * a[i]; });
        } else {
          int64_t learner, guide;
          exchange.find_pair(sum - exchange.learners, learner, guide);
          const C* a = s + learner * SEGMENT<C>;
          const C* b = s + exchange.guide_set(guide) * SEGMENT<C>;
          add_exponentials(size, lane, total, [=](int i) { return scale * (a[i] * b[i]); });
        }
        totals[sum * 32 + lane] = total;
      }
      for (int64_t b = first_list; b < B; b += WARPS) {
        const int64_t row = (section * B + b) * N + n;
        NearestList<C> list{nearest.values + row * exchange.topk, nearest.indices + row * exchange.topk, exchange.topk,
                            nearest.counts[row]};
        add_nearest(s + exchange.guide_set(b) * SEGMENT<C>, size, first_key + segment, lane, list);
        __syncwarp();
        nearest.counts[row] = list.count;
      }
    }

    for (int64_t sum = warp; sum < num_sums; sum += WARPS) {
      ExpSum<C> total = totals[sum * 32 + lane];
      for (int mask = 16; mask > 0; mask /= 2) {
        total =
            merged(total, {__shfl_xor_sync(ALL_LANES, total.max, mask), __shfl_xor_sync(ALL_LANES, total.sum, mask)});
      }
      if (lane == 0) {
        kept[sum * N] = total;
      }
    }
  }
}

// Merges the sections: a thread for each sum, and then for each list, of a query.
template <class C>
__global__ void __launch_bounds__(THREADS)
    merge_exchange_kernel(const __grid_constant__ Exchange exchange, const ExpSum<C>* sums, Nearest<C> nearest,
                          ExchangeResults<C> results) {
  const int64_t N = exchange.queries, B = exchange.guides, num_sums = exchange.sums();
  const int64_t tasks = (num_sums + B) * N;
  for (int64_t task = blockIdx.x * int64_t{THREADS} + threadIdx.x; task < tasks; task += gridDim.x * int64_t{THREADS}) {
    const int64_t n = task % N;
    if (task < num_sums * N) {
      ExpSum<C> total{NONE<C>, C(0)};
      for (int64_t section = 0; section < exchange.sections; ++section) {
        total = merged(total, sums[section * num_sums * N + task]);
      }
      const int64_t pair = task / N - exchange.learners;
      if (pair < 0) {
        results.single[task] = log_of(total);
        continue;
      }
      int64_t a, b;
      exchange.find_pair(pair, a, b);
      results.product[(a * B + b) * N + n] = log_of(total);
      if (exchange.within) {
        results.product[(b * B + a) * N + n] = log_of(total);
      }
      continue;
    }
    const int64_t list = task - num_sums * N;  // b * N + n
    int64_t heads[MAX_SECTIONS] = {};
    for (int64_t k = 0; k < exchange.topk; ++k) {
      int64_t best = -1, best_entry = 0;
      for (int64_t section = 0; section < exchange.sections; ++section) {
        const int64_t row = section * B * N + list;
        const int64_t entry = row * exchange.topk + heads[section];
        if (heads[section] < nearest.counts[row] && (best < 0 || nearest.values[entry] > nearest.values[best_entry] ||
                                                     (nearest.values[entry] == nearest.values[best_entry] &&
                                                      nearest.indices[entry] < nearest.indices[best_entry]))) {
          best = section;
          best_entry = entry;
        }
      }
      ++heads[best];
      results.nearest[list * exchange.topk + k] = nearest.indices[best_entry];
    }
  }
}

template <class C>
size_t differentiate_bytes(const Exchange& exchange) {
  return count_bytes([&](SharedArrays& arrays) {
    arrays.take<C>((exchange.sets() + exchange.learners) * THREADS);
    arrays.take<C>(2 * (exchange.learners + exchange.pairs()));
  });
}

// The learners' similarities become their gradients. A block works on THREADS keys of one query; each thread has a
// column of shared memory to itself, for the similarities and the gradients with one key.
template <class C>
__global__ void __launch_bounds__(THREADS)
    differentiate_exchange_kernel(const __grid_constant__ Exchange exchange, C* similarities, C scale, int64_t keys,
                                  ExchangeGradients<C> gradients) {
  IKEM_DYNAMIC_SHARED(memory);
  SharedArrays arrays(memory);
  const int64_t N = exchange.queries, A = exchange.learners, B = exchange.guides, sets = exchange.sets();
  C* const columns = arrays.take<C>((sets + A) * THREADS);
  C* const s = columns + threadIdx.x;
  C* const grads = s + sets * THREADS;
  C* const weights = arrays.take<C>(2 * exchange.sums());
  C* const log_sums = weights + exchange.sums();

  const int64_t segments = divide_up(keys, THREADS);
  for (int64_t task = blockIdx.x; task < segments * N; task += gridDim.x) {
    const int64_t n = task / segments;
    const int64_t key = task % segments * THREADS + threadIdx.x;
    __syncthreads();
    for (int64_t sum = threadIdx.x; sum < exchange.sums(); sum += THREADS) {
      if (sum < A) {
        weights[sum] = scale * gradients.grad_single[sum * N + n];
        log_sums[sum] = gradients.single[sum * N + n];
      } else {
        int64_t a, b;
        exchange.find_pair(sum - A, a, b);
        const C other = exchange.within ? gradients.grad_product[(b * B + a) * N + n] : C(0);
        weights[sum] = scale * (gradients.grad_product[(a * B + b) * N + n] + other);
        log_sums[sum] = gradients.product[(a * B + b) * N + n];
      }
    }
    __syncthreads();
    if (key >= keys) {
      continue;
    }
    for (int64_t set = 0; set < sets; ++set) {
      s[set * THREADS] = similarities[(set * N + n) * exchange.pitch + key];
    }
    for (int64_t a = 0; a < A; ++a) {
      grads[a * THREADS] = weights[a] * exponential(scale * s[a * THREADS] - log_sums[a]);
    }
    int64_t sum = A;
    for (int64_t a = 0; a < A && exchange.context; ++a) {
      const C own = s[a * THREADS];
      C grad = grads[a * THREADS];
      for (int64_t b = exchange.within ? a + 1 : 0; b < B; ++b, ++sum) {
        const C other = s[exchange.guide_set(b) * THREADS];
        const C e = weights[sum] * exponential(scale * (own * other) - log_sums[sum]);
        grad += e * other;
        if (exchange.within) {
          grads[b * THREADS] += e * own;
        }
      }
      grads[a * THREADS] = grad;
    }
    for (int64_t a = 0; a < A; ++a) {
      similarities[(a * N + n) * exchange.pitch + key] = grads[a * THREADS];
    }
  }
}

// The similarities of learners and guides with a chunk of the keys.
template <class Tile, class S>
const char* multiply_exchange(const ExchangeProblem& problem, const ExchangeOperands<S>& operands,
                              const ExchangeWorkspace<S>& workspace, const Queries<S>& q, const Queries<S>& guide,
                              Range keys, cudaStream_t stream) {
  using C = Compute<S>;
  const int64_t N = problem.queries, pitch = workspace.chunks.size;
  const char* error = multiply_similarities<Tile>(q, operands.queue, keys,
                                                  StoreSimilarity<C>{workspace.similarities, N, pitch}, stream);
  if (error == nullptr && !problem.within) {
    C* const similarities = workspace.similarities + problem.learners * N * pitch;
    error = multiply_similarities<Tile>(guide, operands.guide_queue, keys, StoreSimilarity<C>{similarities, N, pitch},
                                        stream);
  }
  return error;
}

}  // namespace

template <class S>
int64_t queue_workspace_bytes(const QueueProblem& problem, bool with_means) {
  return workspace_bytes<QueueWorkspace<S>>(problem, with_means);
}

template <class S>
const char* sum_queue(const QueueProblem& problem, const QueueOperands<S>& operands, Compute<S>* log_sums,
                      Compute<S>* means, void* memory, void* stream_pointer) {
  using C = Compute<S>;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const bool with_means = means != nullptr;
  SharedArrays arrays(static_cast<unsigned char*>(memory));
  const QueueWorkspace<S> workspace(arrays, problem, with_means);
  const int64_t G = problem.groups, N = problem.queries, pitch = workspace.chunks.size;
  const Queries<S> q{operands.q, workspace.q, G, N, problem.width};
  if (const char* error = q.prepare(stream)) {
    return error;
  }
  const auto add_chunk = [&](Range keys, bool first) {
    return with_tiles<S>(problem.allow_tf32, [&](auto tiles) {
      using Tiles = decltype(tiles);
      const StoreSimilarity<C> store{workspace.similarities, N, pitch};
      const char* error = multiply_similarities<typename Tiles::Similarities>(q, operands.queue, keys, store, stream);
      if (error == nullptr) {
        error = launch(weigh_kernel<C>, G * N, 0, stream, workspace.similarities, G * N, keys.size(), pitch,
                       static_cast<C>(problem.scale), first, with_means, workspace.sums, workspace.factors);
      }
      if (error == nullptr && with_means) {
        error = add_vectors<typename Tiles::Means, S>(workspace.similarities, pitch, G, N, operands.queue, keys,
                                                      workspace.splits, workspace.vectors, workspace.factors, first,
                                                      stream);
      }
      return error;
    });
  };
  const char* error = workspace.chunks.for_each(add_chunk);
  if (error == nullptr) {
    error = launch(log_kernel<C>, divide_up(G * N, THREADS), 0, stream, workspace.sums, G * N, log_sums);
  }
  if (error == nullptr && with_means) {
    error = launch(sum_splits_kernel<C>, divide_up(G * N * problem.width, THREADS), 0, stream, workspace.vectors,
                   workspace.splits, workspace.sums, G * N, problem.width, means);
  }
  return error;
}

template <class S>
const char* differentiate_queue(const QueueProblem& problem, const QueueOperands<S>& operands,
                                const Compute<S>* log_sums, const Compute<S>* weights, Compute<S>* grad_queue,
                                void* memory, void* stream_pointer) {
  using C = Compute<S>;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  SharedArrays arrays(static_cast<unsigned char*>(memory));
  const QueueWorkspace<S> workspace(arrays, problem, /*with_means=*/false);
  const int64_t G = problem.groups, N = problem.queries, pitch = workspace.chunks.size;
  const Queries<S> q{operands.q, workspace.q, G, N, problem.width};
  if (const char* error = q.prepare(stream)) {
    return error;
  }
  return workspace.chunks.for_each([&](Range keys, bool) {
    return with_tiles<S>(problem.allow_tf32, [&](auto tiles) {
      using Tiles = decltype(tiles);
      const StoreSimilarity<C> store{workspace.similarities,        N,        pitch,
                                     static_cast<C>(problem.scale), log_sums, weights};
      const char* error = multiply_similarities<typename Tiles::Similarities>(q, operands.queue, keys, store, stream);
      return error != nullptr ? error
                              : multiply_key_gradient<typename Tiles::Gradient>(
                                    workspace.similarities, pitch, G, N, operands.q, operands.queue.parts,
                                    operands.queue.part_width, problem.keys, keys, grad_queue, stream);
    });
  });
}

template <class S>
int64_t exchange_workspace_bytes(const ExchangeProblem& problem, bool forward) {
  return workspace_bytes<ExchangeWorkspace<S>>(problem, forward);
}

template <class S>
const char* sum_exchange(const ExchangeProblem& problem, const ExchangeOperands<S>& operands,
                         const ExchangeResults<Compute<S>>& results, void* memory, void* stream_pointer) {
  using C = Compute<S>;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  SharedArrays arrays(static_cast<unsigned char*>(memory));
  const ExchangeWorkspace<S> workspace(arrays, problem, /*forward=*/true);
  const Exchange& exchange = workspace.exchange;
  const Queries<S> q{operands.q, workspace.q, problem.learners, problem.queries, problem.width};
  const Queries<S> guide{operands.guide, workspace.guide, problem.guides, problem.queries, problem.guide_width};
  const char* error = q.prepare(stream);
  if (error == nullptr && !problem.within) {
    error = guide.prepare(stream);
  }
  const auto add_chunk = [&](Range keys, bool first) {
    return with_tiles<S>(problem.allow_tf32, [&](auto tiles) {
      const char* error = multiply_exchange<typename decltype(tiles)::Similarities>(problem, operands, workspace, q,
                                                                                    guide, keys, stream);
      return error != nullptr
                 ? error
                 : launch(sum_exchange_kernel<C>, exchange.sections * exchange.queries, sum_exchange_bytes<C>(exchange),
                          stream, exchange, workspace.similarities, static_cast<C>(problem.scale), keys.begin,
                          keys.size(), first, workspace.sums, workspace.nearest);
    });
  };
  if (error == nullptr) {
    error = workspace.chunks.for_each(add_chunk);
  }
  const int64_t merges = (exchange.sums() + exchange.guides) * exchange.queries;
  return error != nullptr ? error
                          : launch(merge_exchange_kernel<C>, divide_up(merges, THREADS), 0, stream, exchange,
                                   workspace.sums, workspace.nearest, results);
}

template <class S>
const char* differentiate_exchange(const ExchangeProblem& problem, const ExchangeOperands<S>& operands,
                                   const ExchangeGradients<Compute<S>>& gradients, Compute<S>* grad_q,
                                   Compute<S>* grad_queue, void* memory, void* stream_pointer) {
  using C = Compute<S>;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  SharedArrays arrays(static_cast<unsigned char*>(memory));
  const ExchangeWorkspace<S> workspace(arrays, problem, /*forward=*/false);
  const Exchange& exchange = workspace.exchange;
  const int64_t A = problem.learners, N = problem.queries, width = problem.width, pitch = workspace.chunks.size;
  const Queries<S> q{operands.q, workspace.q, A, N, width};
  const Queries<S> guide{operands.guide, workspace.guide, problem.guides, N, problem.guide_width};
  const char* error = q.prepare(stream);
  if (error == nullptr && !problem.within) {
    error = guide.prepare(stream);
  }
  const auto add_chunk = [&](Range keys, bool first) {
    return with_tiles<S>(problem.allow_tf32, [&](auto tiles) {
      using Tiles = decltype(tiles);
      const char* error =
          multiply_exchange<typename Tiles::Similarities>(problem, operands, workspace, q, guide, keys, stream);
      if (error == nullptr) {
        error = launch(differentiate_exchange_kernel<C>, divide_up(keys.size(), THREADS) * N,
                       differentiate_bytes<C>(exchange), stream, exchange, workspace.similarities,
                       static_cast<C>(problem.scale), keys.size(), gradients);
      }
      if (error == nullptr && grad_q != nullptr) {
        const C* none = nullptr;
        error = add_vectors<typename Tiles::Means, S>(workspace.similarities, pitch, A, N, operands.queue, keys,
                                                      workspace.splits, workspace.vectors, none, first, stream);
      }
      if (error == nullptr && grad_queue != nullptr) {
        error = multiply_key_gradient<typename Tiles::Gradient>(
            workspace.similarities, pitch, A, N, operands.q, int64_t{1}, width, problem.keys, keys, grad_queue, stream);
      }
      return error;
    });
  };
  if (error == nullptr) {
    error = workspace.chunks.for_each(add_chunk);
  }
  if (error == nullptr && grad_q != nullptr) {
    const ExpSum<C>* none = nullptr;
    error = launch(sum_splits_kernel<C>, divide_up(A * N * width, THREADS), 0, stream, workspace.vectors,
                   workspace.splits, none, A * N, width, grad_q);
  }
  return error;
}

#define INSTANTIATE(S)                                                                                             \
  template int64_t queue_workspace_bytes<S>(const QueueProblem&, bool);                                            \
  template const char* sum_queue<S>(const QueueProblem&, const QueueOperands<S>&, Compute<S>*, Compute<S>*, void*, \
                                    void*);                                                                        \
  template const char* differentiate_queue<S>(const QueueProblem&, const QueueOperands<S>&, const Compute<S>*,     \
                                              const Compute<S>*, Compute<S>*, void*, void*);                       \
  template int64_t exchange_workspace_bytes<S>(const ExchangeProblem&, bool);                                      \
  template const char* sum_exchange<S>(const ExchangeProblem&, const ExchangeOperands<S>&,                         \
                                       const ExchangeResults<Compute<S>>&, void*, void*);                          \
  template const char* differentiate_exchange<S>(const ExchangeProblem&, const ExchangeOperands<S>&,               \
                                                 const ExchangeGradients<Compute<S>>&, Compute<S>*, Compute<S>*,   \
                                                 void*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::contrast::cuda
