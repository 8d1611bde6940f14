// The kernels of the contrastive losses over many shapes, against the formulas written out: those for the CPU, or those
// for CUDA on the host, whichever it is linked with. Meant to be built with -fsanitize=address,undefined; ends with 0
// if all agree.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "contrast_calls.h"

using ikem::BFloat16;
using ikem::Half;

namespace {

std::mt19937 generator(0);

// Values of three bits, which all types hold.
template <class S>
std::vector<S> random_values(int64_t count) {
  std::vector<S> values(static_cast<size_t>(count));
  for (S& value : values) {
    value = ikem::narrow<S>(static_cast<Compute<S>>(static_cast<int>(generator() % 9) - 4) / 4);
  }
  return values;
}

struct Shape {
  int64_t groups, queries, parts, keys, part_width;
  bool strided;  // the coordinates of a vector lie apart

  int64_t width() const { return parts * part_width; }
  int64_t rows() const { return groups * queries; }
};

bool agree(const char* what, double ours, double expected, double tolerance) {
  const bool good = std::fabs(ours - expected) <= tolerance * (1 + std::fabs(expected));
  if (!good) {
    std::fprintf(stderr, "%s: %.17g instead of %.17g\n", what, ours, expected);
  }
  return good;
}

template <class S>
struct Case {
  using C = Compute<S>;
  Shape shape;
  std::vector<C> q;
  std::vector<S> queue;
  int64_t strides[4];

  explicit Case(const Shape& shape) : shape(shape), q(random_values<C>(shape.rows() * shape.width())) {
    const auto [groups, queries, parts, keys, part_width, strided] = shape;
    queue = random_values<S>(groups * parts * keys * part_width);
    const int64_t line = strided ? 1 : part_width, element = strided ? keys : 1;
    const int64_t all[] = {parts * keys * part_width, keys * part_width, line, element};
    std::copy_n(all, 4, strides);
  }

  Set set() const { return {q.data(), queue.data(), shape.groups, shape.parts, shape.keys, shape.part_width, strides}; }

  double key(int64_t group, int64_t i, int64_t d) const {
    return ikem::widen(queue[static_cast<size_t>(group * strides[0] + d / shape.part_width * strides[1] +
                                                 i * strides[2] + d % shape.part_width * strides[3])]);
  }
  double similarity(int64_t group, int64_t n, int64_t i) const {
    double sum = 0;
    for (int64_t d = 0; d < shape.width(); ++d) {
      sum += static_cast<double>(q[static_cast<size_t>((group * shape.queries + n) * shape.width() + d)]) *
             key(group, i, d);
    }
    return sum;
  }
};

constexpr double SCALE = 0.5;

template <class S>
constexpr int TYPE = std::is_same_v<S, float>      ? 0
                     : std::is_same_v<S, double>   ? 1
                     : std::is_same_v<S, BFloat16> ? 2
                                                   : 3;

template <class S>
bool check_queue(const Shape& shape, bool allow_tf32, double tolerance) {
  using C = Compute<S>;
  const Case<S> problem(shape);
  const QueueArguments arguments{problem.set(), shape.queries, SCALE, allow_tf32};
  std::vector<C> log_sums(static_cast<size_t>(shape.rows())), means(problem.q.size()), grad(problem.queue.size());
  const std::vector<C> weights = random_values<C>(shape.rows());
  if (sum_queue(TYPE<S>, &arguments, log_sums.data(), means.data()) != nullptr ||
      differentiate_queue(TYPE<S>, &arguments, log_sums.data(), weights.data(), grad.data()) != nullptr) {
    return false;
  }
  std::vector<double> expected_grad(grad.size());
  bool good = true;
  for (int64_t row = 0; row < shape.rows(); ++row) {
    const int64_t group = row / shape.queries;
    const auto exponential = [&](int64_t i) {
      return std::exp(SCALE * problem.similarity(group, row % shape.queries, i));
    };
    double sum = 0;
    for (int64_t i = 0; i < shape.keys; ++i) {
      sum += exponential(i);
    }
    good = good && agree("log-sum-exp", log_sums[static_cast<size_t>(row)], std::log(sum), tolerance);
    for (int64_t d = 0; d < shape.width(); ++d) {
      double mean = 0;
      for (int64_t i = 0; i < shape.keys; ++i) {
        const double weight = exponential(i) / sum;
        mean += weight * problem.key(group, i, d);
        const int64_t part = group * shape.parts + d / shape.part_width;
        expected_grad[static_cast<size_t>((part * shape.keys + i) * shape.part_width + d % shape.part_width)] +=
            SCALE * weights[static_cast<size_t>(row)] * weight *
            problem.q[static_cast<size_t>(row * shape.width() + d)];
      }
      good = good && agree("mean", means[static_cast<size_t>(row * shape.width() + d)], mean, tolerance);
    }
  }
  for (size_t i = 0; i < grad.size(); ++i) {
    good = good && agree("queue's gradient", grad[i], expected_grad[i], tolerance);
  }
  return good;
}

// Within one set or, not `within`, between two that are alike.
template <class S>
bool check_exchange(const Shape& shape, int64_t topk, bool within, bool allow_tf32, double tolerance) {
  using C = Compute<S>;
  const Case<S> problem(shape);
  const int64_t A = shape.groups, N = shape.queries, K = shape.keys;
  const ExchangeArguments arguments{problem.set(), problem.set(), N, topk, within, 1, SCALE, allow_tf32};
  std::vector<C> single(static_cast<size_t>(A * N)), product(static_cast<size_t>(A * A * N));
  std::vector<int64_t> nearest(static_cast<size_t>(A * N * topk));
  std::vector<C> grad_q(problem.q.size()), grad_queue(problem.queue.size());
  if (sum_exchange(TYPE<S>, &arguments, single.data(), product.data(), nearest.data()) != nullptr) {
    return false;
  }
  const std::vector<C> grad_single = random_values<C>(A * N), grad_product = random_values<C>(A * A * N);
  const void* const sums[] = {single.data(), product.data(), grad_single.data(), grad_product.data()};
  if (differentiate_exchange(TYPE<S>, &arguments, sums, grad_q.data(), grad_queue.data()) != nullptr) {
    return false;
  }
  bool good = true;
  std::vector<double> expected_q(grad_q.size()), expected_queue(grad_queue.size());
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t a = 0; a < A; ++a) {
      std::vector<double> s, grad(static_cast<size_t>(K));
      for (int64_t i = 0; i < K; ++i) {
        s.push_back(problem.similarity(a, n, i));
      }
      const auto check_sum = [&](const auto& factor, double log_sum, double weight) {
        double sum = 0;
        for (int64_t i = 0; i < K; ++i) {
          sum += std::exp(SCALE * s[static_cast<size_t>(i)] * factor(i));
        }
        for (int64_t i = 0; i < K; ++i) {
          grad[static_cast<size_t>(i)] +=
              SCALE * weight * std::exp(SCALE * s[static_cast<size_t>(i)] * factor(i)) / sum * factor(i);
        }
        return agree("sum of the exchange", log_sum, std::log(sum), tolerance);
      };
      const auto row = static_cast<size_t>(a * N + n);
      good = good && check_sum([](int64_t) { return 1.0; }, single[row], grad_single[row]);
      for (int64_t b = 0; b < A; ++b) {
        if (within && a == b) {
          continue;
        }
        const auto pair = static_cast<size_t>((a * A + b) * N + n), opposite = static_cast<size_t>((b * A + a) * N + n);
        good = good && check_sum([&](int64_t i) { return problem.similarity(b, n, i); }, product[pair],
                                 grad_product[pair] + (within ? grad_product[opposite] : C(0)));
      }
      for (int64_t i = 0; i < K; ++i) {
        for (int64_t d = 0; d < shape.width(); ++d) {
          const auto at_q = static_cast<size_t>((a * N + n) * shape.width() + d);
          expected_q[at_q] += grad[static_cast<size_t>(i)] * problem.key(a, i, d);
          expected_queue[static_cast<size_t>((a * K + i) * shape.width() + d)] +=
              grad[static_cast<size_t>(i)] * problem.q[at_q];
        }
      }
      // Sorted by value, equal ones in order: as the similarities are exact, the very same indices.
      std::vector<int64_t> order(static_cast<size_t>(K));
      for (int64_t i = 0; i < K; ++i) {
        order[static_cast<size_t>(i)] = i;
      }
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t i, int64_t j) { return s[static_cast<size_t>(i)] > s[static_cast<size_t>(j)]; });
      good = good && std::equal(order.begin(), order.begin() + topk, nearest.begin() + (a * N + n) * topk);
    }
  }
  for (size_t i = 0; i < grad_q.size(); ++i) {
    good = good && agree("queries' gradient", grad_q[i], expected_q[i], tolerance);
  }
  for (size_t i = 0; i < grad_queue.size(); ++i) {
    good = good && agree("queue's gradient", grad_queue[i], expected_queue[i], tolerance);
  }
  return good;
}

template <class S>
bool check(bool allow_tf32, double tolerance) {
  bool good = true;
  for (const Shape& shape : {Shape{1, 1, 1, 1, 1, false}, Shape{2, 3, 1, 130, 8, false}, Shape{1, 5, 3, 259, 7, true},
                             Shape{1, 200, 2, 5, 4, false}}) {
    good = good && check_queue<S>(shape, allow_tf32, tolerance);
  }
  for (const bool within : {true, false}) {
    for (const Shape& shape : {Shape{2, 1, 1, 1, 1, false}, Shape{3, 2, 1, 201, 8, false}, Shape{2, 2, 1, 45, 5, true},
                               Shape{2, 200, 1, 3, 2, false}}) {
      good = good && check_exchange<S>(shape, std::min<int64_t>(shape.keys, 3), within, allow_tf32, tolerance);
    }
  }
  return good && check_exchange<S>({2, 1, 1, 70, 4, false}, 70, true, allow_tf32, tolerance);
}

}  // namespace

int main() {
  const bool good = check<double>(false, 1e-9) && check<float>(false, 1e-4) && check<float>(true, 1e-2) &&
                    check<BFloat16>(false, 1e-2) && check<Half>(false, 1e-2);
  return good ? 0 : 1;
}
