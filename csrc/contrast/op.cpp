// Schemas, checks, allocation and dispatch. Compiled twice: into the operations library, where it defines the
// operations and their CPU side, and, with IKEM_CUDA_OPERATIONS, into the CUDA library. Arguments are checked with
// friendly messages in ikem_ext/contrast.py; the checks here are those without which a kernel could read astray.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "common/memory.h"
#include "common/tensor.h"
#include "contrast/kernel.h"
#ifdef IKEM_CUDA_OPERATIONS
#include "common/cuda_stream.h"
#endif

namespace ikem::contrast {
namespace {

void check(bool fits, const char* what) { STD_TORCH_CHECK(fits, what); }

void check_device(const Tensor& tensor, const Tensor& q, const char* name) {
  STD_TORCH_CHECK(tensor.device() == q.device(), name, ": expected to be on the device that q is on");
}

// Calls f(S{}) for the queue's scalar type after checking that `q` is in the type that it is computed in.
template <class F>
auto dispatch(const Tensor& q, const Tensor& queue, F f) {
  STD_TORCH_CHECK(q.scalar_type() == compute_type(queue.scalar_type()), "q: expected the type computed in");
  return dispatch_floating(queue, "queue", f);
}

template <class T>
const T* data_of(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// Null where the tensor is empty.
template <class T>
T* data_of(Tensor& tensor) {
  return tensor.numel() > 0 ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

template <class S>
Vectors<S> vectors_of(const Tensor& tensor) {
  return {data_of<S>(tensor),
          tensor.size(1),
          tensor.size(3),
          {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)}};
}

QueueProblem queue_problem(const Tensor& q, const Tensor& queue, double scale, bool allow_tf32) {
  check(q.dim() == 3 && queue.dim() == 4 && q.size(0) == queue.size(0) && q.size(2) == queue.size(1) * queue.size(3),
        "queue_logsumexp: expected q (G, N, P * C) and queue (G, P, K, C)");
  check_device(queue, q, "queue");
  return {q.size(0), q.size(1), queue.size(2), q.size(2), scale, allow_tf32};
}

template <class S>
QueueOperands<S> queue_operands(const Tensor& q, const Tensor& queue) {
  return {data_of<Compute<S>>(q), vectors_of<S>(queue)};
}

ExchangeProblem exchange_problem(const Tensor& q, const Tensor& queue, const std::optional<Tensor>& guide,
                                 const std::optional<Tensor>& guide_queue, double scale, int64_t topk, bool context,
                                 bool allow_tf32) {
  const auto fits = [](const Tensor& rows, const Tensor& vectors) {
    return rows.dim() == 3 && vectors.dim() == 4 && rows.size(0) == vectors.size(0) && vectors.size(1) == 1 &&
           rows.size(2) == vectors.size(3);
  };
  const bool within = !guide.has_value();
  check(fits(q, queue) && guide_queue.has_value() == !within, "exchange: expected q (A, N, C) and queue (A, 1, K, C)");
  check(within || (fits(*guide, *guide_queue) && guide->size(1) == q.size(1) && guide_queue->size(2) == queue.size(2) &&
                   guide->scalar_type() == q.scalar_type() && guide_queue->scalar_type() == queue.scalar_type()),
        "exchange: expected guide (B, N, D) and guide_queue (B, 1, K, D)");
  check(topk >= 0 && topk <= queue.size(2), "exchange: topk is out of range");
  const Tensor& guides = within ? q : *guide;
  check_device(queue, q, "queue");
  check_device(guides, q, "guide");
  check_device(guide_queue.value_or(queue), q, "guide_queue");
  return {q.size(0), guides.size(0), q.size(1), queue.size(2), q.size(2), guides.size(2),
          topk,      within,         context,   scale,         allow_tf32};
}

template <class S>
ExchangeOperands<S> exchange_operands(const Tensor& q, const Tensor& queue, const std::optional<Tensor>& guide,
                                      const std::optional<Tensor>& guide_queue) {
  return {data_of<Compute<S>>(q), vectors_of<S>(queue), data_of<Compute<S>>(guide.value_or(q)),
          vectors_of<S>(guide_queue.value_or(queue))};
}

std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional<Tensor>(torch::stable::contiguous(*tensor)) : std::nullopt;
}

// The runs of one device, on operands whose rows of queries are contiguous. `like` is a tensor of the type computed in.
#ifdef IKEM_CUDA_OPERATIONS

// Calls f(workspace, stream) where `like` is.
template <class F>
void run_on_device(const Tensor& like, int64_t workspace_bytes, F f) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  Tensor workspace = torch::stable::new_empty(like, {workspace_bytes}, ScalarType::Byte);
  const char* error = f(workspace.mutable_data_ptr(), current_cuda_stream(like.get_device_index()));
  STD_TORCH_CHECK(error == nullptr, "losses over queues: ", error);
}

template <class S>
void run_queue_sums(const QueueProblem& problem, const QueueOperands<S>& operands, const Tensor& like,
                    Compute<S>* log_sums, Compute<S>* means) {
  run_on_device(like, cuda::queue_workspace_bytes<S>(problem, means != nullptr), [&](void* workspace, void* stream) {
    return cuda::sum_queue(problem, operands, log_sums, means, workspace, stream);
  });
}

template <class S>
void run_queue_gradient(const QueueProblem& problem, const QueueOperands<S>& operands, const Tensor& like,
                        const Compute<S>* log_sums, const Compute<S>* weights, Compute<S>* grad_queue) {
  run_on_device(like, cuda::queue_workspace_bytes<S>(problem, false), [&](void* workspace, void* stream) {
    return cuda::differentiate_queue(problem, operands, log_sums, weights, grad_queue, workspace, stream);
  });
}

template <class S>
void run_exchange_sums(const ExchangeProblem& problem, const ExchangeOperands<S>& operands, const Tensor& like,
                       const ExchangeResults<Compute<S>>& results) {
  run_on_device(like, cuda::exchange_workspace_bytes<S>(problem, true), [&](void* workspace, void* stream) {
    return cuda::sum_exchange(problem, operands, results, workspace, stream);
  });
}

template <class S>
void run_exchange_gradients(const ExchangeProblem& problem, const ExchangeOperands<S>& operands,
                            const ExchangeGradients<Compute<S>>& gradients, const Tensor& like, Compute<S>* grad_q,
                            Compute<S>* grad_queue) {
  run_on_device(like, cuda::exchange_workspace_bytes<S>(problem, false), [&](void* workspace, void* stream) {
    return cuda::differentiate_exchange(problem, operands, gradients, grad_q, grad_queue, workspace, stream);
  });
}

#else

#define IKEM_DEFINE_DISPATCH(name)                   \
  template <class... Arguments>                      \
  void name##_tasks(const Arguments&... arguments) { \
    IKEM_DISPATCH_SIMD(name(arguments...))           \
  }
IKEM_DEFINE_DISPATCH(sum_queue)
IKEM_DEFINE_DISPATCH(merge_queue_sums)
IKEM_DEFINE_DISPATCH(differentiate_queue)
IKEM_DEFINE_DISPATCH(sum_exchange)
IKEM_DEFINE_DISPATCH(merge_exchange_sums)
IKEM_DEFINE_DISPATCH(differentiate_exchange)
IKEM_DEFINE_DISPATCH(merge_exchange_gradients)
IKEM_DEFINE_DISPATCH(differentiate_exchange_queue)
#undef IKEM_DEFINE_DISPATCH

template <class F>
void parallel(int64_t tasks, F f) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) { f(Range{first, last}); });
}

template <class S>
void run_queue_sums(const QueueProblem& problem, const QueueOperands<S>& operands, const Tensor& like,
                    Compute<S>* log_sums, Compute<S>* means) {
  using C = Compute<S>;
  const int64_t rows = problem.groups * problem.queries, mean_row = means != nullptr ? partial_row(problem.width) : 0;
  const Partition partition(problem.queries, problem.keys, rows * mean_row * static_cast<int64_t>(sizeof(C)));
  const Array<ExpSum<C>> sums(partition.chunks * rows);
  Tensor chunk_means = torch::stable::new_empty(like, {partition.chunks * rows * mean_row});
  const QueuePartials<C> partials{sums, data_of<C>(chunk_means)};
  parallel(partition.chunks * problem.groups * partition.blocks,
           [&](Range tasks) { sum_queue_tasks(problem, operands, partition, partials, tasks); });
  parallel(rows, [&](Range range) { merge_queue_sums_tasks(problem, partition, partials, log_sums, means, range); });
}

template <class S>
void run_queue_gradient(const QueueProblem& problem, const QueueOperands<S>& operands, const Tensor&,
                        const Compute<S>* log_sums, const Compute<S>* weights, Compute<S>* grad_queue) {
  const Partition partition(problem.queries, problem.keys, 0);
  parallel(problem.groups * partition.chunks, [&](Range tasks) {
    differentiate_queue_tasks(problem, operands, partition, log_sums, weights, grad_queue, tasks);
  });
}

template <class S>
void run_exchange_sums(const ExchangeProblem& problem, const ExchangeOperands<S>& operands, const Tensor&,
                       const ExchangeResults<Compute<S>>& results) {
  using C = Compute<S>;
  const int64_t A = problem.learners, B = problem.guides, N = problem.queries;
  const Partition partition(N, problem.keys, 0);
  const Array<ExpSum<C>> singles(partition.chunks * A * N),
      products(problem.context ? partition.chunks * A * B * N : 0);
  const Array<C> values(partition.chunks * B * N * problem.topk);
  const Array<int64_t> indices(partition.chunks * B * N * problem.topk);
  const ExchangePartials<C> partials{singles, products, values, indices};
  parallel(partition.chunks * partition.blocks,
           [&](Range tasks) { sum_exchange_tasks(problem, operands, partition, partials, tasks); });
  parallel(N, [&](Range queries) { merge_exchange_sums_tasks(problem, partition, partials, results, queries); });
}

// Either gradient is null where it is not asked for.
template <class S>
void run_exchange_gradients(const ExchangeProblem& problem, const ExchangeOperands<S>& operands,
                            const ExchangeGradients<Compute<S>>& gradients, const Tensor& like, Compute<S>* grad_q,
                            Compute<S>* grad_queue) {
  using C = Compute<S>;
  if (grad_q != nullptr) {
    const int64_t rows = problem.learners * problem.queries, size = rows * partial_row(problem.width);
    const Partition partition(problem.queries, problem.keys, size * static_cast<int64_t>(sizeof(C)));
    Tensor chunk_grads = torch::stable::new_empty(like, {partition.chunks * size});
    C* const partials = data_of<C>(chunk_grads);
    parallel(partition.chunks * partition.blocks, [&](Range tasks) {
      differentiate_exchange_tasks(problem, operands, partition, gradients, partials, tasks);
    });
    parallel(rows, [&](Range range) {
      merge_exchange_gradients_tasks(problem, partition, static_cast<const C*>(partials), grad_q, range);
    });
  }
  if (grad_queue != nullptr) {
    const Partition partition(problem.queries, problem.keys, 0);
    parallel(partition.chunks, [&](Range tasks) {
      differentiate_exchange_queue_tasks(problem, operands, partition, gradients, grad_queue, tasks);
    });
  }
}

#endif

// log(sum_i exp(scale q.Q_i)) for each query, (G, N), and, if asked for, sum_i w_i Q_i with the weights w of the
// softmax, (G, N, P * C): scale times it is the gradient for q.
std::tuple<Tensor, Tensor> queue_logsumexp(const Tensor& q, const Tensor& queue, double scale, bool with_means,
                                           bool allow_tf32) {
  const QueueProblem problem = queue_problem(q, queue, scale, allow_tf32);
  Tensor log_sums = torch::stable::new_empty(q, {problem.groups, problem.queries});
  Tensor means = with_means ? torch::stable::new_empty(q, {problem.groups, problem.queries, problem.width})
                            : torch::stable::new_empty(q, {0});
  const Tensor q_contiguous = torch::stable::contiguous(q);
  dispatch(q, queue, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    run_queue_sums(problem, queue_operands<S>(q_contiguous, queue), q, data_of<C>(log_sums), data_of<C>(means));
  });
  return {log_sums, means};
}

// The gradient for the queue, (G, P, K, C), of sum(weights * queue_logsumexp).
Tensor queue_logsumexp_backward(const Tensor& weights, const Tensor& log_sums, const Tensor& q, const Tensor& queue,
                                double scale, bool allow_tf32) {
  const QueueProblem problem = queue_problem(q, queue, scale, allow_tf32);
  check(weights.numel() == problem.groups * problem.queries && log_sums.numel() == weights.numel(),
        "queue_logsumexp_backward: expected one weight and one sum for each query");
  check_device(weights, q, "weights");
  check_device(log_sums, q, "log_sums");
  Tensor grad = torch::stable::new_zeros(q, {problem.groups, queue.size(1), problem.keys, queue.size(3)});
  const Tensor q_contiguous = torch::stable::contiguous(q);
  const Tensor w_contiguous = torch::stable::contiguous(weights), l_contiguous = torch::stable::contiguous(log_sums);
  dispatch(q, queue, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    run_queue_gradient(problem, queue_operands<S>(q_contiguous, queue), q, data_of<C>(l_contiguous),
                       data_of<C>(w_contiguous), data_of<C>(grad));
  });
  return grad;
}

// For learners a and guides b, with s_a = q_a.Q_a and t_b the same of the guides (t = s within one set):
// log(sum_i exp(scale s_a[i])), (A, N); log(sum_i exp(scale s_a[i] t_b[i])), (A, B, N), of which the diagonal stays
// zero within one set, empty without context; and the indices of the topk largest t_b, (B, N, topk).
std::tuple<Tensor, Tensor, Tensor> exchange_logsumexp(const Tensor& q, const Tensor& queue, std::optional<Tensor> guide,
                                                      std::optional<Tensor> guide_queue, double scale, int64_t topk,
                                                      bool context, bool allow_tf32) {
  const ExchangeProblem problem = exchange_problem(q, queue, guide, guide_queue, scale, topk, context, allow_tf32);
  Tensor single = torch::stable::new_empty(q, {problem.learners, problem.queries});
  Tensor product = torch::stable::new_zeros(q, {context ? problem.learners : 0, problem.guides, problem.queries});
  Tensor nearest = torch::stable::new_empty(q, {problem.guides, problem.queries, topk}, ScalarType::Long);
  const Tensor q_contiguous = torch::stable::contiguous(q);
  const std::optional<Tensor> guide_contiguous = contiguous(guide);
  dispatch(q, queue, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    run_exchange_sums(problem, exchange_operands<S>(q_contiguous, queue, guide_contiguous, guide_queue), q,
                      ExchangeResults<C>{data_of<C>(single), data_of<C>(product), data_of<int64_t>(nearest)});
  });
  return {single, product, nearest};
}

// The gradients for q, (A, N, C), and the queue, (A, 1, K, C), each empty where it is not needed. The guides of
// another set are constants.
std::tuple<Tensor, Tensor> exchange_logsumexp_backward(const Tensor& grad_single, const Tensor& grad_product,
                                                       const Tensor& single, const Tensor& product, const Tensor& q,
                                                       const Tensor& queue, std::optional<Tensor> guide,
                                                       std::optional<Tensor> guide_queue, double scale, bool needs_q,
                                                       bool needs_queue, bool allow_tf32) {
  const bool context = product.numel() > 0;
  const ExchangeProblem problem = exchange_problem(q, queue, guide, guide_queue, scale, 0, context, allow_tf32);
  check(grad_single.numel() == single.numel() && grad_product.numel() == product.numel() &&
            single.numel() == problem.learners * problem.queries &&
            (!context || product.numel() == problem.learners * problem.guides * problem.queries),
        "exchange_logsumexp_backward: expected gradients of the outputs' shapes");
  for (const Tensor* sum : {&grad_single, &grad_product, &single, &product}) {
    check_device(*sum, q, "sums and gradients");
  }
  const Tensor q_contiguous = torch::stable::contiguous(q);
  const std::optional<Tensor> guide_contiguous = contiguous(guide);
  const Tensor sums[] = {torch::stable::contiguous(single), torch::stable::contiguous(product),
                         torch::stable::contiguous(grad_single), torch::stable::contiguous(grad_product)};
  Tensor grad_q = torch::stable::new_zeros(q, {needs_q ? problem.learners : 0, problem.queries, problem.width});
  Tensor grad_queue = torch::stable::new_zeros(q, {needs_queue ? problem.learners : 0, 1, problem.keys, problem.width});
  dispatch(q, queue, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    run_exchange_gradients(
        problem, exchange_operands<S>(q_contiguous, queue, guide_contiguous, guide_queue),
        ExchangeGradients<C>{data_of<C>(sums[0]), data_of<C>(sums[1]), data_of<C>(sums[2]), data_of<C>(sums[3])}, q,
        data_of<C>(grad_q), data_of<C>(grad_queue));
  });
  return {grad_q, grad_queue};
}

}  // namespace
}  // namespace ikem::contrast

#ifdef IKEM_CUDA_OPERATIONS
STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CUDA, library) {
#else
STABLE_TORCH_LIBRARY_FRAGMENT(ikem_ext, library) {
  library.def(
      "queue_logsumexp(Tensor q, Tensor queue, float scale, bool with_means, bool allow_tf32) -> (Tensor, Tensor)");
  library.def(
      "queue_logsumexp_backward(Tensor weights, Tensor log_sums, Tensor q, Tensor queue, float scale, "
      "bool allow_tf32) -> Tensor");
  library.def(
      "exchange_logsumexp(Tensor q, Tensor queue, Tensor? guide, Tensor? guide_queue, float scale, int topk, "
      "bool context, bool allow_tf32) -> (Tensor, Tensor, Tensor)");
  library.def(
      "exchange_logsumexp_backward(Tensor grad_single, Tensor grad_product, Tensor single, Tensor product, Tensor q, "
      "Tensor queue, Tensor? guide, Tensor? guide_queue, float scale, bool needs_q, bool needs_queue, "
      "bool allow_tf32) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CPU, library) {
#endif
  library.impl("queue_logsumexp", TORCH_BOX(&ikem::contrast::queue_logsumexp));
  library.impl("queue_logsumexp_backward", TORCH_BOX(&ikem::contrast::queue_logsumexp_backward));
  library.impl("exchange_logsumexp", TORCH_BOX(&ikem::contrast::exchange_logsumexp));
  library.impl("exchange_logsumexp_backward", TORCH_BOX(&ikem::contrast::exchange_logsumexp_backward));
}
