// Checks of arguments whose failure reaches Python as a ValueError.
#pragma once

#include <sstream>
#include <stdexcept>

namespace ikem {

// Throws, unless `holds`, std::invalid_argument with the parts of the message put together.
template <class... Parts>
void check_value(bool holds, const Parts&... parts) {
  if (!holds) {
    std::ostringstream message;
    (message << ... << parts);
    throw std::invalid_argument(message.str());
  }
}

}  // namespace ikem
