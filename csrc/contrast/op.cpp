// Streams over the queue tile by tile: PyTorch multiplies, the kernels of this family reduce what comes out, and no
// array grows with queries times queue. The work is cut into blocks of queries and chunks of the queue by their
// sizes alone, and what the chunks yield is merged in their order, so that the number of threads changes no bit.
//
// Arguments are checked with friendly messages in ikem_ext/contrast.py; the checks here are those without which a
// kernel could read astray.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <optional>
#include <tuple>
#include <vector>

#include "common/matmul.h"
#include "common/tensor.h"
#include "contrast/kernel.h"

namespace ikem::contrast {
namespace {

template <class S>
void widen_matrix(const S* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
                  Compute<S>* out) {
  IKEM_DISPATCH_SIMD(widen_matrix(data, rows, columns, row_stride, column_stride, out))
}
template <class C>
void add_exponentials(const C* s, int64_t size, C scale, ExpSum<C>& total) {
  IKEM_DISPATCH_SIMD(add_exponentials(s, size, scale, total))
}
template <class C>
void add_exponentials(const C* s, const C* t, int64_t size, C scale, ExpSum<C>& total) {
  IKEM_DISPATCH_SIMD(add_exponentials(s, t, size, scale, total))
}
template <class C>
C weigh(C* s, int64_t size, C scale, ExpSum<C>& total) {
  IKEM_DISPATCH_SIMD(weigh(s, size, scale, total))
}
template <class C>
void add_nearest(const C* s, int64_t size, int64_t first, Nearest<C>& nearest) {
  IKEM_DISPATCH_SIMD(add_nearest(s, size, first, nearest))
}
template <class C>
void exponential_gradient(const C* s, int64_t size, C scale, C log_sum, C weight, C* grad) {
  IKEM_DISPATCH_SIMD(exponential_gradient(s, size, scale, log_sum, weight, grad))
}
template <class C>
void add_product_gradient(const C* s, const C* t, int64_t size, C scale, C log_sum, C weight, C* grad_s, C* grad_t) {
  IKEM_DISPATCH_SIMD(add_product_gradient(s, t, size, scale, log_sum, weight, grad_s, grad_t))
}

// Memory at addresses that are multiples of 64: matrix products may depend in their last bits on how their operands
// lie, and are to give the same ones each time.
template <class T>
struct AlignedAllocator {
  using value_type = T;
  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* memory, size_t) { ::operator delete(memory, std::align_val_t{64}); }
  bool operator==(const AlignedAllocator&) const { return true; }
};
template <class T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

constexpr int64_t BLOCK_QUERIES = 64;
constexpr int64_t TILE_KEYS = 512;  // a tile of six modalities' similarities fits the second-level cache
constexpr int64_t MAX_CHUNKS = 8;   // more would cost memory: each has sums of its own

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// How queries and queue are cut up; a function of their numbers alone.
struct Partition {
  int64_t queries, keys, blocks, chunk_keys, chunks;

  Partition(int64_t queries, int64_t keys)
      : queries(queries),
        keys(keys),
        blocks(divide_up(queries, BLOCK_QUERIES)),
        chunk_keys(std::max<int64_t>(divide_up(divide_up(keys, MAX_CHUNKS), TILE_KEYS), 1) * TILE_KEYS),
        chunks(divide_up(keys, chunk_keys)) {}

  Range block(int64_t index) const { return {index * BLOCK_QUERIES, std::min(queries, (index + 1) * BLOCK_QUERIES)}; }
  Range chunk(int64_t index) const { return {index * chunk_keys, std::min(keys, (index + 1) * chunk_keys)}; }
};

template <class F>
void for_each_tile(Range chunk, F f) {
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += TILE_KEYS) {
    f(Range{begin, std::min(chunk.end, begin + TILE_KEYS)});
  }
}

template <class F>
void parallel(int64_t tasks, F f) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) { f(first, last); });
}

// Vectors (G, P, K, C) of any strides: for each of G groups K vectors of P parts of C coordinates. A tile of one
// part is handed to the matrix product in place where its layout allows, else as a copy in `scratch`.
template <class S>
class Vectors {
 public:
  explicit Vectors(const Tensor& tensor)
      : parts(tensor.size(1)), width(tensor.size(3)), data_(static_cast<const S*>(tensor.const_data_ptr())) {
    for (int axis = 0; axis < 4; ++axis) {
      strides_[axis] = tensor.stride(axis);
    }
    if (parts > 1 && strides_[1] == width * strides_[3]) {  // the parts of a vector follow each other in memory
      width *= parts;
      parts = 1;
    }
  }

  Matrix<const Compute<S>> tile(int64_t group, int64_t part, Range keys, AlignedVector<Compute<S>>& scratch) const {
    const S* data = data_ + group * strides_[0] + part * strides_[1] + keys.begin * strides_[2];
    if constexpr (std::is_same_v<S, Compute<S>>) {
      if (strides_[3] == 1 || strides_[2] == 1) {
        return {data, keys.size(), width, strides_[2], strides_[3]};
      }
    }
    scratch.resize(std::max(scratch.size(), static_cast<size_t>(keys.size() * width)));
    widen_matrix(data, keys.size(), width, strides_[2], strides_[3], scratch.data());
    return contiguous_matrix<const Compute<S>>(scratch.data(), keys.size(), width);
  }

  int64_t parts, width;

 private:
  const S* data_;
  int64_t strides_[4];
};

// Contiguous rows (G, N, D) in the type that is computed in.
template <class C>
struct Rows {
  C* data;
  int64_t count, width;

  template <class T>
  static Rows of(T& tensor) {
    return {static_cast<C*>(const_cast<void*>(tensor.const_data_ptr())), tensor.size(-2), tensor.size(-1)};
  }
  C* row(int64_t group, int64_t index) const { return data + (group * count + index) * width; }
  // Columns [first, first + columns) of some rows of a group.
  Matrix<C> matrix(int64_t group, Range rows, int64_t first, int64_t columns) const {
    return {row(group, rows.begin) + first, rows.size(), columns, width, 1};
  }
};

// out (queries x keys) = the similarities of a block of queries with a tile of keys.
template <class S>
void similarities(const Rows<const Compute<S>>& q, const Vectors<S>& queue, int64_t group, Range block, Range tile,
                  AlignedVector<Compute<S>>& scratch, Compute<S>* out) {
  for (int64_t part = 0; part < queue.parts; ++part) {
    multiply(contiguous_matrix(out, block.size(), tile.size()), q.matrix(group, block, part * queue.width, queue.width),
             queue.tile(group, part, tile, scratch).transposed(), part > 0);
  }
}

template <class C>
constexpr ExpSum<C> NOTHING{-std::numeric_limits<C>::infinity(), C(0)};

template <class C>
void merge(ExpSum<C>& total, const ExpSum<C>& other) {
  const C max = std::max(total.max, other.max);
  if (max > -std::numeric_limits<C>::infinity()) {
    total = {max, total.sum * std::exp(total.max - max) + other.sum * std::exp(other.max - max)};
  }
}

template <class C>
C log(const ExpSum<C>& total) {
  return total.max + std::log(total.sum);
}

// Calls f(S{}) for the queue's scalar type after checking that `q` is in the type that it is computed in.
template <class F>
auto dispatch(const Tensor& q, const Tensor& queue, F f) {
  STD_TORCH_CHECK(q.scalar_type() == compute_type(queue.scalar_type()), "q: expected the type computed in");
  return dispatch_floating(queue, "queue", f);
}

void check(bool fits, const char* what) { STD_TORCH_CHECK(fits, what); }

// ---- One queue: log-sum-exp of a query's similarities, and the mean of the queue that it weighs ----

struct QueueShape {
  int64_t groups, queries, keys, width;

  QueueShape(const Tensor& q, const Tensor& queue) {
    check(q.dim() == 3 && queue.dim() == 4 && q.size(0) == queue.size(0) && q.size(2) == queue.size(1) * queue.size(3),
          "queue_logsumexp: expected q (G, N, P * C) and queue (G, P, K, C)");
    groups = q.size(0), queries = q.size(1), keys = queue.size(2), width = q.size(2);
  }
};

template <class S>
void run_queue_logsumexp(const Tensor& q_tensor, const Tensor& queue_tensor, double scale, Tensor& log_sums,
                         Tensor& means) {
  using C = Compute<S>;
  const QueueShape shape(q_tensor, queue_tensor);
  const Partition partition(shape.queries, shape.keys);
  const auto q = Rows<const C>::of(q_tensor);
  const Vectors<S> queue(queue_tensor);
  const bool with_means = means.dim() == 3;
  const int64_t rows = shape.groups * shape.queries;
  std::vector<ExpSum<C>> sums(static_cast<size_t>(partition.chunks * rows), NOTHING<C>);
  Tensor chunk_means = torch::stable::new_empty(
      q_tensor, {with_means ? partition.chunks * shape.groups : 0, shape.queries, shape.width});
  const auto weighted = Rows<C>::of(chunk_means);

  parallel(partition.chunks * shape.groups * partition.blocks, [&](int64_t first, int64_t last) {
    AlignedVector<C> s(BLOCK_QUERIES * TILE_KEYS), scratch;
    for (int64_t task = first; task < last; ++task) {
      const Range block = partition.block(task % partition.blocks);
      const int64_t chunk_group = task / partition.blocks;
      const int64_t group = chunk_group % shape.groups;
      const Range chunk = partition.chunk(chunk_group / shape.groups);
      for_each_tile(chunk, [&](Range tile) {
        similarities(q, queue, group, block, tile, scratch, s.data());
        for (int64_t n = block.begin; n < block.end; ++n) {
          C* row = s.data() + (n - block.begin) * tile.size();
          ExpSum<C>& total = sums[static_cast<size_t>(chunk_group * shape.queries + n)];
          if (!with_means) {
            add_exponentials(row, tile.size(), C(scale), total);
            continue;
          }
          const C factor = weigh(row, tile.size(), C(scale), total);
          if (factor != C(1) && tile.begin > chunk.begin) {
            C* mean = weighted.row(chunk_group, n);
            std::transform(mean, mean + shape.width, mean, [=](C value) { return value * factor; });
          }
        }
        for (int64_t part = 0; with_means && part < queue.parts; ++part) {
          multiply(weighted.matrix(chunk_group, block, part * queue.width, queue.width),
                   contiguous_matrix(s.data(), block.size(), tile.size()), queue.tile(group, part, tile, scratch),
                   tile.begin > chunk.begin);
        }
      });
    }
  });

  C* const out = static_cast<C*>(log_sums.mutable_data_ptr());
  parallel(rows, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      ExpSum<C> total = NOTHING<C>;
      for (int64_t chunk = 0; chunk < partition.chunks; ++chunk) {
        merge(total, sums[static_cast<size_t>(chunk * rows + row)]);
      }
      out[row] = log(total);
      if (!with_means) {
        continue;
      }
      C* mean = static_cast<C*>(means.mutable_data_ptr()) + row * shape.width;
      std::fill_n(mean, shape.width, C(0));
      for (int64_t chunk = 0; chunk < partition.chunks; ++chunk) {
        const C factor = std::exp(sums[static_cast<size_t>(chunk * rows + row)].max - total.max) / total.sum;
        const C* part = weighted.data + (chunk * rows + row) * shape.width;
        std::transform(part, part + shape.width, mean, mean, [=](C a, C b) { return b + factor * a; });
      }
    }
  });
}

// log(sum_i exp(scale q.Q_i)) for each query, (G, N), and, if asked for, sum_i w_i Q_i with the weights w of the
// softmax, (G, N, P * C): scale times it is the gradient for q.
std::tuple<Tensor, Tensor> queue_logsumexp(const Tensor& q, const Tensor& queue, double scale, bool with_means) {
  const QueueShape shape(q, queue);
  Tensor log_sums = torch::stable::new_empty(q, {shape.groups, shape.queries});
  Tensor means = with_means ? torch::stable::new_empty(q, {shape.groups, shape.queries, shape.width})
                            : torch::stable::new_empty(q, {0});
  const Tensor q_contiguous = torch::stable::contiguous(q);
  dispatch(q, queue,
           [&](auto scalar) { run_queue_logsumexp<decltype(scalar)>(q_contiguous, queue, scale, log_sums, means); });
  return {log_sums, means};
}

// The gradient for the queue, (G, P, K, C), of sum(weights * queue_logsumexp).
Tensor queue_logsumexp_backward(const Tensor& weights, const Tensor& log_sums, const Tensor& q, const Tensor& queue,
                                double scale) {
  const QueueShape shape(q, queue);
  check(weights.numel() == shape.groups * shape.queries && log_sums.numel() == weights.numel(),
        "queue_logsumexp_backward: expected one weight and one sum for each query");
  const int64_t parts = queue.size(1), width = queue.size(3);
  Tensor grad = torch::stable::new_zeros(q, {shape.groups, parts, shape.keys, width});
  const Tensor q_contiguous = torch::stable::contiguous(q);
  const Tensor w_contiguous = torch::stable::contiguous(weights), l_contiguous = torch::stable::contiguous(log_sums);
  dispatch(q, queue, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const auto rows = Rows<const C>::of(q_contiguous);
    const Vectors<S> vectors(queue);
    const Partition partition(shape.queries, shape.keys);
    const C* weight = static_cast<const C*>(w_contiguous.const_data_ptr());
    const C* log_sum = static_cast<const C*>(l_contiguous.const_data_ptr());
    C* const out = static_cast<C*>(grad.mutable_data_ptr());
    parallel(shape.groups * partition.chunks, [&](int64_t first, int64_t last) {
      AlignedVector<C> s(BLOCK_QUERIES * TILE_KEYS), scratch;
      for (int64_t task = first; task < last; ++task) {
        const int64_t group = task / partition.chunks;
        for_each_tile(partition.chunk(task % partition.chunks), [&](Range tile) {
          for (int64_t b = 0; b < partition.blocks; ++b) {
            const Range block = partition.block(b);
            similarities(rows, vectors, group, block, tile, scratch, s.data());
            for (int64_t n = block.begin; n < block.end; ++n) {
              C* row = s.data() + (n - block.begin) * tile.size();
              const int64_t index = group * shape.queries + n;
              exponential_gradient(row, tile.size(), C(scale), log_sum[index], C(scale) * weight[index], row);
            }
            for (int64_t part = 0; part < parts; ++part) {
              multiply(contiguous_matrix(out + ((group * parts + part) * shape.keys + tile.begin) * width, tile.size(),
                                         width),
                       contiguous_matrix(s.data(), block.size(), tile.size()).transposed(),
                       rows.matrix(group, block, part * width, width), b > 0);
            }
          }
        });
      }
    });
  });
  return grad;
}

// ---- Two sets of queues: the sums of the exchange between learners and guides ----

// Learners (A) and guides (B); in the exchange within one set, the guides are the learners.
struct ExchangeShape {
  int64_t learners, guides, queries, keys;
  bool within;

  ExchangeShape(const Tensor& q, const Tensor& queue, const std::optional<Tensor>& guide,
                const std::optional<Tensor>& guide_queue) {
    within = !guide.has_value();
    const auto fits = [](const Tensor& rows, const Tensor& vectors) {
      return rows.dim() == 3 && vectors.dim() == 4 && rows.size(0) == vectors.size(0) && vectors.size(1) == 1 &&
             rows.size(2) == vectors.size(3);
    };
    check(fits(q, queue) && guide_queue.has_value() == !within,
          "exchange: expected q (A, N, C) and queue (A, 1, K, C)");
    learners = guides = q.size(0), queries = q.size(1), keys = queue.size(2);
    if (!within) {
      check(fits(*guide, *guide_queue) && guide->size(1) == queries && guide_queue->size(2) == keys &&
                guide->scalar_type() == q.scalar_type() && guide_queue->scalar_type() == queue.scalar_type(),
            "exchange: expected guide (B, N, D) and guide_queue (B, 1, K, D)");
      guides = guide->size(0);
    }
  }

  // Calls f(learner, guide) for the pairs whose products are summed: each once.
  template <class F>
  void for_each_pair(F f) const {
    for (int64_t a = 0; a < learners; ++a) {
      for (int64_t b = within ? a + 1 : 0; b < guides; ++b) {
        f(a, b);
      }
    }
  }
};

// The similarities of learners and guides for one block of queries and one tile of keys.
template <class S>
class ExchangeTile {
  using C = Compute<S>;

 public:
  ExchangeTile(const ExchangeShape& shape, const Tensor& q, const Tensor& queue, const std::optional<Tensor>& guide,
               const std::optional<Tensor>& guide_queue)
      : shape_(shape),
        q_(Rows<const C>::of(q)),
        queue_(queue),
        guide_(Rows<const C>::of(shape.within ? q : *guide)),
        guide_queue_(shape.within ? queue : *guide_queue),
        learner_memory_(static_cast<size_t>(shape.learners * BLOCK_QUERIES * TILE_KEYS)),
        guide_memory_(static_cast<size_t>(shape.within ? 0 : shape.guides * BLOCK_QUERIES * TILE_KEYS)) {}

  void compute(Range block, Range tile) {
    block_ = block, tile_ = tile;
    for (int64_t a = 0; a < shape_.learners; ++a) {
      similarities(q_, queue_, a, block, tile, scratch_, learner_memory_.data() + a * BLOCK_QUERIES * TILE_KEYS);
    }
    for (int64_t b = 0; !shape_.within && b < shape_.guides; ++b) {
      similarities(guide_, guide_queue_, b, block, tile, scratch_,
                   guide_memory_.data() + b * BLOCK_QUERIES * TILE_KEYS);
    }
  }

  const C* learner(int64_t a, int64_t n) const { return row(learner_memory_, a, n); }
  const C* guide(int64_t b, int64_t n) const { return row(shape_.within ? learner_memory_ : guide_memory_, b, n); }

  Matrix<const C> queries(int64_t a) const { return q_.matrix(a, block_, 0, q_.width); }
  Matrix<const C> keys(int64_t a) { return queue_.tile(a, 0, tile_, scratch_); }

 private:
  const C* row(const AlignedVector<C>& memory, int64_t index, int64_t n) const {
    return memory.data() + index * BLOCK_QUERIES * TILE_KEYS + (n - block_.begin) * tile_.size();
  }

  const ExchangeShape& shape_;
  Rows<const C> q_;
  Vectors<S> queue_;
  Rows<const C> guide_;
  Vectors<S> guide_queue_;
  AlignedVector<C> learner_memory_, guide_memory_, scratch_;
  Range block_{}, tile_{};
};

struct ExchangeOutputs {
  Tensor single, product, nearest;
};

template <class S>
void run_exchange(const ExchangeShape& shape, const Tensor& q, const Tensor& queue, const std::optional<Tensor>& guide,
                  const std::optional<Tensor>& guide_queue, double scale, bool context, ExchangeOutputs& outputs) {
  using C = Compute<S>;
  const Partition partition(shape.queries, shape.keys);
  const int64_t N = shape.queries, A = shape.learners, B = shape.guides, topk = outputs.nearest.size(2);
  const auto size = [&](int64_t per_query) { return static_cast<size_t>(partition.chunks * per_query * N); };
  std::vector<ExpSum<C>> singles(size(A), NOTHING<C>), products(size(context ? A * B : 0), NOTHING<C>);
  std::vector<C> near_values(size(B * topk));
  std::vector<int64_t> near_indices(size(B * topk)), near_counts(size(B), 0);
  const auto nearest_of = [&](int64_t chunk, int64_t b, int64_t n) {
    const int64_t index = (chunk * B + b) * N + n;
    return Nearest<C>{near_values.data() + index * topk, near_indices.data() + index * topk, topk,
                      near_counts[static_cast<size_t>(index)]};
  };

  parallel(partition.chunks * partition.blocks, [&](int64_t first, int64_t last) {
    ExchangeTile<S> tile(shape, q, queue, guide, guide_queue);
    for (int64_t task = first; task < last; ++task) {
      const Range block = partition.block(task % partition.blocks);
      const int64_t chunk = task / partition.blocks;
      for_each_tile(partition.chunk(chunk), [&](Range keys) {
        tile.compute(block, keys);
        for (int64_t n = block.begin; n < block.end; ++n) {
          for (int64_t a = 0; a < A; ++a) {
            add_exponentials(tile.learner(a, n), keys.size(), C(scale),
                             singles[static_cast<size_t>((chunk * A + a) * N + n)]);
          }
          for (int64_t b = 0; b < B; ++b) {
            Nearest<C> nearest = nearest_of(chunk, b, n);
            add_nearest(tile.guide(b, n), keys.size(), keys.begin, nearest);
            near_counts[static_cast<size_t>((chunk * B + b) * N + n)] = nearest.count;
          }
          if (context) {
            shape.for_each_pair([&](int64_t a, int64_t b) {
              add_exponentials(tile.learner(a, n), tile.guide(b, n), keys.size(), C(scale),
                               products[static_cast<size_t>(((chunk * A + a) * B + b) * N + n)]);
            });
          }
        }
      });
    }
  });

  const auto merged = [&](const std::vector<ExpSum<C>>& sums, int64_t stride, int64_t index) {
    ExpSum<C> total = NOTHING<C>;
    for (int64_t chunk = 0; chunk < partition.chunks; ++chunk) {
      merge(total, sums[static_cast<size_t>(chunk * stride + index)]);
    }
    return log(total);
  };
  C* const single = static_cast<C*>(outputs.single.mutable_data_ptr());
  for (int64_t index = 0; index < A * N; ++index) {
    single[index] = merged(singles, A * N, index);
  }
  if (context) {
    C* const product = static_cast<C*>(outputs.product.mutable_data_ptr());
    shape.for_each_pair([&](int64_t a, int64_t b) {
      for (int64_t n = 0; n < N; ++n) {
        const C value = merged(products, A * B * N, (a * B + b) * N + n);
        product[(a * B + b) * N + n] = value;
        if (shape.within) {
          product[(b * B + a) * N + n] = value;
        }
      }
    });
  }
  std::vector<C> values(static_cast<size_t>(topk));
  int64_t* const indices = static_cast<int64_t*>(outputs.nearest.mutable_data_ptr());
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t n = 0; n < N; ++n) {
      // A chunk's entries come in the order of what they are, so later ones move up only where they are larger.
      int64_t* const found = indices + (b * N + n) * topk;
      int64_t count = 0;
      for (int64_t chunk = 0; chunk < partition.chunks; ++chunk) {
        const Nearest<C> part = nearest_of(chunk, b, n);
        for (int64_t rank = 0; rank < part.count; ++rank) {
          int64_t place = count;
          for (; place > 0 && part.values[rank] > values[static_cast<size_t>(place - 1)]; --place) {
            if (place < topk) {
              values[static_cast<size_t>(place)] = values[static_cast<size_t>(place - 1)];
              found[place] = found[place - 1];
            }
          }
          if (place < topk) {
            values[static_cast<size_t>(place)] = part.values[rank];
            found[place] = part.indices[rank];
            count = std::min(count + 1, topk);
          }
        }
      }
    }
  }
}

// For learners a and guides b, with s_a = q_a.Q_a and t_b the same of the guides (t = s within one set):
// log(sum_i exp(scale s_a[i])), (A, N); log(sum_i exp(scale s_a[i] t_b[i])), (A, B, N), of which the diagonal stays
// zero within one set, empty without context; and the indices of the topk largest t_b, (B, N, topk).
std::tuple<Tensor, Tensor, Tensor> exchange_logsumexp(const Tensor& q, const Tensor& queue, std::optional<Tensor> guide,
                                                      std::optional<Tensor> guide_queue, double scale, int64_t topk,
                                                      bool context) {
  const ExchangeShape shape(q, queue, guide, guide_queue);
  check(topk >= 0 && topk <= shape.keys, "exchange_logsumexp: topk is out of range");
  ExchangeOutputs outputs{torch::stable::new_empty(q, {shape.learners, shape.queries}),
                          torch::stable::new_zeros(q, {context ? shape.learners : 0, shape.guides, shape.queries}),
                          torch::stable::new_empty(q, {shape.guides, shape.queries, topk}, ScalarType::Long)};
  const Tensor q_contiguous = torch::stable::contiguous(q);
  const std::optional<Tensor> guide_contiguous =
      shape.within ? std::nullopt : std::optional<Tensor>(torch::stable::contiguous(*guide));
  dispatch(q, queue, [&](auto scalar) {
    run_exchange<decltype(scalar)>(shape, q_contiguous, queue, guide_contiguous, guide_queue, scale, context, outputs);
  });
  return {outputs.single, outputs.product, outputs.nearest};
}

// What the backward pass knows of one query: by how much each sum counts.
template <class C>
struct ExchangeGradient {
  const ExchangeShape& shape;
  C scale;
  const C *grad_single, *grad_product, *single, *product;  // grad_product and product are null without context

  // grad (A rows of tile.size()) = the gradient for the learners' similarities of query n.
  template <class S>
  void compute(const ExchangeTile<S>& tile, int64_t n, int64_t keys, C* grad, int64_t grad_stride) const {
    const int64_t N = shape.queries, B = shape.guides;
    for (int64_t a = 0; a < shape.learners; ++a) {
      exponential_gradient(tile.learner(a, n), keys, scale, single[a * N + n], scale * grad_single[a * N + n],
                           grad + a * grad_stride);
    }
    if (product == nullptr) {
      return;
    }
    shape.for_each_pair([&](int64_t a, int64_t b) {
      const int64_t index = (a * B + b) * N + n;
      const C weight = grad_product[index] + (shape.within ? grad_product[(b * B + a) * N + n] : C(0));
      add_product_gradient(tile.learner(a, n), tile.guide(b, n), keys, scale, product[index], scale * weight,
                           grad + a * grad_stride, shape.within ? grad + b * grad_stride : nullptr);
    });
  }
};

template <class S>
void run_exchange_backward(const ExchangeGradient<Compute<S>>& gradient, const Tensor& q, const Tensor& queue,
                           const std::optional<Tensor>& guide, const std::optional<Tensor>& guide_queue, Tensor* grad_q,
                           Tensor* grad_queue) {
  using C = Compute<S>;
  const ExchangeShape& shape = gradient.shape;
  const Partition partition(shape.queries, shape.keys);
  const int64_t A = shape.learners, N = shape.queries, width = q.size(2);
  const int64_t grad_stride = BLOCK_QUERIES * TILE_KEYS;
  const auto compute = [&](ExchangeTile<S>& tile, Range block, Range keys, AlignedVector<C>& grad) {
    tile.compute(block, keys);
    for (int64_t n = block.begin; n < block.end; ++n) {
      gradient.compute(tile, n, keys.size(), grad.data() + (n - block.begin) * keys.size(), grad_stride);
    }
  };

  if (grad_q != nullptr) {
    Tensor chunk_grads = torch::stable::new_empty(q, {partition.chunks * A, N, width});
    const auto rows = Rows<C>::of(chunk_grads);
    parallel(partition.chunks * partition.blocks, [&](int64_t first, int64_t last) {
      ExchangeTile<S> tile(shape, q, queue, guide, guide_queue);
      AlignedVector<C> grad(static_cast<size_t>(A * grad_stride));
      for (int64_t task = first; task < last; ++task) {
        const Range block = partition.block(task % partition.blocks);
        const int64_t chunk = task / partition.blocks;
        for_each_tile(partition.chunk(chunk), [&](Range keys) {
          compute(tile, block, keys, grad);
          for (int64_t a = 0; a < A; ++a) {
            multiply(rows.matrix(chunk * A + a, block, 0, width),
                     contiguous_matrix(grad.data() + a * grad_stride, block.size(), keys.size()), tile.keys(a),
                     keys.begin > partition.chunk(chunk).begin);
          }
        });
      }
    });
    C* const out = static_cast<C*>(grad_q->mutable_data_ptr());
    const int64_t size = A * N * width;
    std::fill_n(out, size, C(0));
    for (int64_t chunk = 0; chunk < partition.chunks; ++chunk) {
      const C* part = rows.data + chunk * size;
      std::transform(part, part + size, out, out, [](C a, C b) { return a + b; });
    }
  }

  if (grad_queue != nullptr) {
    C* const out = static_cast<C*>(grad_queue->mutable_data_ptr());
    parallel(partition.chunks, [&](int64_t first, int64_t last) {
      ExchangeTile<S> tile(shape, q, queue, guide, guide_queue);
      AlignedVector<C> grad(static_cast<size_t>(A * grad_stride));
      for (int64_t chunk = first; chunk < last; ++chunk) {
        for_each_tile(partition.chunk(chunk), [&](Range keys) {
          for (int64_t b = 0; b < partition.blocks; ++b) {
            const Range block = partition.block(b);
            compute(tile, block, keys, grad);
            for (int64_t a = 0; a < A; ++a) {
              multiply(contiguous_matrix(out + (a * shape.keys + keys.begin) * width, keys.size(), width),
                       contiguous_matrix(grad.data() + a * grad_stride, block.size(), keys.size()).transposed(),
                       tile.queries(a), b > 0);
            }
          }
        });
      }
    });
  }
}

// The gradients for q, (A, N, C), and the queue, (A, 1, K, C), each empty where it is not needed. The guides of
// another set are constants.
std::tuple<Tensor, Tensor> exchange_logsumexp_backward(const Tensor& grad_single, const Tensor& grad_product,
                                                       const Tensor& single, const Tensor& product, const Tensor& q,
                                                       const Tensor& queue, std::optional<Tensor> guide,
                                                       std::optional<Tensor> guide_queue, double scale, bool needs_q,
                                                       bool needs_queue) {
  const ExchangeShape shape(q, queue, guide, guide_queue);
  const bool context = product.numel() > 0;
  check(grad_single.numel() == single.numel() && grad_product.numel() == product.numel() &&
            single.numel() == shape.learners * shape.queries &&
            (!context || product.numel() == shape.learners * shape.guides * shape.queries),
        "exchange_logsumexp_backward: expected gradients of the outputs' shapes");
  const Tensor q_contiguous = torch::stable::contiguous(q);
  const std::optional<Tensor> guide_contiguous =
      shape.within ? std::nullopt : std::optional<Tensor>(torch::stable::contiguous(*guide));
  const Tensor sums[] = {torch::stable::contiguous(grad_single), torch::stable::contiguous(grad_product),
                         torch::stable::contiguous(single), torch::stable::contiguous(product)};
  Tensor grad_q = torch::stable::new_empty(q, {needs_q ? shape.learners : 0, shape.queries, q.size(2)});
  Tensor grad_queue = torch::stable::new_zeros(q, {needs_queue ? shape.learners : 0, 1, shape.keys, q.size(2)});
  dispatch(q, queue, [&](auto scalar) {
    using C = Compute<decltype(scalar)>;
    const auto data = [](const Tensor& tensor) { return static_cast<const C*>(tensor.const_data_ptr()); };
    const ExchangeGradient<C> gradient{shape,         C(scale),
                                       data(sums[0]), context ? data(sums[1]) : nullptr,
                                       data(sums[2]), context ? data(sums[3]) : nullptr};
    run_exchange_backward<decltype(scalar)>(gradient, q_contiguous, queue, guide_contiguous, guide_queue,
                                            needs_q ? &grad_q : nullptr, needs_queue ? &grad_queue : nullptr);
  });
  return {grad_q, grad_queue};
}

}  // namespace
}  // namespace ikem::contrast

STABLE_TORCH_LIBRARY_FRAGMENT(ikem_ext, library) {
  library.def("queue_logsumexp(Tensor q, Tensor queue, float scale, bool with_means) -> (Tensor, Tensor)");
  library.def(
      "queue_logsumexp_backward(Tensor weights, Tensor log_sums, Tensor q, Tensor queue, float scale) -> Tensor");
  library.def(
      "exchange_logsumexp(Tensor q, Tensor queue, Tensor? guide, Tensor? guide_queue, float scale, int topk, "
      "bool context) -> (Tensor, Tensor, Tensor)");
  library.def(
      "exchange_logsumexp_backward(Tensor grad_single, Tensor grad_product, Tensor single, Tensor product, Tensor q, "
      "Tensor queue, Tensor? guide, Tensor? guide_queue, float scale, bool needs_q, bool needs_queue) "
      "-> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CPU, library) {
  library.impl("queue_logsumexp", TORCH_BOX(&ikem::contrast::queue_logsumexp));
  library.impl("queue_logsumexp_backward", TORCH_BOX(&ikem::contrast::queue_logsumexp_backward));
  library.impl("exchange_logsumexp", TORCH_BOX(&ikem::contrast::exchange_logsumexp));
  library.impl("exchange_logsumexp_backward", TORCH_BOX(&ikem::contrast::exchange_logsumexp_backward));
}
