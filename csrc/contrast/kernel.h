// What the kernels of this family offer: pointers, sizes and strides, and nothing of torch.
//
// Similarities are made tile by tile and reduced at once: no array grows with queries times keys.
#pragma once

#include <cstdint>

#include "common/scalar.h"
#include "common/simd.h"

namespace ikem::contrast {

struct Range {
  int64_t begin, end;
  IKEM_INLINE int64_t size() const { return end - begin; }
};

// Vectors (G, P, K, C), strides in elements: in each of G groups K vectors of P parts of C coordinates.
template <class S>
struct Vectors {
  const S* data;
  int64_t parts, part_width;
  int64_t strides[4];

  IKEM_INLINE int64_t width() const { return parts * part_width; }
};

// ---- One queue: log-sum-exp of a query's similarities, and the mean of the queue that it weighs ----

struct QueueProblem {
  int64_t groups, queries, keys, width;
  double scale;
  bool allow_tf32;  // on a GPU, float32 may be rounded to TF32 for products
};

template <class S>
struct QueueOperands {
  const Compute<S>* q;  // (G, N, width), contiguous
  Vectors<S> queue;
};

// ---- Two sets of queues: the sums of the exchange between learners and guides ----

// Learners (A) and guides (B). In the exchange within one set the guides are the learners, and products are summed for
// the pairs a < b alone, since they are symmetric.
struct ExchangeProblem {
  int64_t learners, guides, queries, keys, width, guide_width, topk;
  bool within, context;
  double scale;
  bool allow_tf32;  // as above
};

template <class S>
struct ExchangeOperands {
  const Compute<S>* q;  // (A, N, width), contiguous
  Vectors<S> queue;
  const Compute<S>* guide;  // (B, N, guide_width), contiguous; q within one set
  Vectors<S> guide_queue;
};

template <class C>
struct ExchangeResults {
  C* single;         // (A, N)
  C* product;        // (A, B, N); null without context
  int64_t* nearest;  // (B, N, topk)
};

// The forward pass's sums and the gradients for them, of the same shapes.
template <class C>
struct ExchangeGradients {
  const C *single, *product;
  const C *grad_single, *grad_product;
};

// ---- CPU ----

constexpr int64_t BLOCK_QUERIES = 192;
constexpr int64_t MAX_CHUNKS = 16;
constexpr int64_t CHUNK_MULTIPLE = 128;
constexpr int64_t MAX_PARTIAL_BYTES = int64_t{20} << 20;

// How queries and keys are cut up. What the chunks of keys yield, `partial_bytes` each, is merged in their order. It is
// a function of the problem alone, so that the number of threads changes no bit of the results.
struct Partition {
  int64_t queries, keys, blocks, chunk_keys, chunks;

  Partition(int64_t queries, int64_t keys, int64_t partial_bytes) : queries(queries), keys(keys) {
    const int64_t affordable = partial_bytes > 0 ? MAX_PARTIAL_BYTES / partial_bytes : MAX_CHUNKS;
    const int64_t wanted = affordable < 1 ? 1 : affordable < MAX_CHUNKS ? affordable : MAX_CHUNKS;
    const auto divide_up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    blocks = divide_up(queries, BLOCK_QUERIES);
    chunk_keys = divide_up(divide_up(keys, wanted), CHUNK_MULTIPLE) * CHUNK_MULTIPLE;
    chunks = keys > 0 ? divide_up(keys, chunk_keys) : 0;
  }

  Range block(int64_t index) const { return piece(index, BLOCK_QUERIES, queries); }
  Range chunk(int64_t index) const { return piece(index, chunk_keys, keys); }

 private:
  static Range piece(int64_t index, int64_t size, int64_t all) {
    return {index * size, (index + 1) * size < all ? (index + 1) * size : all};
  }
};

// A sum of exponentials on its way: sum over x of exp(x - max).
template <class C>
struct ExpSum {
  C max, sum;
};

// Partial sums of vectors have rows of whole SIMD vectors.
constexpr int64_t partial_row(int64_t width) { return (width + 15) / 16 * 16; }

template <class C>
struct QueuePartials {
  ExpSum<C>* sums;  // (chunks, G, N)
  C* means;         // (chunks, G, N, partial_row), to be divided by the sums; null where not asked for
};

// Of each chunk's nearest entries, as many as it has keys but at most topk, the largest comes first and of equal ones
// that of the lower index.
template <class C>
struct ExchangePartials {
  ExpSum<C>* singles;     // (chunks, A, N)
  ExpSum<C>* products;    // (chunks, A, B, N); null without context
  C* near_values;         // (chunks, B, N, topk)
  int64_t* near_indices;  // likewise
};

// The passes over the keys work on a range of tasks: (chunks, G, blocks) for a queue, (chunks, blocks) for the
// exchange, except that the gradients for queues, contiguous (G, P, K, C), have one task for each chunk (and group).
// The merges work on a range of the G * N (or A * N) queries.
#define IKEM_DECLARE_CONTRAST(level)                                                                                  \
  namespace level {                                                                                                   \
  template <class S>                                                                                                  \
  void sum_queue(const QueueProblem& problem, const QueueOperands<S>& operands, const Partition& partition,           \
                 const QueuePartials<Compute<S>>& partials, Range tasks);                                             \
  template <class C>                                                                                                  \
  void merge_queue_sums(const QueueProblem& problem, const Partition& partition, const QueuePartials<C>& partials,    \
                        C* log_sums, C* means, Range rows);                                                           \
  template <class S>                                                                                                  \
  void differentiate_queue(const QueueProblem& problem, const QueueOperands<S>& operands, const Partition& partition, \
                           const Compute<S>* log_sums, const Compute<S>* weights, Compute<S>* grad_queue,             \
                           Range tasks);                                                                              \
  template <class S>                                                                                                  \
  void sum_exchange(const ExchangeProblem& problem, const ExchangeOperands<S>& operands, const Partition& partition,  \
                    const ExchangePartials<Compute<S>>& partials, Range tasks);                                       \
  template <class C>                                                                                                  \
  void merge_exchange_sums(const ExchangeProblem& problem, const Partition& partition,                                \
                           const ExchangePartials<C>& partials, const ExchangeResults<C>& results, Range queries);    \
  /* partials: (chunks, A, N, partial_row) */                                                                         \
  template <class S>                                                                                                  \
  void differentiate_exchange(const ExchangeProblem& problem, const ExchangeOperands<S>& operands,                    \
                              const Partition& partition, const ExchangeGradients<Compute<S>>& gradients,             \
                              Compute<S>* partials, Range tasks);                                                     \
  template <class C>                                                                                                  \
  void merge_exchange_gradients(const ExchangeProblem& problem, const Partition& partition, const C* partials,        \
                                C* grad_q, Range rows);                                                               \
  template <class S>                                                                                                  \
  void differentiate_exchange_queue(const ExchangeProblem& problem, const ExchangeOperands<S>& operands,              \
                                    const Partition& partition, const ExchangeGradients<Compute<S>>& gradients,       \
                                    Compute<S>* grad_queue, Range tasks);                                             \
  }
IKEM_FOR_EACH_SIMD_LEVEL(IKEM_DECLARE_CONTRAST)
#undef IKEM_DECLARE_CONTRAST

// ---- CUDA ----

// All work in a workspace of as many bytes as the functions named so say, on a stream that is a cudaStream_t of the
// current device, and return null, or what went wrong.
namespace cuda {

template <class S>
int64_t queue_workspace_bytes(const QueueProblem& problem, bool with_means);
template <class S>
int64_t exchange_workspace_bytes(const ExchangeProblem& problem, bool forward);

// log_sums (G, N); means (G, N, width), or null
template <class S>
const char* sum_queue(const QueueProblem& problem, const QueueOperands<S>& operands, Compute<S>* log_sums,
                      Compute<S>* means, void* workspace, void* stream);
// grad_queue (G, P, K, C); the workspace is that without means
template <class S>
const char* differentiate_queue(const QueueProblem& problem, const QueueOperands<S>& operands,
                                const Compute<S>* log_sums, const Compute<S>* weights, Compute<S>* grad_queue,
                                void* workspace, void* stream);

template <class S>
const char* sum_exchange(const ExchangeProblem& problem, const ExchangeOperands<S>& operands,
                         const ExchangeResults<Compute<S>>& results, void* workspace, void* stream);
// grad_q (A, N, width) and grad_queue (A, K, width), or null
template <class S>
const char* differentiate_exchange(const ExchangeProblem& problem, const ExchangeOperands<S>& operands,
                                   const ExchangeGradients<Compute<S>>& gradients, Compute<S>* grad_q,
                                   Compute<S>* grad_queue, void* workspace, void* stream);

}  // namespace cuda

}  // namespace ikem::contrast
