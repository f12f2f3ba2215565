// Tensor is a view, Buffer owns; nothing else holds memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "base/check.h"
#include "base/result.h"
#include "tensor/dtype.h"
#include "tensor/numeric.h"

namespace m3 {

// Where bytes live. Ops read and write only tensors of their backend's space.
enum class Space : std::uint8_t { kHost, kDevice };

// The DType of a C++ element type.
template <typename T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kF32;
}
template <>
constexpr DType dtype_of<BF16>() {
  return DType::kBF16;
}
template <>
constexpr DType dtype_of<std::uint8_t>() {
  return DType::kU8;
}
template <>
constexpr DType dtype_of<std::int32_t>() {
  return DType::kI32;
}
template <>
constexpr DType dtype_of<std::int64_t>() {
  return DType::kI64;
}

// A view of a dense row-major array: trivially copyable, never frees. Weights are views of
// read-only mappings; only ops' outputs are written.
struct Tensor {
  static constexpr int kMaxRank = 5;

  void* data = nullptr;
  DType dtype = DType::kF32;
  Space space = Space::kHost;
  int rank = 0;
  std::array<std::int64_t, kMaxRank> shape{};

  Tensor() = default;
  Tensor(void* data, DType dtype, std::span<const std::int64_t> shape, Space space = Space::kHost);
  Tensor(void* data, DType dtype, std::initializer_list<std::int64_t> shape,
         Space space = Space::kHost)
      : Tensor(data, dtype, std::span(shape.begin(), shape.size()), space) {}

  explicit operator bool() const { return data != nullptr; }

  std::int64_t dim(int axis) const {
    M3_CHECK(axis >= 0 && axis < rank, "axis {} of a tensor of rank {}", axis, rank);
    return shape[static_cast<std::size_t>(axis)];
  }
  std::int64_t elements() const;
  std::int64_t bytes() const { return elements() * dtype_size(dtype); }

  // Elements of one entry of the first axis.
  std::int64_t row_elements() const { return rank == 0 ? 1 : elements_from(1); }

  // The entries [begin, end) of the first axis.
  Tensor rows(std::int64_t begin, std::int64_t end) const;
  // The same elements under another shape of as many elements.
  Tensor reshape(std::initializer_list<std::int64_t> new_shape) const;

  // Typed access; the element type must match. F8 and E8M0 are read as std::uint8_t.
  template <typename T>
  T* as() const {
    const bool bytes_as_u8 = sizeof(T) == 1 && dtype_size(dtype) == 1;
    M3_CHECK(dtype == dtype_of<T>() || bytes_as_u8, "tensor of {} read as {}", dtype_name(dtype),
             dtype_name(dtype_of<T>()));
    return static_cast<T*>(data);
  }
  // Typed pointer to entry `row` of the first axis.
  template <typename T>
  T* row(std::int64_t row) const {
    return as<T>() + row * row_elements();
  }

  // "F32 [3, 128]", for messages.
  std::string describe() const;

 private:
  std::int64_t elements_from(int axis) const;
};

// "[3, 128]".
std::string describe_shape(std::span<const std::int64_t> shape);

// Owns memory, 4 KiB aligned, zero-filled when allocated. Large buffers take pages from the
// operating system only as they are touched.
class Buffer {
 public:
  Buffer() = default;
  // For sizes that the program chose itself. Throws std::bad_alloc as std::vector does.
  explicit Buffer(std::int64_t bytes);
  // For sizes that a user's request leads to. Errors: the system has no such memory.
  static Result<Buffer> allocate(std::int64_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }

  // A view of the first bytes as an array. The buffer must be large enough.
  Tensor tensor(DType dtype, std::initializer_list<std::int64_t> shape) const;

 private:
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

}  // namespace m3
