// The registers of AMX, each a tile of a matrix. Included by kernels alone (see common/vector.h).
//
// As with the pairs of common/bfloat16_product.h no compiler's flag of a SIMD level admits these instructions, and what
// is here may be called where `simd_multiplies_tiles()` does. Tests put a header of the same functions in the place of
// this one, to run what is written with them on any processor.
#pragma once

#include <cstdint>

namespace ikem::IKEM_SIMD_LEVEL {
namespace {

// Rows of a tile, and what each holds at most: sixteen floats, or pairs of bfloat16.
constexpr int64_t TILE_SIDE = 16;

// Configured while this lives: tiles 0 to 3 for sums, (rows, 16) floats; 4 and 5 for left factors, (rows, depth)
// pairs; 6 and 7 for right ones, (depth, 16) pairs.
class TileRegisters {
 public:
  TileRegisters(int64_t rows, int64_t depth) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } configuration;
    for (int tile = 0; tile < 8; ++tile) {
      configuration.rows[tile] = static_cast<uint8_t>(tile < 6 ? rows : depth);
      configuration.row_bytes[tile] = static_cast<uint16_t>(4 * (tile == 4 || tile == 5 ? depth : TILE_SIDE));
    }
    asm volatile("ldtilecfg %0" : : "m"(configuration));
  }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
  ~TileRegisters() { asm volatile("tilerelease"); }

  template <int TILE>
  void clear() const {
    asm volatile("tilezero %%tmm%c0" : : "i"(TILE));
  }

  // Rows `row` numbers of four bytes apart.
  template <int TILE>
  void load(const void* from, int64_t row) const {
    asm volatile("tileloadd (%0,%1,4), %%tmm%c2" : : "r"(from), "r"(row), "i"(TILE) : "memory");
  }
  template <int TILE>
  void store(void* to, int64_t row) const {
    asm volatile("tilestored %%tmm%c2, (%0,%1,4)" : : "r"(to), "r"(row), "i"(TILE) : "memory");
  }

  // Adds the product of a left and a right factor to a sum.
  template <int SUM, int LEFT, int RIGHT>
  void add_product() const {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUM), "i"(LEFT), "i"(RIGHT));
  }
};

}  // namespace
}  // namespace ikem::IKEM_SIMD_LEVEL
