// The copies of csrc/common/async_copy.h. They are made when they are waited for, so that a missing wait shows.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

namespace ikem::cuda {

constexpr int ASYNC_COPY_BYTES = 16;

namespace on_host {

struct Copy {
  void* to;
  const void* from;  // null: zeros
};

// Of the thread that runs: closed groups, and the one that is open at the end.
inline std::deque<std::vector<Copy>>& groups() {
  static std::vector<std::deque<std::vector<Copy>>> threads;
  const unsigned running = ::cuda_host_shim::block.running;
  if (threads.size() <= running) {
    threads.resize(running + 1);
  }
  if (threads[running].empty()) {
    threads[running].emplace_back();
  }
  return threads[running];
}

}  // namespace on_host

inline void copy_async(void* shared, const void* global, bool wanted) {
  const auto aligned = [](const void* address) { return reinterpret_cast<uintptr_t>(address) % ASYNC_COPY_BYTES == 0; };
  if (!aligned(shared) || (wanted && !aligned(global))) {
    ::cuda_host_shim::fail("an asynchronous copy between addresses that are no multiples of 16");
  }
  on_host::groups().back().push_back({shared, wanted ? global : nullptr});
}

inline void commit_copies() { on_host::groups().emplace_back(); }

template <int LEFT>
void wait_for_copies() {
  auto& groups = on_host::groups();
  for (; groups.size() > LEFT + 1; groups.pop_front()) {
    for (const on_host::Copy& copy : groups.front()) {
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, ASYNC_COPY_BYTES);
      } else {
        std::memcpy(copy.to, copy.from, ASYNC_COPY_BYTES);
      }
    }
  }
}

}  // namespace ikem::cuda
