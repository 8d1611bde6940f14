// Products of matrices of bfloat16 in tile registers, with sums in float32. Included by kernels alone (see
// common/vector.h).
//
// An instruction multiplies 16 rows of 16 pairs with 16 pairs of 16 columns. Both factors have pairs along the depth,
// as those of Pairs::dot in common/bfloat16_product.h, but rows of the left one must follow each other in memory.
#pragma once

#include "common/bfloat16_product.h"
#include "common/tile_registers.h"

namespace ikem::IKEM_SIMD_LEVEL {
namespace {

// One of the products that a sum consists of. Rows of its left factor that are not of its run are zeros; where none of
// a block's is of it, nothing is multiplied.
struct TileTerm {
  const Pair *a, *b;
  int64_t depth;
  int64_t first_row = 0, last_row = INT64_MAX;
};
struct TileTerms {
  const TileTerm* data;
  int64_t count;
};

// How many pairs stand for so many, zeros behind them: as many as can be shared out to tiles that are half full or
// more.
inline int64_t padded_pairs(int64_t pairs) { return pairs > TILE_SIDE ? round_up(pairs, TILE_SIDE / 2) : pairs; }

// The depth of tiles of which the products of this depth consist.
inline int64_t tile_depth(int64_t depth) {
  int64_t tile = larger(smaller(depth, TILE_SIDE), 1);  // of nothing, as of no channels, too
  while (depth % tile != 0) {
    --tile;
  }
  return tile;
}

}  // namespace
}  // namespace ikem::IKEM_SIMD_LEVEL

#ifdef IKEM_MULTIPLIES_PAIRS

namespace ikem::IKEM_SIMD_LEVEL {
namespace {

// Makes blocks of two by two tiles of a sum of products. Tiles have the same size, so that the last rows overlap with
// those before them where they would not fill one.
template <class Between>
class TileProduct {
 public:
  TileProduct(int64_t rows, int64_t depth, const TileTerms& terms, int64_t a_row, int64_t b_row,
              const Start<float>& start, float* out, int64_t out_row, Between& between)
      : rows_(rows),
        depth_(depth),
        terms_(terms),
        a_row_(a_row),
        b_row_(b_row),
        start_(start),
        out_(out),
        out_row_(out_row),
        between_(between) {}

  void run(int64_t columns) const {
    for (int64_t tiles = round_up(columns, TILE_SIDE) / TILE_SIDE; tiles > 0;) {
      const int64_t now = tiles % 2 == 0 ? 2 : 1;
      tiles -= now;
      now == 2 ? make_columns<2>(tiles * TILE_SIDE) : make_columns<1>(tiles * TILE_SIDE);
    }
  }

 private:
  // The first row of a tile, and how many rows before its own it makes again.
  int64_t first_row(int64_t tile) const { return smaller(tile * TILE_SIDE, rows_ - tile_rows_); }
  int64_t again(int64_t tile) const { return tile * TILE_SIDE - first_row(tile); }

  template <int V>
  void make_columns(int64_t column) const {
    const int64_t tiles = round_up(rows_, TILE_SIDE) / TILE_SIDE;
    for (int64_t tile = 0; tile < tiles; tile += 2) {
      tile + 1 < tiles ? make_block<2, V>(tile, column) : make_block<1, V>(tile, column);
    }
  }

  template <int R, int V>
  void make_block(int64_t tile, int64_t column) const {
    for_each_sum<R, V>([&](auto r, auto v) {
      if (start_.data != nullptr) {
        registers_.template load<2 * r + v>(start_.data + first_row(tile + r) * start_.row + column + v * TILE_SIDE,
                                            start_.row);
      } else {
        registers_.template clear<2 * r + v>();
      }
    });
    for (int64_t i = 0; i < terms_.count; ++i) {
      const TileTerm& term = terms_.data[i];
      if (first_row(tile) < term.last_row && first_row(tile + R - 1) + tile_rows_ > term.first_row) {
        add_term<R, V>(term, tile, column);
      }
    }
    for_each_sum<V, R>([&](auto v, auto r) {  // from the last columns to the first, as `multiply`
      store<2 * r + (V - 1 - v)>(tile + r, column + (V - 1 - v) * TILE_SIDE);
    });
  }

  template <int R, int V>
  void add_term(const TileTerm& term, int64_t tile, int64_t column) const {
    const Pair* const left[] = {term.a + first_row(tile) * a_row_, term.a + first_row(tile + R - 1) * a_row_};
    const Pair* right = term.b + column;
    for (int64_t d = 0; d < term.depth; d += depth_, right += depth_ * b_row_) {
      for_each_sum<1, V>([&](auto, auto v) { registers_.template load<6 + v>(right + v * TILE_SIDE, b_row_); });
      for_each_sum<R, 1>([&](auto r, auto) { registers_.template load<4 + r>(left[r] + d, a_row_); });
      for_each_sum<R, V>([&](auto r, auto v) { registers_.template add_product<2 * r + v, 4 + r, 6 + v>(); });
      between_(STEPS_OF_TILE * R * V);
    }
  }

  template <int SUM>
  void store(int64_t tile, int64_t column) const {
    float* const to = out_ + first_row(tile) * out_row_ + column;
    const int64_t made = again(tile);
    if (made == 0 || start_.data != out_) {
      return registers_.template store<SUM>(to, out_row_);
    }
    alignas(64) float sums[TILE_SIDE * TILE_SIDE];  // what was made again began with itself
    registers_.template store<SUM>(sums, TILE_SIDE);
    for (int64_t r = made; r < tile_rows_; ++r) {
      memcpy(to + r * out_row_, sums + r * TILE_SIDE, sizeof(float) * TILE_SIDE);
    }
  }

  // For `between`: the multiply-adds of vectors that take as long as a tile's.
  static constexpr int64_t STEPS_OF_TILE = 64;

  const int64_t rows_, depth_;
  const TileTerms& terms_;
  const int64_t a_row_, b_row_;
  const Start<float>& start_;
  float* const out_;
  const int64_t out_row_;
  Between& between_;
  const int64_t tile_rows_ = smaller(rows_, TILE_SIDE);
  const TileRegisters registers_{tile_rows_, depth_};
};

// As `multiply_sum` in common/vector.h, of rows of pairs; depths of the terms are multiples of `tile_depth`. Where a
// sum begins with what is in its place, vectors may not reach beyond rows.
template <class Between = Nothing>
void multiply_tiles(int64_t rows, int64_t columns, int64_t tile_depth, const TileTerms& terms, int64_t a_row,
                    int64_t b_row, const Start<float>& start, float* out, int64_t out_row, Between&& between = {}) {
  if (rows > 0) {
    TileProduct<std::remove_reference_t<Between>>(rows, tile_depth, terms, a_row, b_row, start, out, out_row, between)
        .run(columns);
  }
}

// Rows of pairs as columns; both in whole squares of vectors.
inline void transpose_pairs(const Pair* from, int64_t from_row, int64_t rows, int64_t columns, Pair* to,
                            int64_t to_row) {
  constexpr int L = lanes<Pair>;
  for (int64_t r = 0; r < rows; r += L) {
    for (int64_t c = 0; c < columns; c += L) {
      Vector<Pair> square[L];
      for (int i = 0; i < L; ++i) {
        square[i] = load(from + (r + i) * from_row + c);
      }
      transpose<Pair>(square);
      for (int i = 0; i < L; ++i) {
        store(to + (c + i) * to_row + r, square[i]);
      }
    }
  }
}

}  // namespace
}  // namespace ikem::IKEM_SIMD_LEVEL

#endif
