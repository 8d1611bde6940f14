// Arrays for the host's code. Local to the file that includes it: kernels are compiled once per SIMD level.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>

namespace ikem {
namespace {

// For memory that is written before it is read.
struct Unwritten {};

// Zeros, at an address that is a multiple of a cache line: vectors do not straddle lines, and matrix products, which
// may depend in their last bits on how their operands lie, give the same ones each time.
template <class T>
class Array {
 public:
  Array() = default;
  Array(int64_t size, Unwritten)
      : data_(static_cast<T*>(::operator new(static_cast<size_t>(size) * sizeof(T), CACHE_LINE))), size_(size) {}
  explicit Array(int64_t size) : Array(size, Unwritten{}) {
    memset(static_cast<void*>(data_), 0, static_cast<size_t>(size) * sizeof(T));
  }
  Array(Array&& other) noexcept { swap(other); }
  Array& operator=(Array&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Array() { ::operator delete(static_cast<void*>(data_), CACHE_LINE); }

  T* data() const { return data_; }
  int64_t size() const { return size_; }
  operator T*() const { return data_; }

 private:
  static constexpr std::align_val_t CACHE_LINE{64};

  void swap(Array& other) {
    T* const data = data_;
    const int64_t size = size_;
    data_ = other.data_;
    size_ = other.size_;
    other.data_ = data;
    other.size_ = size;
  }

  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace
}  // namespace ikem
