// Compiled once per SIMD level (see common/simd.h).
//
// Queries stand in the lanes. A task takes a block of queries against a chunk of keys, tile by tile: a tile's
// similarities are the product of its keys, as they lie, with the block's queries, transposed once. Maxima, sums and
// exponentials then run lane by lane, each query for itself, and what they leave behind is, with its axes exchanged,
// the left factor of the product with the keys that makes means and gradients. Lanes beyond the last query hold the
// similarities of zeros, and nothing of them is written.
//
// The floor is the arithmetic of the products: 2 N K C operations each. A core of a processor with AVX-512 did
// 235 GFLOP/s of them in registers, and does some 200 of them here.
#include <cmath>
#include <limits>

#include "common/memory.h"
#include "common/vector.h"
#include "contrast/kernel.h"

namespace ikem::contrast::IKEM_SIMD_LEVEL {
namespace {

using namespace ::ikem::IKEM_SIMD_LEVEL;

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- Keys and queries, laid out for the products ----

constexpr int64_t TILE_KEYS = 96;
// Coordinates that are multiplied at once: of as many vectors as `multiply` takes they stay in the first-level cache.
constexpr int64_t MOST_DEPTH = 192;

template <class F>
IKEM_INLINE void for_each_tile(Range chunk, F f) {
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += TILE_KEYS) {
    f(Range{begin, smaller(chunk.end, begin + TILE_KEYS)});
  }
}

// A tile of keys as rows in the type computed in. It is read again only where it is another one.
template <class S>
class Keys {
  using C = Compute<S>;

 public:
  explicit Keys(const Vectors<S>& vectors)
      : row(row_length<C>(vectors.width())), vectors_(vectors), rows_(TILE_KEYS * row) {}

  const C* read(int64_t group, Range tile) {
    const S* from = vectors_.data + group * vectors_.strides[0] + tile.begin * vectors_.strides[2];
    if (from != read_ || tile.size() != size_) {
      read_ = from, size_ = tile.size();
      for (int64_t key = 0; key < size_; ++key) {
        for (int64_t part = 0; part < vectors_.parts; ++part) {
          read_part(from + key * vectors_.strides[2] + part * vectors_.strides[1],
                    rows_ + key * row + part * vectors_.part_width);
        }
      }
    }
    return rows_;
  }

  const int64_t row;

 private:
  void read_part(const S* from, C* to) const {
    const int64_t stride = vectors_.strides[3];
    if (stride == 1) {
      for (int64_t c = 0; c < vectors_.part_width; ++c) {
        to[c] = widen(from[c]);
      }
    } else {
      for (int64_t c = 0; c < vectors_.part_width; ++c) {
        to[c] = widen(from[c * stride]);
      }
    }
  }

  const Vectors<S>& vectors_;
  Array<C> rows_;
  const S* read_ = nullptr;
  int64_t size_ = 0;
};

// As many queries as `multiply` takes at once. An odd number of vectors in each row keeps rows from competing for the
// same places of the cache.
template <class C>
constexpr int64_t PANEL = 3 * lanes<C>;

// Some queries of a block: their first is the block's query `first`, and `row` lanes hold them. A matrix with a row for
// each key and a column for each query of a block consists of panels, one after another.
struct Panel {
  int64_t first, count, row;
};

template <class C, class F>
IKEM_INLINE void for_each_panel(int64_t queries, F f) {
  for (int64_t first = 0; first < queries; first += PANEL<C>) {
    const int64_t count = smaller(PANEL<C>, queries - first);
    f(Panel{first, count, round_up(count, lanes<C>)});
  }
}

// The lanes that hold a block of queries.
template <class C>
int64_t block_lanes(int64_t queries) {
  return round_up(smaller(BLOCK_QUERIES, queries), lanes<C>);
}

// Panels (width, queries) from rows of queries, zeros in the lanes beyond.
template <class C>
void transpose_queries(const C* q, int64_t queries, int64_t width, C* out) {
  for_each_panel<C>(queries, [&](Panel panel) {
    const C* from = q + panel.first * width;
    C* to = out + panel.first * width;
    for (int64_t c = 0; c < width; ++c) {
      for (int64_t lane = 0; lane < panel.row; ++lane) {
        to[c * panel.row + lane] = lane < panel.count ? from[lane * width + c] : C(0);
      }
    }
  });
}

// The panel (keys, queries) of similarities of the tile that `keys` has read.
template <class S>
void make_similarities(const Keys<S>& keys, const Compute<S>* tile, int64_t tile_keys, const Compute<S>* transposed,
                       int64_t width, Panel panel, Compute<S>* out) {
  const Compute<S>* const queries = transposed + panel.first * width;
  for (int64_t c = 0; c < width; c += MOST_DEPTH) {
    multiply<Compute<S>>(tile_keys, panel.row, smaller(MOST_DEPTH, width - c), {tile + c, keys.row, 1},
                         queries + c * panel.row, panel.row, out, panel.row, c > 0);
  }
}

// Rows of queries, copied where a product is to read whole vectors of them.
template <class C>
class QueryRows {
 public:
  QueryRows(int64_t queries, int64_t width) : row(row_length<C>(width)), width_(width), rows_(queries * row) {}

  void read(const C* q, int64_t queries) {
    for (int64_t n = 0; n < queries; ++n) {
      memcpy(rows_ + n * row, q + n * width_, sizeof(C) * static_cast<size_t>(width_));
    }
  }
  const C* query(int64_t n) const { return rows_ + n * row; }

  const int64_t row;

 private:
  int64_t width_;
  Array<C> rows_;
};

// ---- Sums of exponentials, lane by lane ----

template <class C>
IKEM_INLINE Vector<C> filled(C value) {
  return Vector<C>{} + value;
}

template <class C>
IKEM_INLINE Vector<C> larger(Vector<C> a, Vector<C> b) {
  return a > b ? a : b;
}

// What is not a number in `a` stays.
template <class C>
IKEM_INLINE Vector<C> smaller(Vector<C> a, Vector<C> b) {
  return b < a ? b : a;
}

// exp(x - above), as if an x above it were equal to it, which only rounding can make it; differences below -86 count as
// -86. Errs by 1e-8 at most: where the result is small, less than a unit in the last place of what it is added to.
IKEM_INLINE Vector<float> exp_difference(Vector<float> x, Vector<float> above) {
  typedef int32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
  x = smaller<float>(x, above) - above;
  x = x < -86.0f ? filled(-86.0f) : x;
  // 2^y = 2^n 2^r with |r| <= 1/2. Adding 1.5 * 2^23 rounds to an integer, which stands in the low bits.
  constexpr float rounding = 12582912.0f, log2_e = 1.44269504f;
  const Vector<float> shifted = x * log2_e + rounding;
  const Vector<float> r = x * log2_e - (shifted - rounding);
  // Minimizes the largest relative error.
  Vector<float> power = 1.5353362e-4f * r + 1.3398874e-3f;
  power = power * r + 9.6184369e-3f;
  power = power * r + 5.5503324e-2f;
  power = power * r + 2.4022648e-1f;
  power = power * r + 6.9314718e-1f;
  power = power * r + 1.0f;
  return reinterpret_cast<Vector<float>>(reinterpret_cast<Bits>(power) + (reinterpret_cast<Bits>(shifted) << 23));
}

IKEM_INLINE Vector<double> exp_difference(Vector<double> x, Vector<double> above) {
  x = smaller<double>(x, above) - above;
  for (int lane = 0; lane < lanes<double>; ++lane) {
    x[lane] = std::exp(x[lane]);
  }
  return x;
}

// Reduces term(0) ... term(rows - 1) with an associative operation, four at a time.
template <class C, class Term, class Combine>
IKEM_INLINE Vector<C> reduce_rows(int64_t rows, Vector<C> start, Term term, Combine combine) {
  Vector<C> parts[4] = {start, start, start, start};
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    for (int j = 0; j < 4; ++j) {
      parts[j] = combine(parts[j], term(i + j));
    }
  }
  for (; i < rows; ++i) {
    parts[0] = combine(parts[0], term(i));
  }
  return combine(combine(parts[0], parts[1]), combine(parts[2], parts[3]));
}

template <class C, class Term>
IKEM_INLINE Vector<C> maximum(int64_t rows, Vector<C> start, Term term) {
  return reduce_rows<C>(rows, start, term, [](Vector<C> a, Vector<C> b) { return larger<C>(a, b); });
}

template <class C, class Term>
IKEM_INLINE Vector<C> sum(int64_t rows, Term term) {
  return reduce_rows<C>(rows, Vector<C>{}, term, [](Vector<C> a, Vector<C> b) { return a + b; });
}

// Sums of exponentials on their way, one for each lane of a row of them.
template <class C>
class ExpSums {
 public:
  ExpSums(int64_t count, int64_t row) : row_(row), max_(count * row), sum_(count * row) {}

  void clear() {
    for (int64_t i = 0; i < max_.size(); ++i) {
      max_[i] = -std::numeric_limits<C>::infinity();
      sum_[i] = 0;
    }
  }

  // Adds exp(term(i)) for all rows i < rows to the sums of one vector of lanes.
  template <class Term>
  IKEM_INLINE void add(int64_t index, int64_t lane, int64_t rows, Term term) {
    raise(index, lane, maximum<C>(rows, load(max_ + index * row_ + lane), term));
    const Vector<C> max = load(max_ + index * row_ + lane);
    add_sum(index, lane, sum<C>(rows, [=](int64_t i) { return exp_difference(term(i), max); }));
  }

  // Raises the maxima; returns the factors by which what was summed before shrinks.
  IKEM_INLINE Vector<C> raise(int64_t index, int64_t lane, Vector<C> max) {
    C* const old = max_ + index * row_ + lane;
    C* const sum = sum_ + index * row_ + lane;
    const Vector<C> factor = exp_difference(load(old), max);
    store(old, max);
    store(sum, load(sum) * factor);
    return factor;
  }

  IKEM_INLINE void add_sum(int64_t index, int64_t lane, Vector<C> terms) {
    C* const sum = sum_ + index * row_ + lane;
    store(sum, load(sum) + terms);
  }

  const C* max(int64_t index) const { return max_ + index * row_; }

  void write(int64_t index, int64_t count, ExpSum<C>* out) const {
    for (int64_t lane = 0; lane < count; ++lane) {
      out[lane] = {max_[index * row_ + lane], sum_[index * row_ + lane]};
    }
  }

 private:
  int64_t row_;
  Array<C> max_, sum_;
};

// Makes the similarities s of a panel into weights exp(scale * s - max), and adds them to the sums; `factors` become
// those by which earlier weights shrink.
template <class C>
void weigh(C* s, int64_t rows, Panel panel, C scale, ExpSums<C>& sums, C* factors) {
  for (int64_t lane = 0; lane < panel.row; lane += lanes<C>) {
    C* const column = s + lane;
    const Vector<C> before = load(sums.max(0) + panel.first + lane);
    const Vector<C> max = maximum<C>(rows, before, [=](int64_t i) { return scale * load(column + i * panel.row); });
    store(factors + lane, sums.raise(0, panel.first + lane, max));
    sums.add_sum(0, panel.first + lane, sum<C>(rows, [=](int64_t i) {
                   const Vector<C> weight = exp_difference(scale * load(column + i * panel.row), max);
                   store(column + i * panel.row, weight);
                   return weight;
                 }));
  }
}

// Multiplies the rows of a panel's queries, where the factor is not 1.
template <class C>
void scale_rows(const C* factors, int64_t count, C* rows, int64_t row) {
  for (int64_t n = 0; n < count; ++n) {
    if (factors[n] != C(1)) {
      for (int64_t c = 0; c < row; ++c) {
        rows[n * row + c] *= factors[n];
      }
    }
  }
}

template <class C>
void merge(ExpSum<C>& total, const ExpSum<C>& other) {
  const C max = total.max > other.max ? total.max : other.max;
  if (max != -std::numeric_limits<C>::infinity()) {
    total = {max, total.sum * std::exp(total.max - max) + other.sum * std::exp(other.max - max)};
  }
}

// The sum of the chunks' sums, `stride` apart.
template <class C>
ExpSum<C> merged(const ExpSum<C>* sums, int64_t chunks, int64_t stride) {
  ExpSum<C> total{-std::numeric_limits<C>::infinity(), C(0)};
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    merge(total, sums[chunk * stride]);
  }
  return total;
}

template <class C>
C log(const ExpSum<C>& total) {
  return total.max + std::log(total.sum);
}

// ---- The nearest entries ----

// The largest entries so far, largest first and of equal ones the lower index first.
template <class C>
struct Nearest {
  C* values;
  int64_t* indices;
  int64_t capacity, count;

  bool takes(C value) const { return count < capacity || (capacity > 0 && value > values[capacity - 1]); }

  void add(C value, int64_t index) {
    if (!takes(value)) {
      return;
    }
    int64_t place = count < capacity ? count++ : capacity - 1;
    for (; place > 0 && value > values[place - 1]; --place) {
      values[place] = values[place - 1];
      indices[place] = indices[place - 1];
    }
    values[place] = value;
    indices[place] = index;
  }
};

// Takes in a panel of similarities with the keys first, first + 1, ...; nearest_of(n) is that of the block's query n.
// Few of them are as large as those that are there: the largest of a tile, and then of some rows, settle the rest.
template <class C, class NearestOf>
IKEM_INLINE void add_nearest(const C* s, int64_t rows, Panel panel, int64_t first, NearestOf nearest_of) {
  constexpr int64_t L = lanes<C>, PIECE_ROWS = 16, PIECES = (TILE_KEYS + PIECE_ROWS - 1) / PIECE_ROWS;
  for (int64_t lane = 0; lane < panel.row; lane += L) {
    C pieces[PIECES][L], all[L];
    Vector<C> largest = load(s + lane);
    for (int64_t begin = 0; begin < rows; begin += PIECE_ROWS) {
      const C* const column = s + begin * panel.row + lane;
      const Vector<C> piece = maximum<C>(smaller(PIECE_ROWS, rows - begin), load(column),
                                         [=](int64_t i) { return load(column + i * panel.row); });
      store(pieces[begin / PIECE_ROWS], piece);
      largest = larger<C>(largest, piece);
    }
    store(all, largest);
    for (int64_t n = lane; n < smaller(lane + L, panel.count); ++n) {
      Nearest<C> nearest = nearest_of(panel.first + n);
      if (!nearest.takes(all[n - lane])) {
        continue;
      }
      for (int64_t i = 0; i < rows; ++i) {
        if (i % PIECE_ROWS == 0 && !nearest.takes(pieces[i / PIECE_ROWS][n - lane])) {
          i += PIECE_ROWS - 1;
        } else {
          nearest.add(s[i * panel.row + n], first + i);
        }
      }
    }
  }
}

// ---- The exchange ----

// Calls f(learner, guide) for the pairs whose products are summed: each once.
template <class F>
IKEM_INLINE void for_each_pair(const ExchangeProblem& problem, F f) {
  for (int64_t a = 0; a < problem.learners; ++a) {
    for (int64_t b = problem.within ? a + 1 : 0; b < problem.guides; ++b) {
      f(a, b);
    }
  }
}

// The similarities of learners and guides: each a matrix (keys, queries) of panels.
template <class S>
class ExchangeTile {
  using C = Compute<S>;

 public:
  ExchangeTile(const ExchangeProblem& problem, const ExchangeOperands<S>& operands)
      : problem_(problem),
        operands_(operands),
        lanes_(block_lanes<C>(problem.queries)),
        learner_keys_(operands.queue),
        guide_keys_(operands.guide_queue),
        learner_queries_(problem.learners * problem.width * lanes_),
        guide_queries_(problem.within ? 0 : problem.guides * problem.guide_width * lanes_),
        learner_tiles_(problem.learners * TILE_KEYS * lanes_),
        guide_tiles_(problem.within ? 0 : problem.guides * TILE_KEYS * lanes_) {}

  // Takes a block of queries, if it is not the one that it has.
  void take(Range block) {
    if (block.begin == block_.begin && block.end == block_.end) {
      return;
    }
    block_ = block;
    transpose(operands_.q, problem_.learners, problem_.width, learner_queries_);
    if (!problem_.within) {
      transpose(operands_.guide, problem_.guides, problem_.guide_width, guide_queries_);
    }
  }

  void read(Range tile) {
    tile_ = tile;
    make(learner_keys_, problem_.learners, problem_.width, learner_queries_, learner_tiles_);
    if (!problem_.within) {
      make(guide_keys_, problem_.guides, problem_.guide_width, guide_queries_, guide_tiles_);
    }
  }

  template <class F>
  IKEM_INLINE void for_each_panel(F f) const {
    contrast::IKEM_SIMD_LEVEL::for_each_panel<C>(block_.size(), f);
  }

  const C* learner(int64_t a, Panel panel) const { return learner_tiles_ + offset(a, panel); }
  const C* guide(int64_t b, Panel panel) const {
    return (problem_.within ? learner_tiles_ : guide_tiles_) + offset(b, panel);
  }
  // Where in an array of the size of the learners' similarities a panel begins.
  int64_t offset(int64_t index, Panel panel) const { return (index * lanes_ + panel.first) * TILE_KEYS; }

  const C* learner_keys(int64_t a) { return learner_keys_.read(a, tile_); }
  int64_t key_row() const { return learner_keys_.row; }
  int64_t num_keys() const { return tile_.size(); }
  int64_t num_lanes() const { return lanes_; }

 private:
  void transpose(const C* q, int64_t groups, int64_t width, C* out) const {
    for (int64_t group = 0; group < groups; ++group) {
      transpose_queries(q + (group * problem_.queries + block_.begin) * width, block_.size(), width,
                        out + group * width * lanes_);
    }
  }

  void make(Keys<S>& keys, int64_t groups, int64_t width, const C* queries, C* out) const {
    for (int64_t group = 0; group < groups; ++group) {
      const C* rows = keys.read(group, tile_);
      for_each_panel([&](Panel panel) {
        make_similarities(keys, rows, tile_.size(), queries + group * width * lanes_, width, panel,
                          out + offset(group, panel));
      });
    }
  }

  const ExchangeProblem& problem_;
  const ExchangeOperands<S>& operands_;
  int64_t lanes_;
  Keys<S> learner_keys_, guide_keys_;
  Array<C> learner_queries_, guide_queries_, learner_tiles_, guide_tiles_;
  Range block_{0, 0}, tile_{0, 0};
};

// The gradients for the learners' similarities, of the layout that these have.
template <class C>
class ExchangeGradientTile {
 public:
  ExchangeGradientTile(const ExchangeProblem& problem, const ExchangeGradients<C>& gradients)
      : problem_(problem),
        gradients_(gradients),
        lanes_(block_lanes<C>(problem.queries)),
        singles_(problem.learners * lanes_),
        products_(problem.context ? problem.learners * problem.guides * lanes_ : 0),
        tiles_(problem.learners * TILE_KEYS * lanes_) {}

  // Takes what is known of a block of queries: their sums, and by how much each counts.
  void take(Range block) {
    const int64_t N = problem_.queries, B = problem_.guides;
    for (int64_t n = block.begin; n < block.end; ++n) {
      const int64_t lane = n - block.begin;
      for (int64_t a = 0; a < problem_.learners; ++a) {
        singles_.set(a * lanes_ + lane, gradients_.single[a * N + n],
                     C(problem_.scale) * gradients_.grad_single[a * N + n]);
      }
      if (problem_.context) {
        for_each_pair(problem_, [&](int64_t a, int64_t b) {
          const int64_t index = (a * B + b) * N + n;
          const C other = problem_.within ? gradients_.grad_product[(b * B + a) * N + n] : C(0);
          products_.set((a * B + b) * lanes_ + lane, gradients_.product[index],
                        C(problem_.scale) * (gradients_.grad_product[index] + other));
        });
      }
    }
  }

  template <class S>
  void compute(const ExchangeTile<S>& tile) {
    tile.for_each_panel([&](Panel panel) {
      for (int64_t lane = 0; lane < panel.row; lane += lanes<C>) {
        for (int64_t a = 0; a < problem_.learners; ++a) {
          set_single(tile, a, panel, lane);
        }
        if (problem_.context) {
          for_each_pair(problem_, [&](int64_t a, int64_t b) { add_product(tile, a, b, panel, lane); });
        }
      }
    });
  }

  const C* learner(int64_t offset) const { return tiles_ + offset; }

 private:
  struct Sums {
    explicit Sums(int64_t size) : log(size), weight(size) {}
    void set(int64_t index, C log_sum, C counts) {
      log[index] = log_sum;
      weight[index] = counts;
    }
    Array<C> log, weight;
  };

  template <class S>
  void set_single(const ExchangeTile<S>& tile, int64_t a, Panel panel, int64_t lane) {
    const C scale = C(problem_.scale);
    const int64_t index = a * lanes_ + panel.first + lane;
    const Vector<C> log = load(singles_.log + index), weight = load(singles_.weight + index);
    const C* s = tile.learner(a, panel) + lane;
    C* grad = tiles_ + tile.offset(a, panel) + lane;
    for (int64_t i = 0; i < tile.num_keys(); ++i) {
      store(grad + i * panel.row, weight * exp_difference(scale * load(s + i * panel.row), log));
    }
  }

  // With e = weight * exp(scale * s * t - log): e * t for the learner, and e * s for the guide if it learns.
  template <class S>
  void add_product(const ExchangeTile<S>& tile, int64_t a, int64_t b, Panel panel, int64_t lane) {
    const C scale = C(problem_.scale);
    const int64_t index = (a * problem_.guides + b) * lanes_ + panel.first + lane;
    const Vector<C> log = load(products_.log + index), weight = load(products_.weight + index);
    const C* s = tile.learner(a, panel) + lane;
    const C* t = tile.guide(b, panel) + lane;
    C* grad_s = tiles_ + tile.offset(a, panel) + lane;
    C* grad_t = problem_.within ? tiles_ + tile.offset(b, panel) + lane : nullptr;
    for (int64_t i = 0; i < tile.num_keys() * panel.row; i += panel.row) {
      const Vector<C> s_i = load(s + i), t_i = load(t + i);
      const Vector<C> e = weight * exp_difference(scale * (s_i * t_i), log);
      store(grad_s + i, load(grad_s + i) + e * t_i);
      if (grad_t != nullptr) {
        store(grad_t + i, load(grad_t + i) + e * s_i);
      }
    }
  }

  const ExchangeProblem& problem_;
  const ExchangeGradients<C>& gradients_;
  int64_t lanes_;
  Sums singles_, products_;
  Array<C> tiles_;
};

// Writes rows of `width` numbers, one after another, from rows of whole vectors.
template <class C>
void write_rows(const C* rows, int64_t count, int64_t row, int64_t width, C* out) {
  for (int64_t i = 0; i < count; ++i) {
    memcpy(out + i * width, rows + i * row, sizeof(C) * static_cast<size_t>(width));
  }
}

}  // namespace

template <class S>
void sum_queue(const QueueProblem& problem, const QueueOperands<S>& operands, const Partition& partition,
               const QueuePartials<Compute<S>>& partials, Range tasks) {
  using C = Compute<S>;
  const int64_t width = problem.width, mean_row = partial_row(width), row = block_lanes<C>(problem.queries);
  const C scale = C(problem.scale);
  Keys<S> keys(operands.queue);
  Array<C> queries(width * row), s(TILE_KEYS * PANEL<C>), factors(PANEL<C>);
  ExpSums<C> sums(1, row);
  for (int64_t task = tasks.begin; task < tasks.end; ++task) {
    const Range block = partition.block(task % partition.blocks);
    const int64_t chunk_group = task / partition.blocks, group = chunk_group % problem.groups;
    const Range chunk = partition.chunk(chunk_group / problem.groups);
    const int64_t first_row = chunk_group * problem.queries + block.begin;
    transpose_queries(operands.q + (group * problem.queries + block.begin) * width, block.size(), width,
                      queries.data());
    sums.clear();
    for_each_tile(chunk, [&](Range tile) {
      const C* rows = keys.read(group, tile);
      for_each_panel<C>(block.size(), [&](Panel panel) {
        make_similarities(keys, rows, tile.size(), queries.data(), width, panel, s.data());
        if (partials.means == nullptr) {
          for (int64_t lane = 0; lane < panel.row; lane += lanes<C>) {
            const C* column = s + lane;
            sums.add(0, panel.first + lane, tile.size(),
                     [=](int64_t i) { return scale * load(column + i * panel.row); });
          }
          return;
        }
        C* means = partials.means + (first_row + panel.first) * mean_row;
        weigh(s.data(), tile.size(), panel, scale, sums, factors.data());
        if (tile.begin > chunk.begin) {
          scale_rows(factors.data(), panel.count, means, mean_row);
        }
        multiply<C>(panel.count, width, tile.size(), {s, 1, panel.row}, rows, keys.row, means, mean_row,
                    tile.begin > chunk.begin);
      });
    });
    sums.write(0, block.size(), partials.sums + first_row);
  }
}

template <class C>
void merge_queue_sums(const QueueProblem& problem, const Partition& partition, const QueuePartials<C>& partials,
                      C* log_sums, C* means, Range rows) {
  const int64_t all = problem.groups * problem.queries, width = problem.width, mean_row = partial_row(width);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const ExpSum<C> total = merged(partials.sums + row, partition.chunks, all);
    log_sums[row] = log(total);
    if (means == nullptr) {
      continue;
    }
    C* const mean = means + row * width;
    for (int64_t c = 0; c < width; ++c) {
      mean[c] = 0;
    }
    for (int64_t chunk = 0; chunk < partition.chunks; ++chunk) {
      const int64_t index = chunk * all + row;
      const C factor = std::exp(partials.sums[index].max - total.max) / total.sum;
      for (int64_t c = 0; c < width; ++c) {
        mean[c] += factor * partials.means[index * mean_row + c];
      }
    }
  }
}

template <class S>
void differentiate_queue(const QueueProblem& problem, const QueueOperands<S>& operands, const Partition& partition,
                         const Compute<S>* log_sums, const Compute<S>* weights, Compute<S>* grad_queue, Range tasks) {
  using C = Compute<S>;
  const int64_t width = problem.width, lanes_of_block = block_lanes<C>(problem.queries);
  const int64_t parts = operands.queue.parts, part_width = operands.queue.part_width;
  const C scale = C(problem.scale);
  Keys<S> keys(operands.queue);
  Array<C> queries(width * lanes_of_block), s(TILE_KEYS * PANEL<C>), grad(TILE_KEYS * keys.row);
  Array<C> logs(lanes_of_block), counts(lanes_of_block);
  QueryRows<C> query_rows(lanes_of_block, width);
  for (int64_t task = tasks.begin; task < tasks.end; ++task) {
    const int64_t group = task / partition.chunks;
    for_each_tile(partition.chunk(task % partition.chunks), [&](Range tile) {
      const C* rows = keys.read(group, tile);
      for (int64_t b = 0; b < partition.blocks; ++b) {
        const Range block = partition.block(b);
        const int64_t first = group * problem.queries + block.begin;
        transpose_queries(operands.q + first * width, block.size(), width, queries.data());
        query_rows.read(operands.q + first * width, block.size());
        for (int64_t n = 0; n < block.size(); ++n) {
          logs[n] = log_sums[first + n];
          counts[n] = scale * weights[first + n];
        }
        for_each_panel<C>(block.size(), [&](Panel panel) {
          make_similarities(keys, rows, tile.size(), queries.data(), width, panel, s.data());
          for (int64_t lane = 0; lane < panel.row; lane += lanes<C>) {
            const Vector<C> log = load(logs + panel.first + lane), weight = load(counts + panel.first + lane);
            for (int64_t i = 0; i < tile.size(); ++i) {
              C* const at = s + i * panel.row + lane;
              store(at, weight * exp_difference(scale * load(at), log));
            }
          }
          multiply<C>(tile.size(), width, panel.count, {s, panel.row, 1}, query_rows.query(panel.first), query_rows.row,
                      grad.data(), keys.row, b > 0 || panel.first > 0);
        });
      }
      for (int64_t part = 0; part < parts; ++part) {
        write_rows(grad + part * part_width, tile.size(), keys.row, part_width,
                   grad_queue + ((group * parts + part) * problem.keys + tile.begin) * part_width);
      }
    });
  }
}

template <class S>
void sum_exchange(const ExchangeProblem& problem, const ExchangeOperands<S>& operands, const Partition& partition,
                  const ExchangePartials<Compute<S>>& partials, Range tasks) {
  using C = Compute<S>;
  const int64_t A = problem.learners, B = problem.guides, N = problem.queries, topk = problem.topk;
  const C scale = C(problem.scale);
  ExchangeTile<S> tile(problem, operands);
  ExpSums<C> singles(A, tile.num_lanes()), products(problem.context ? A * B : 0, tile.num_lanes());
  for (int64_t task = tasks.begin; task < tasks.end; ++task) {
    const Range block = partition.block(task % partition.blocks);
    const int64_t chunk = task / partition.blocks;
    const Range keys = partition.chunk(chunk);
    singles.clear();
    products.clear();
    tile.take(block);
    for_each_tile(keys, [&](Range range) {
      tile.read(range);
      tile.for_each_panel([&](Panel panel) {
        for (int64_t lane = 0; lane < panel.row; lane += lanes<C>) {
          for (int64_t a = 0; a < A; ++a) {
            const C* s = tile.learner(a, panel) + lane;
            singles.add(a, panel.first + lane, range.size(),
                        [=](int64_t i) { return scale * load(s + i * panel.row); });
          }
          if (problem.context) {
            for_each_pair(problem, [&](int64_t a, int64_t b) {
              const C *s = tile.learner(a, panel) + lane, *t = tile.guide(b, panel) + lane;
              products.add(a * B + b, panel.first + lane, range.size(),
                           [=](int64_t i) { return scale * (load(s + i * panel.row) * load(t + i * panel.row)); });
            });
          }
        }
        for (int64_t b = 0; b < B; ++b) {
          add_nearest(tile.guide(b, panel), range.size(), panel, range.begin, [&](int64_t n) {
            const int64_t index = ((chunk * B + b) * N + block.begin + n) * topk;
            return Nearest<C>{partials.near_values + index, partials.near_indices + index, topk,
                              smaller(topk, range.begin - keys.begin)};
          });
        }
      });
    });
    for (int64_t a = 0; a < A; ++a) {
      singles.write(a, block.size(), partials.singles + (chunk * A + a) * N + block.begin);
    }
    if (problem.context) {
      for_each_pair(problem, [&](int64_t a, int64_t b) {
        products.write(a * B + b, block.size(), partials.products + ((chunk * A + a) * B + b) * N + block.begin);
      });
    }
  }
}

template <class C>
void merge_exchange_sums(const ExchangeProblem& problem, const Partition& partition,
                         const ExchangePartials<C>& partials, const ExchangeResults<C>& results, Range queries) {
  const int64_t A = problem.learners, B = problem.guides, N = problem.queries, topk = problem.topk;
  Array<C> values(topk);
  for (int64_t n = queries.begin; n < queries.end; ++n) {
    for (int64_t a = 0; a < A; ++a) {
      results.single[a * N + n] = log(merged(partials.singles + a * N + n, partition.chunks, A * N));
    }
    if (problem.context) {
      for_each_pair(problem, [&](int64_t a, int64_t b) {
        const int64_t index = (a * B + b) * N + n;
        const C value = log(merged(partials.products + index, partition.chunks, A * B * N));
        results.product[index] = value;
        if (problem.within) {
          results.product[(b * B + a) * N + n] = value;
        }
      });
    }
    for (int64_t b = 0; b < B; ++b) {
      // Indices grow from chunk to chunk, so that of equal entries the lower index stays first.
      Nearest<C> nearest{values, results.nearest + (b * N + n) * topk, topk, 0};
      for (int64_t chunk = 0; chunk < partition.chunks; ++chunk) {
        const int64_t first = ((chunk * B + b) * N + n) * topk;
        for (int64_t rank = 0; rank < smaller(topk, partition.chunk(chunk).size()); ++rank) {
          nearest.add(partials.near_values[first + rank], partials.near_indices[first + rank]);
        }
      }
    }
  }
}

template <class S>
void differentiate_exchange(const ExchangeProblem& problem, const ExchangeOperands<S>& operands,
                            const Partition& partition, const ExchangeGradients<Compute<S>>& gradients,
                            Compute<S>* partials, Range tasks) {
  using C = Compute<S>;
  const int64_t grad_row = partial_row(problem.width);
  ExchangeTile<S> tile(problem, operands);
  ExchangeGradientTile<C> grad(problem, gradients);
  for (int64_t task = tasks.begin; task < tasks.end; ++task) {
    const Range block = partition.block(task % partition.blocks);
    const int64_t chunk = task / partition.blocks;
    const Range keys = partition.chunk(chunk);
    tile.take(block);
    grad.take(block);
    for_each_tile(keys, [&](Range range) {
      tile.read(range);
      grad.compute(tile);
      for (int64_t a = 0; a < problem.learners; ++a) {
        const C* rows = tile.learner_keys(a);
        C* const out = partials + ((chunk * problem.learners + a) * problem.queries + block.begin) * grad_row;
        tile.for_each_panel([&](Panel panel) {
          multiply<C>(panel.count, problem.width, range.size(), {grad.learner(tile.offset(a, panel)), 1, panel.row},
                      rows, tile.key_row(), out + panel.first * grad_row, grad_row, range.begin > keys.begin);
        });
      }
    });
  }
}

template <class C>
void merge_exchange_gradients(const ExchangeProblem& problem, const Partition& partition, const C* partials, C* grad_q,
                              Range rows) {
  const int64_t all = problem.learners * problem.queries, width = problem.width, grad_row = partial_row(width);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    C* const grad = grad_q + row * width;
    for (int64_t c = 0; c < width; ++c) {
      grad[c] = 0;
    }
    for (int64_t chunk = 0; chunk < partition.chunks; ++chunk) {
      for (int64_t c = 0; c < width; ++c) {
        grad[c] += partials[(chunk * all + row) * grad_row + c];
      }
    }
  }
}

template <class S>
void differentiate_exchange_queue(const ExchangeProblem& problem, const ExchangeOperands<S>& operands,
                                  const Partition& partition, const ExchangeGradients<Compute<S>>& gradients,
                                  Compute<S>* grad_queue, Range tasks) {
  using C = Compute<S>;
  const int64_t A = problem.learners, width = problem.width;
  ExchangeTile<S> tile(problem, operands);
  ExchangeGradientTile<C> grad(problem, gradients);
  QueryRows<C> queries(tile.num_lanes(), width);
  const int64_t tile_size = TILE_KEYS * queries.row;
  Array<C> out(A * tile_size);
  for (int64_t task = tasks.begin; task < tasks.end; ++task) {
    for_each_tile(partition.chunk(task), [&](Range range) {
      for (int64_t b = 0; b < partition.blocks; ++b) {
        const Range block = partition.block(b);
        tile.take(block);
        grad.take(block);
        tile.read(range);
        grad.compute(tile);
        for (int64_t a = 0; a < A; ++a) {
          queries.read(operands.q + (a * problem.queries + block.begin) * width, block.size());
          tile.for_each_panel([&](Panel panel) {
            multiply<C>(range.size(), width, panel.count, {grad.learner(tile.offset(a, panel)), panel.row, 1},
                        queries.query(panel.first), queries.row, out + a * tile_size, queries.row,
                        b > 0 || panel.first > 0);
          });
        }
      }
      for (int64_t a = 0; a < A; ++a) {
        write_rows(out + a * tile_size, range.size(), queries.row, width,
                   grad_queue + (a * problem.keys + range.begin) * width);
      }
    });
  }
}

#define INSTANTIATE(S)                                                                                                \
  template void sum_queue<S>(const QueueProblem&, const QueueOperands<S>&, const Partition&,                          \
                             const QueuePartials<Compute<S>>&, Range);                                                \
  template void differentiate_queue<S>(const QueueProblem&, const QueueOperands<S>&, const Partition&,                \
                                       const Compute<S>*, const Compute<S>*, Compute<S>*, Range);                     \
  template void sum_exchange<S>(const ExchangeProblem&, const ExchangeOperands<S>&, const Partition&,                 \
                                const ExchangePartials<Compute<S>>&, Range);                                          \
  template void differentiate_exchange<S>(const ExchangeProblem&, const ExchangeOperands<S>&, const Partition&,       \
                                          const ExchangeGradients<Compute<S>>&, Compute<S>*, Range);                  \
  template void differentiate_exchange_queue<S>(const ExchangeProblem&, const ExchangeOperands<S>&, const Partition&, \
                                                const ExchangeGradients<Compute<S>>&, Compute<S>*, Range);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(BFloat16)
INSTANTIATE(Half)
#undef INSTANTIATE

#define INSTANTIATE(C)                                                                                              \
  template void merge_queue_sums<C>(const QueueProblem&, const Partition&, const QueuePartials<C>&, C*, C*, Range); \
  template void merge_exchange_sums<C>(const ExchangeProblem&, const Partition&, const ExchangePartials<C>&,        \
                                       const ExchangeResults<C>&, Range);                                           \
  template void merge_exchange_gradients<C>(const ExchangeProblem&, const Partition&, const C*, C*, Range);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace ikem::contrast::IKEM_SIMD_LEVEL
