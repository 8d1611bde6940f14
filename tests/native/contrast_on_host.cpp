// The CUDA kernels of the contrastive losses on the host, with plain C functions around them for tests to call.
#include <cstring>
#include <new>

#include "contrast/cuda.cu"
#include "scalars.h"

using namespace ikem::contrast;
using ikem::Compute;

namespace {

// Vectors (G, P, K, C) and the queries for them.
struct Set {
  const void* q;
  const void* queue;
  int64_t groups, parts, keys, part_width;
  const int64_t* strides;

  template <class S>
  Vectors<S> vectors() const {
    return {static_cast<const S*>(queue), parts, part_width, {strides[0], strides[1], strides[2], strides[3]}};
  }
  template <class S>
  const Compute<S>* queries() const {
    return static_cast<const Compute<S>*>(q);
  }
};

struct QueueArguments {
  Set set;
  int64_t queries;
  double scale;
  int64_t allow_tf32;

  QueueProblem problem() const {
    return {set.groups, queries, set.keys, set.parts * set.part_width, scale, allow_tf32 != 0};
  }
  template <class S>
  QueueOperands<S> operands() const {
    return {set.queries<S>(), set.vectors<S>()};
  }
};

struct ExchangeArguments {
  Set learners, guides;
  int64_t queries, topk, within, context;
  double scale;
  int64_t allow_tf32;

  ExchangeProblem problem() const {
    return {learners.groups, guides.groups, queries, learners.keys,  learners.part_width, guides.part_width, topk,
            within != 0,     context != 0,  scale,   allow_tf32 != 0};
  }
  template <class S>
  ExchangeOperands<S> operands() const {
    return {learners.queries<S>(), learners.vectors<S>(), guides.queries<S>(), guides.vectors<S>()};
  }
};

// Full of NaN, and no larger than asked for.
class Workspace {
 public:
  explicit Workspace(int64_t bytes)
      : memory_(static_cast<unsigned char*>(::operator new(static_cast<size_t>(bytes), std::align_val_t{16}))) {
    std::memset(memory_, 0xff, static_cast<size_t>(bytes));
  }
  ~Workspace() { ::operator delete(memory_, std::align_val_t{16}); }
  Workspace(const Workspace&) = delete;
  operator void*() const { return memory_; }

 private:
  unsigned char* memory_;
};

}  // namespace

extern "C" {

// means: null where they are not asked for
const char* sum_queue(int dtype, const QueueArguments* a, void* log_sums, void* means) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const Workspace workspace(cuda::queue_workspace_bytes<S>(a->problem(), means != nullptr));
    return cuda::sum_queue<S>(a->problem(), a->operands<S>(), static_cast<C*>(log_sums), static_cast<C*>(means),
                              workspace, nullptr);
  });
}

const char* differentiate_queue(int dtype, const QueueArguments* a, const void* log_sums, const void* weights,
                                void* grad_queue) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const Workspace workspace(cuda::queue_workspace_bytes<S>(a->problem(), false));
    return cuda::differentiate_queue<S>(a->problem(), a->operands<S>(), static_cast<const C*>(log_sums),
                                        static_cast<const C*>(weights), static_cast<C*>(grad_queue), workspace,
                                        nullptr);
  });
}

const char* sum_exchange(int dtype, const ExchangeArguments* a, void* single, void* product, int64_t* nearest) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const Workspace workspace(cuda::exchange_workspace_bytes<S>(a->problem(), true));
    const ExchangeResults<C> results{static_cast<C*>(single), static_cast<C*>(product), nearest};
    return cuda::sum_exchange<S>(a->problem(), a->operands<S>(), results, workspace, nullptr);
  });
}

// sums: single, product and the gradients for them; grad_q and grad_queue may be null
const char* differentiate_exchange(int dtype, const ExchangeArguments* a, const void* const* sums, void* grad_q,
                                   void* grad_queue) {
  return dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const auto at = [&](int i) { return static_cast<const C*>(sums[i]); };
    const ExchangeGradients<C> gradients{at(0), at(1), at(2), at(3)};
    const Workspace workspace(cuda::exchange_workspace_bytes<S>(a->problem(), false));
    return cuda::differentiate_exchange<S>(a->problem(), a->operands<S>(), gradients, static_cast<C*>(grad_q),
                                           static_cast<C*>(grad_queue), workspace, nullptr);
  });
}

}  // extern "C"
