// The CUDA kernels of the contrastive losses on the host, with plain C functions around them for tests to call.
#include <cstring>
#include <new>

#include "contrast/cuda.cu"
#include "contrast_calls.h"
#include "scalars.h"

namespace {

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
