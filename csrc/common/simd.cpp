#include "common/simd.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace ikem {
namespace {

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
    }
  }
  return levels;
#endif
}

SimdLevel choose_level() {
  const std::vector<SimdLevel> levels = find_available_levels();
  const char* wanted = std::getenv("IKEM_SIMD");
  if (wanted == nullptr || *wanted == '\0') {
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
  return simd_level() == SimdLevel::v4 && __builtin_cpu_supports("avx512bf16");
#endif
}

}  // namespace ikem
