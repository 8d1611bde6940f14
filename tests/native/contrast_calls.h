// The operations of the contrastive losses as plain C functions, which contrast_on_host.cpp makes of the CUDA kernels
// and contrast_on_cpu.cpp of those for the CPU. They return null, or what went wrong.
#pragma once

#include <cstdint>

#include "contrast/kernel.h"

using namespace ikem::contrast;
using ikem::Compute;

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

extern "C" {

// means: null where they are not asked for
const char* sum_queue(int dtype, const QueueArguments* arguments, void* log_sums, void* means);

const char* differentiate_queue(int dtype, const QueueArguments* arguments, const void* log_sums, const void* weights,
                                void* grad_queue);

const char* sum_exchange(int dtype, const ExchangeArguments* arguments, void* single, void* product, int64_t* nearest);

// sums: single, product and the gradients for them; grad_q and grad_queue may be null
const char* differentiate_exchange(int dtype, const ExchangeArguments* arguments, const void* const* sums, void* grad_q,
                                   void* grad_queue);

}  // extern "C"
