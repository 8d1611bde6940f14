// Compiled once per SIMD level (see common/simd.h).
//
// All of it is bound by memory: forward two reads of x (statistics, then result), one of the residual and one write;
// backward two reads of the gradient and of x, one of y, and a write for each gradient. Dropout costs no memory: its
// random bits are made again where they are needed.
//
// Memory is gone through in runs. With the channels innermost a run is a period, the least number of whole rows of
// channels that fills whole vectors, and what differs from channel to channel is laid out for one period; otherwise a
// run is one channel of one clip, and the same number goes for all its entries.
#include "batch_norm/kernel.h"
#include "batch_norm/math.h"
#include "common/planes.h"

namespace ikem::batch_norm::IKEM_SIMD_LEVEL {
namespace {

using namespace ::ikem::IKEM_SIMD_LEVEL;

// Words of 32 bits in lanes as wide as those of C.
template <class C>
using Words = Vector<std::conditional_t<std::is_same_v<C, double>, uint64_t, uint32_t>>;

// The gain where an entry stays, else zero, for the entries at `place`, `place + step`, ...
template <class C>
IKEM_INLINE Vector<C> kept(const Dropout& dropout, int64_t place, int64_t step) {
  Words<C> words;
  for (int i = 0; i < lanes<C>; ++i) {
    words[i] = static_cast<uint32_t>(i) * static_cast<uint32_t>(step);
  }
  const Vector<C> gain = Vector<C>{} + static_cast<C>(dropout.gain);
  return random_bits(dropout.seed, words + static_cast<uint32_t>(place)) >= dropout.threshold ? gain : Vector<C>{};
}

// How long a period is at least, in vectors: sums that follow each other wait for each other where they are for the
// same place. (In float32 and float64 the order of the sums stays what it was.)
template <class S>
constexpr int PERIOD = sizeof(S) == 2 ? 8 : 1;

// Numbers of the channels: a vector of them for each vector of a run. PERIODIC: the least vectors of a period, or 0.
template <class C, int PERIODIC>
class PerChannel {
 public:
  PerChannel(const Layout& layout, const C* values) : values_(PERIODIC ? period(layout) : 0), given_(values) {
    for (int64_t i = 0; i < values_.size(); ++i) {
      values_[i] = values[i % layout.channels];
    }
  }

  IKEM_INLINE Vector<C> at(int64_t channel, int64_t entry) const {
    return PERIODIC ? load(values_ + entry) : Vector<C>{} + given_[channel];
  }

  static int64_t period(const Layout& layout) {
    int64_t size = layout.channels;
    while (size % lanes<C> != 0 || size < PERIODIC * lanes<C>) {
      size += layout.channels;
    }
    return size;
  }

 private:
  const Array<C> values_;
  const C* const given_;
};

// Sums for each channel.
template <class C, int PERIODIC>
class Sums {
 public:
  explicit Sums(const Layout& layout)
      : channels_(layout.channels),
        values_(PERIODIC ? PerChannel<C, PERIODIC>::period(layout) : layout.channels * lanes<C>) {}

  void clear() { set_zero(+values_, values_.size()); }
  IKEM_INLINE void add(int64_t channel, int64_t entry, Vector<C> more) {
    C* const at = values_ + (PERIODIC ? entry : channel * lanes<C>);
    store(at, load(at) + more);
  }
  void write(C* to) const {
    for (int64_t c = 0; c < channels_; ++c) {
      to[c] = sum(c);
    }
  }
  // Adds the means of `count` numbers.
  void add_means(C count, C* to) const {
    for (int64_t c = 0; c < channels_; ++c) {
      to[c] += sum(c) / count;
    }
  }

 private:
  C sum(int64_t channel) const {
    if (!PERIODIC) {
      return sum_of_lanes<C>(load(values_ + channel * lanes<C>));
    }
    C total = 0;
    for (int64_t i = channel; i < values_.size(); i += channels_) {
      total += values_[i];
    }
    return total;
  }

  const int64_t channels_;
  const Array<C> values_;
};

// Calls f(channel, entry of the run, offset in memory, place in the order (o, i, c), count) for each vector of
// [first, last) of the outer axis; `count` is how many of its lanes there are.
template <class C, int PERIODIC, class F>
IKEM_INLINE void for_each_vector(const Layout& layout, int64_t first, int64_t last, F f) {
  constexpr int64_t L = lanes<C>;
  if constexpr (PERIODIC) {
    const int64_t period = PerChannel<C, PERIODIC>::period(layout);
    const int64_t end = last * layout.channels;
    for (int64_t run = first * layout.channels; run < end; run += period) {
      const int64_t size = smaller(period, end - run);
      int64_t i = 0;
      for (; i + L <= size; i += L) {
        f(0, i, run + i, run + i, L);
      }
      if (i < size) {
        f(0, i, run + i, run + i, size - i);
      }
    }
  } else {
    for (int64_t o = first; o < last; ++o) {
      for (int64_t c = 0; c < layout.channels; ++c) {
        const int64_t run = (o * layout.channels + c) * layout.inner;
        const int64_t place = o * layout.channels * layout.inner + c;
        int64_t i = 0;
        for (; i + L <= layout.inner; i += L) {
          f(c, i, run + i, place + i * layout.channels, L);
        }
        if (i < layout.inner) {
          f(c, i, run + i, place + i * layout.channels, layout.inner - i);
        }
      }
    }
  }
}

// The gradient behind the ReLU.
template <class S, class C = Compute<S>>
IKEM_INLINE Vector<C> through_relu(const Backward<S>& pass, int64_t at, int64_t count) {
  const Vector<C> gradient = load_widened<C>(pass.grad_y + at, count);
  if (pass.y != nullptr) {
    return load_widened<C>(pass.y + at, count) > 0 ? gradient : Vector<C>{};
  }
  if (pass.through != nullptr) {
    return load_widened<C>(pass.through + at, count) > 0 ? gradient : Vector<C>{};
  }
  return gradient;
}

template <int PERIODIC, class S, class C = Compute<S>>
void moments_of_chunk(const Layout& layout, const S* x, int64_t first, int64_t last, C* means, C* squares) {
  Sums<C, PERIODIC> sums(layout);
  // Calls f(entries less `means`) for each vector and sums what it gives.
  const auto sum_up = [&](auto f) {
    const PerChannel<C, PERIODIC> from(layout, means);
    sums.clear();
    for_each_vector<C, PERIODIC>(layout, first, last, [&](int64_t c, int64_t i, int64_t at, int64_t, int64_t count) {
      const Vector<C> value = f(load_widened<C>(x + at, count) - from.at(c, i));
      sums.add(c, i, count == lanes<C> ? value : first_lanes<C>(count) ? value : Vector<C>{});
    });
  };
  // From some entry of the channel on, so that far from zero no digits are lost to a large sum.
  for (int64_t c = 0; c < layout.channels; ++c) {
    means[c] = load_widened<C>(x + (first * layout.channels + c) * layout.inner, 1)[0];
  }
  sum_up([](Vector<C> off) { return off; });
  sums.add_means(static_cast<C>((last - first) * layout.inner), means);
  // What was just read is still in the cache.
  sum_up([](Vector<C> off) { return off * off; });
  sums.write(squares);
}

template <int PERIODIC, class S, class C = Compute<S>>
void forward_part(const Forward<S>& pass, int64_t first, int64_t last) {
  const Layout& layout = pass.layout;
  const PerChannel<C, PERIODIC> mean(layout, pass.mean), scale(layout, pass.scale), shift(layout, pass.shift);
  for_each_vector<C, PERIODIC>(
      layout, first, last, [&](int64_t c, int64_t i, int64_t at, int64_t place, int64_t count) {
        Vector<C> y = (load_widened<C>(pass.x + at, count) - mean.at(c, i)) * scale.at(c, i) + shift.at(c, i);
        if (pass.dropout.active) {
          y *= kept<C>(pass.dropout, place, PERIODIC ? 1 : layout.channels);
        }
        if (pass.residual != nullptr) {
          y += load_widened<C>(pass.residual + at, count);
        }
        if (pass.relu) {
          y = y < 0 ? Vector<C>{} : y;  // so that what is not a number stays
        }
        store_narrowed<C>(pass.y + at, y, count);
      });
}

template <int PERIODIC, class S, class C = Compute<S>>
void gradient_sums_of_chunk(const Backward<S>& pass, int64_t first, int64_t last, C* sums, C* products,
                            S* grad_residual) {
  const Layout& layout = pass.layout;
  const PerChannel<C, PERIODIC> mean(layout, pass.mean);
  Sums<C, PERIODIC> of_gradient(layout), of_product(layout);
  for_each_vector<C, PERIODIC>(layout, first, last,
                               [&](int64_t c, int64_t i, int64_t at, int64_t place, int64_t count) {
                                 Vector<C> gradient = through_relu(pass, at, count);
                                 if (grad_residual != nullptr) {
                                   store_narrowed<C>(grad_residual + at, gradient, count);
                                 }
                                 if (pass.dropout.active) {
                                   gradient *= kept<C>(pass.dropout, place, PERIODIC ? 1 : layout.channels);
                                 }
                                 of_gradient.add(c, i, gradient);
                                 of_product.add(c, i, gradient * (load_widened<C>(pass.x + at, count) - mean.at(c, i)));
                               });
  of_gradient.write(sums);
  of_product.write(products);
}

template <int PERIODIC, class S, class C = Compute<S>>
void gradient_part(const Backward<S>& pass, const Coefficients<C>& coefficients, S* grad_x, int64_t first,
                   int64_t last) {
  const Layout& layout = pass.layout;
  const PerChannel<C, PERIODIC> mean(layout, pass.mean), by_gradient(layout, coefficients.by_gradient),
      by_x(layout, coefficients.by_x), constant(layout, coefficients.constant);
  for_each_vector<C, PERIODIC>(
      layout, first, last, [&](int64_t c, int64_t i, int64_t at, int64_t place, int64_t count) {
        Vector<C> gradient = through_relu(pass, at, count);
        if (pass.dropout.active) {
          gradient *= kept<C>(pass.dropout, place, PERIODIC ? 1 : layout.channels);
        }
        const Vector<C> off = load_widened<C>(pass.x + at, count) - mean.at(c, i);
        store_narrowed<C>(grad_x + at, gradient * by_gradient.at(c, i) + (off * by_x.at(c, i) + constant.at(c, i)),
                          count);
      });
}

}  // namespace

template <class S>
void moments(const Layout& layout, const S* x, const Chunks& chunks, int64_t first_chunk, int64_t last_chunk,
             Compute<S>* means, Compute<S>* squares) {
  const auto of_chunk = layout.inner == 1 ? moments_of_chunk<PERIOD<S>, S> : moments_of_chunk<0, S>;
  for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
    const int64_t first = chunk * chunks.length;
    of_chunk(layout, x, first, smaller(first + chunks.length, layout.outer), means + chunk * layout.channels,
             squares + chunk * layout.channels);
  }
}

template <class S>
void forward(const Forward<S>& pass, int64_t first, int64_t last) {
  pass.layout.inner == 1 ? forward_part<PERIOD<S>>(pass, first, last) : forward_part<0>(pass, first, last);
}

template <class S>
void gradient_sums(const Backward<S>& pass, const Chunks& chunks, int64_t first_chunk, int64_t last_chunk,
                   Compute<S>* sums, Compute<S>* products, S* grad_residual) {
  const Layout& layout = pass.layout;
  const auto of_chunk = layout.inner == 1 ? gradient_sums_of_chunk<PERIOD<S>, S> : gradient_sums_of_chunk<0, S>;
  for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
    const int64_t first = chunk * chunks.length;
    of_chunk(pass, first, smaller(first + chunks.length, layout.outer), sums + chunk * layout.channels,
             products + chunk * layout.channels, grad_residual);
  }
}

template <class S>
void gradient(const Backward<S>& pass, const Coefficients<Compute<S>>& coefficients, S* grad_x, int64_t first,
              int64_t last) {
  pass.layout.inner == 1 ? gradient_part<PERIOD<S>>(pass, coefficients, grad_x, first, last)
                         : gradient_part<0>(pass, coefficients, grad_x, first, last);
}

#define INSTANTIATE(S)                                                                                               \
  template void moments<S>(const Layout&, const S*, const Chunks&, int64_t, int64_t, Compute<S>*, Compute<S>*);      \
  template void forward<S>(const Forward<S>&, int64_t, int64_t);                                                     \
  template void gradient_sums<S>(const Backward<S>&, const Chunks&, int64_t, int64_t, Compute<S>*, Compute<S>*, S*); \
  template void gradient<S>(const Backward<S>&, const Coefficients<Compute<S>>&, S*, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)

}  // namespace ikem::batch_norm::IKEM_SIMD_LEVEL
