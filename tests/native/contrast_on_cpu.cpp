// The CPU kernels of the contrastive losses, built as the only level, with plain C functions around them for tests to
// call. What the chunks of keys yield is full of NaN before, and no larger than it has to be.
#include <limits>
#include <vector>

#include "contrast_calls.h"
#include "scalars.h"

namespace {

template <class C>
std::vector<C> unset(int64_t count) {
  return std::vector<C>(static_cast<size_t>(count), std::numeric_limits<C>::quiet_NaN());
}

template <class C>
std::vector<ExpSum<C>> unset_sums(int64_t count) {
  const C nan = std::numeric_limits<C>::quiet_NaN();
  return std::vector<ExpSum<C>>(static_cast<size_t>(count), ExpSum<C>{nan, nan});
}

}  // namespace

extern "C" {

const char* sum_queue(int dtype, const QueueArguments* a, void* log_sums, void* means) {
  dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const QueueProblem problem = a->problem();
    const int64_t rows = problem.groups * problem.queries;
    const Partition partition(problem.queries, problem.keys, 0);
    auto sums = unset_sums<C>(partition.chunks * rows);
    auto chunk_means = unset<C>(means != nullptr ? partition.chunks * rows * partial_row(problem.width) : 0);
    const QueuePartials<C> partials{sums.data(), means != nullptr ? chunk_means.data() : nullptr};
    const int64_t tasks = partition.chunks * problem.groups * partition.blocks;
    plain::sum_queue(problem, a->operands<S>(), partition, partials, Range{0, tasks});
    plain::merge_queue_sums(problem, partition, partials, static_cast<C*>(log_sums), static_cast<C*>(means),
                            Range{0, rows});
  });
  return nullptr;
}

const char* differentiate_queue(int dtype, const QueueArguments* a, const void* log_sums, const void* weights,
                                void* grad_queue) {
  dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const QueueProblem problem = a->problem();
    const Partition partition(problem.queries, problem.keys, 0);
    plain::differentiate_queue(problem, a->operands<S>(), partition, static_cast<const C*>(log_sums),
                               static_cast<const C*>(weights), static_cast<C*>(grad_queue),
                               Range{0, problem.groups * partition.chunks});
  });
  return nullptr;
}

const char* sum_exchange(int dtype, const ExchangeArguments* a, void* single, void* product, int64_t* nearest) {
  dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const ExchangeProblem problem = a->problem();
    const int64_t A = problem.learners, B = problem.guides, N = problem.queries;
    const Partition partition(N, problem.keys, 0);
    auto singles = unset_sums<C>(partition.chunks * A * N);
    auto products = unset_sums<C>(problem.context ? partition.chunks * A * B * N : 0);
    auto near_values = unset<C>(partition.chunks * B * N * problem.topk);
    std::vector<int64_t> near_indices(near_values.size(), -1);
    const ExchangePartials<C> partials{singles.data(), products.data(), near_values.data(), near_indices.data()};
    const ExchangeResults<C> results{static_cast<C*>(single), static_cast<C*>(product), nearest};
    plain::sum_exchange(problem, a->operands<S>(), partition, partials, Range{0, partition.chunks * partition.blocks});
    plain::merge_exchange_sums(problem, partition, partials, results, Range{0, N});
  });
  return nullptr;
}

const char* differentiate_exchange(int dtype, const ExchangeArguments* a, const void* const* sums, void* grad_q,
                                   void* grad_queue) {
  dispatch(dtype, [&](auto scalar) {
    using S = decltype(scalar);
    using C = Compute<S>;
    const auto at = [&](int i) { return static_cast<const C*>(sums[i]); };
    const ExchangeGradients<C> gradients{at(0), at(1), at(2), at(3)};
    const ExchangeProblem problem = a->problem();
    const int64_t rows = problem.learners * problem.queries;
    const Partition partition(problem.queries, problem.keys, 0);
    auto partials = unset<C>(partition.chunks * rows * partial_row(problem.width));
    plain::differentiate_exchange(problem, a->operands<S>(), partition, gradients, partials.data(),
                                  Range{0, partition.chunks * partition.blocks});
    plain::merge_exchange_gradients(problem, partition, static_cast<const C*>(partials.data()), static_cast<C*>(grad_q),
                                    Range{0, rows});
    plain::differentiate_exchange_queue(problem, a->operands<S>(), partition, gradients, static_cast<C*>(grad_queue),
                                        Range{0, partition.chunks});
  });
  return nullptr;
}

}  // extern "C"
