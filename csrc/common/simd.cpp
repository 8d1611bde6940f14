#include "common/simd.h"

#if defined(__linux__) && defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace ikem {
namespace {

#if defined(__linux__) && defined(__x86_64__) && !defined(IKEM_PLAIN_ONLY)

constexpr int SUPPORTED = 0x1021, REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_GET_XCOMP_SUPP, ARCH_REQ_XCOMP_PERM

// Whether the processor multiplies bfloat16 in tiles, and the system lets processes do so that ask for it.
bool has_tiles() {
  constexpr unsigned BFLOAT16 = 1u << 22, TILES = 1u << 24;  // of leaf 7, EDX
  unsigned a = 0, b = 0, c = 0, d = 0;
  uint64_t supported = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & BFLOAT16) != 0 && (d & TILES) != 0 &&
         syscall(SYS_arch_prctl, SUPPORTED, &supported) == 0 && (supported >> TILE_DATA & 1) != 0;
}

// Asks for it: the system has more to keep of each thread then, so that it is done where tiles are to be used alone.
bool may_use_tiles() { return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0; }

#else

[[maybe_unused]] bool has_tiles() { return false; }
bool may_use_tiles() { return false; }

#endif

std::vector<SimdLevel> find_available_levels() {
#ifdef IKEM_PLAIN_ONLY
  return {SimdLevel::plain};
#else
  __builtin_cpu_init();
  std::vector<SimdLevel> levels{SimdLevel::v2};  // the least that PyTorch itself runs on
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
      __builtin_cpu_supports("bmi2")) {
    levels.push_back(SimdLevel::v3);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      levels.push_back(SimdLevel::v4);
      if (__builtin_cpu_supports("avx512bf16") && has_tiles()) {
        levels.push_back(SimdLevel::amx);
      }
    }
  }
  return levels;
#endif
}

SimdLevel choose_level() {
  std::vector<SimdLevel> levels = find_available_levels();
  const char* wanted = std::getenv("IKEM_SIMD");
  const bool any = wanted == nullptr || *wanted == '\0';
  if (levels.back() == SimdLevel::amx && (any || std::string(wanted) == "amx") && !may_use_tiles()) {
    levels.pop_back();
  }
  if (any) {
    return levels.back();
  }
  for (const SimdLevel level : levels) {
    if (std::string(wanted) == simd_level_name(level)) {
      return level;
    }
  }
  throw std::runtime_error("the environment variable IKEM_SIMD is \"" + std::string(wanted) +
                           "\"; this build on this processor has: " + available_simd_levels());
}

}  // namespace

const char* simd_level_name(SimdLevel level) {
  switch (level) {
    case SimdLevel::v2:
      return "v2";
    case SimdLevel::v3:
      return "v3";
    case SimdLevel::v4:
      return "v4";
    case SimdLevel::amx:
      return "amx";
    default:
      return "plain";
  }
}

const char* available_simd_levels() {
  static const std::string names = [] {
    std::string joined;
    for (const SimdLevel level : find_available_levels()) {
      joined.append(joined.empty() ? "" : " ").append(simd_level_name(level));
    }
    return joined;
  }();
  return names.c_str();
}

SimdLevel simd_level() {
  static const SimdLevel level = choose_level();
  return level;
}

bool simd_multiplies_bfloat16() {
#ifdef IKEM_PLAIN_ONLY
  return false;
#else
  return simd_level() >= SimdLevel::v4 && __builtin_cpu_supports("avx512bf16");
#endif
}

bool simd_multiplies_tiles() { return simd_level() == SimdLevel::amx; }

}  // namespace ikem
