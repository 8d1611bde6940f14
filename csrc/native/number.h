// Numbers in text, whatever the locale.
#pragma once

#include <locale.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <version>

namespace ikem::native {

// std::from_chars for floating-point numbers, which the standard library of macOS has for whole numbers alone.
inline std::from_chars_result float_from_chars(const char* begin, const char* end, double& value) {
  static const locale_t c_locale = newlocale(LC_ALL_MASK, "C", nullptr);
  const std::string text(begin, end);
  // strtod also takes white space and a plus before a number, and hexadecimal numbers.
  const std::size_t first = text.starts_with('-') ? 1 : 0;
  if (text.find_first_of("-.0123456789iInN") != 0 || text.find_first_of("xX", first) == first + 1) {
    return {begin, std::errc::invalid_argument};
  }
  char* stop = nullptr;
  errno = 0;
  const double number = strtod_l(text.c_str(), &stop, c_locale);
  const char* const rest = begin + (stop - text.c_str());
  if (rest == begin) {
    return {begin, std::errc::invalid_argument};
  }
  if (errno == ERANGE && (number == 0 || std::isinf(number))) {  // it is also said of numbers near zero that fit
    return {rest, std::errc::result_out_of_range};
  }
  value = number;
  return {rest, std::errc()};
}

template <typename Number>
std::from_chars_result from_chars(const char* begin, const char* end, Number& value) {
#ifndef __cpp_lib_to_chars
  if constexpr (std::is_floating_point_v<Number>) {
    return float_from_chars(begin, end, value);
  } else {
    return std::from_chars(begin, end, value);
  }
#else
  return std::from_chars(begin, end, value);
#endif
}

// Whether the field as a whole is a number, and one that fits; then it is in `value`.
template <typename Number>
bool to_number(std::string_view field, Number& value) {
  if (field.size() > 1 && field.front() == '+' && field[1] != '-') {
    field.remove_prefix(1);  // which from_chars does not take
  }
  const char* const end = field.data() + field.size();
  const auto [stop, status] = from_chars(field.data(), end, value);
  return status == std::errc() && stop == end;
}

}  // namespace ikem::native
