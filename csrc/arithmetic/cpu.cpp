// Compiled once per SIMD level (see common/simd.h), so that registers of every width are measured.
#include "arithmetic/kernel.h"
#include "common/tile_registers.h"
#include "common/vector.h"

namespace ikem::arithmetic::IKEM_SIMD_LEVEL {
namespace {

using namespace ::ikem::IKEM_SIMD_LEVEL;

// Sums that do not wait for each other, as many as there are registers for: more than a multiply-add takes cycles times
// those that begin in a cycle.
constexpr int CHAINS = VECTOR_BYTES == 64 ? 24 : 12;

// Begins with numbers that the compiler cannot know, and leaves all sums where it has to make them.
template <class C, class Step>
void run_chains(int64_t rounds, Step step) {
  volatile C unknown[CHAINS] = {};
  Vector<C> sums[CHAINS];
  for_each_sum<CHAINS, 1>([&](auto chain, auto) { sums[chain] = Vector<C>{} + unknown[chain]; });
  for (int64_t round = 0; round < rounds; ++round) {
    for_each_sum<CHAINS, 1>([&](auto chain, auto) { sums[chain] = step(sums[chain]); });
  }
  for_each_sum<CHAINS, 1>([&](auto chain, auto) { unknown[chain] = sum_of_lanes<C>(sums[chain]); });
}

// The sums tend to 2: no lane ever holds what would take longer.
template <class C>
int64_t multiply_adds(int64_t rounds) {
  volatile C half = C(0.5), one = C(1);
  const Vector<C> factor = Vector<C>{} + half, term = Vector<C>{} + one;
  run_chains<C>(rounds, [=](Vector<C> sum) __attribute__((always_inline)) { return sum * factor + term; });
  return rounds * CHAINS * lanes<C> * 2;
}

#ifdef __AVX2__
// Two products of bfloat16 for each lane. The instruction is newer than the SIMD levels: no compiler's flag admits it.
int64_t multiply_adds_of_pairs(int64_t rounds) {
  if (!__builtin_cpu_supports("avx512bf16")) {
    return 0;
  }
  const Vector<float> factor{};
  run_chains<float>(rounds, [=](Vector<float> sum) __attribute__((always_inline)) {
    asm("vdpbf16ps %1, %1, %0" : "+v"(sum) : "v"(factor));
    return sum;
  });
  return rounds * CHAINS * lanes<float> * 4;
}
#else
int64_t multiply_adds_of_pairs(int64_t) { return 0; }
#endif

#ifdef __AVX512BW__
// As many sums as products of matrices have, two by two tiles.
int64_t multiply_adds_of_tiles(int64_t rounds) {
  constexpr int64_t SUMS = 4;
  const TileRegisters registers(TILE_SIDE, TILE_SIDE);
  for_each_sum<8, 1>([&](auto tile, auto) { registers.clear<tile>(); });
  for (int64_t round = 0; round < rounds; ++round) {
    for_each_sum<SUMS, 1>([&](auto sum, auto) { registers.add_product<sum, 4 + sum / 2, 6 + sum % 2>(); });
  }
  return rounds * SUMS * TILE_SIDE * TILE_SIDE * TILE_SIDE * 4;
}
#else
int64_t multiply_adds_of_tiles(int64_t) { return 0; }
#endif

}  // namespace

int64_t multiply_adds(Kind kind, int64_t rounds) {
  switch (kind) {
    case Kind::float32:
      return multiply_adds<float>(rounds);
    case Kind::float64:
      return multiply_adds<double>(rounds);
    case Kind::bfloat16:
      return multiply_adds_of_pairs(rounds);
    default:
      return multiply_adds_of_tiles(rounds);
  }
}

}  // namespace ikem::arithmetic::IKEM_SIMD_LEVEL
