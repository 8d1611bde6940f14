// In the place of csrc/common/tile_registers.h: tiles that are arrays, for processors without such registers and for
// AddressSanitizer, which does not see what they load.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/scalar.h"

namespace ikem::IKEM_SIMD_LEVEL {
namespace {

constexpr int64_t TILE_SIDE = 16;

class TileRegisters {
 public:
  TileRegisters(int64_t rows, int64_t depth) : rows_(rows), depth_(depth) {}

  template <int TILE>
  void clear() const {
    memset(tiles_[TILE], 0, sizeof(tiles_[TILE]));
  }
  template <int TILE>
  void load(const void* from, int64_t row) const {
    for (int64_t i = 0; i < rows_of(TILE); ++i) {
      memcpy(tiles_[TILE] + i * TILE_SIDE, static_cast<const uint32_t*>(from) + i * row, bytes_of(TILE));
    }
  }
  template <int TILE>
  void store(void* to, int64_t row) const {
    for (int64_t i = 0; i < rows_of(TILE); ++i) {
      memcpy(static_cast<uint32_t*>(to) + i * row, tiles_[TILE] + i * TILE_SIDE, bytes_of(TILE));
    }
  }

  template <int SUM, int LEFT, int RIGHT>
  void add_product() const {
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < TILE_SIDE; ++j) {
        float sum = float_from_bits(tiles_[SUM][i * TILE_SIDE + j]);
        for (int64_t k = 0; k < depth_; ++k) {
          const uint32_t left = tiles_[LEFT][i * TILE_SIDE + k], right = tiles_[RIGHT][k * TILE_SIDE + j];
          sum += lower(left) * lower(right);
          sum += upper(left) * upper(right);
        }
        tiles_[SUM][i * TILE_SIDE + j] = bits_from_float(sum);
      }
    }
  }

 private:
  static float lower(uint32_t pair) { return float_from_bits(pair << 16); }
  static float upper(uint32_t pair) { return float_from_bits(pair & 0xffff0000u); }
  int64_t rows_of(int tile) const { return tile < 6 ? rows_ : depth_; }
  size_t bytes_of(int tile) const {
    return sizeof(uint32_t) * static_cast<size_t>(tile == 4 || tile == 5 ? depth_ : TILE_SIDE);
  }

  const int64_t rows_, depth_;
  mutable uint32_t tiles_[8][TILE_SIDE * TILE_SIDE];
};

}  // namespace
}  // namespace ikem::IKEM_SIMD_LEVEL
