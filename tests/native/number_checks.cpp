// Reads a word from each line; prints those that float_from_chars does not take, refuse and read as std::from_chars
// does, and how many were the same.
#include <cstring>
#include <iostream>
#include <string>

#include "native/number.h"

int main() {
  int same = 0;
  for (std::string word; std::getline(std::cin, word);) {
    const char* const begin = word.data();
    const char* const end = begin + word.size();
    double expected = 7, found = 7;
    const auto [expected_stop, expected_status] = std::from_chars(begin, end, expected);
    const auto [stop, status] = ikem::native::float_from_chars(begin, end, found);
    const bool expected_whole = expected_status == std::errc() && expected_stop == end;
    const bool whole = status == std::errc() && stop == end;
    const bool equal_bits = std::memcmp(&expected, &found, sizeof found) == 0;
    if (whole == expected_whole && (!whole || equal_bits || (std::isnan(expected) && std::isnan(found)))) {
      ++same;
    } else {
      std::cout << word << ": " << whole << " " << found << ", expected " << expected_whole << " " << expected << "\n";
    }
  }
  std::cout << same << " the same\n";
}
