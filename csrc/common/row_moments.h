// Means and squared deviations of channels, made while rows of them are still in the cache. Included by kernels alone
// (see common/vector.h).
#pragma once

#include "common/memory.h"
#include "common/moments.h"
#include "common/planes.h"

namespace ikem::IKEM_SIMD_LEVEL {
namespace {

// Of rows of channels that are added some at a time. Each time they are gone through twice, so that no digits are lost
// to a difference of large squares, and then merged with those before. Means are kept as what they are beyond the first
// row: far from zero they would be rounded each time.
template <class C>
class RowMoments {
 public:
  explicit RowMoments(int64_t channels)
      : channels_(channels), first_(round_up(channels, L)), beyond_(first_.size()), squares_(first_.size()) {}

  // `count` rows, `row` apart, of whole vectors; what stands beyond the channels does not count.
  void add(const C* rows, int64_t row, int64_t count) {
    for (int64_t now; count > 0; count -= now, rows += now * row) {
      now = smaller(count, AT_ONCE);
      add_some(rows, row, now);
    }
  }

  // Writes what was added, and begins anew.
  void finish(const PartialMoments<C>& to) {
    for (int64_t c = 0; c < channels_; ++c) {
      to.means[c] = first_[c] + beyond_[c];
    }
    memcpy(to.squares, squares_, sizeof(C) * static_cast<size_t>(channels_));
    for (const Array<C>* sums : {&first_, &beyond_, &squares_}) {
      set_zero(+*sums, sums->size());
    }
    count_ = 0;
  }

 private:
  static constexpr int64_t L = lanes<C>;
  // So few that they stay in the innermost cache.
  static constexpr int64_t AT_ONCE = 32;

  void add_some(const C* rows, int64_t row, int64_t count) {
    const int64_t total = count_ + count;
    const C share = static_cast<C>(count) / static_cast<C>(total);
    const C weight = static_cast<C>(count_) * share;
    const C one_by_count = C(1) / static_cast<C>(count);
    for (int64_t c = 0; c < first_.size(); c += L) {
      if (count_ == 0) {
        store(first_ + c, load(rows + c));
      }
      const Vector<C> first = load(first_ + c);
      const Vector<C> beyond =
          sum_of_rows(rows + c, row, count, [&](Vector<C> each) { return each - first; }) * one_by_count;
      const Vector<C> mean = first + beyond;
      const Vector<C> squares = sum_of_rows(rows + c, row, count, [&](Vector<C> each) {
        const Vector<C> off = each - mean;
        return off * off;
      });
      const Vector<C> off = beyond - load(beyond_ + c);
      store(beyond_ + c, load(beyond_ + c) + off * share);
      store(squares_ + c, load(squares_ + c) + squares + off * off * weight);
    }
    count_ = total;
  }

  const int64_t channels_;
  int64_t count_ = 0;
  const Array<C> first_, beyond_, squares_;
};

}  // namespace
}  // namespace ikem::IKEM_SIMD_LEVEL
