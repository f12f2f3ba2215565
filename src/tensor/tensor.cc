#include "tensor/tensor.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace m3 {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;

}  // namespace

Tensor::Tensor(void* data_in, DType dtype_in, std::span<const std::int64_t> shape_in,
               Space space_in)
    : data(data_in), dtype(dtype_in), space(space_in), rank(static_cast<int>(shape_in.size())) {
  M3_CHECK(shape_in.size() <= kMaxRank, "rank {} is above {}", shape_in.size(), kMaxRank);
  for (std::size_t i = 0; i < shape_in.size(); ++i) shape[i] = shape_in[i];
}

std::int64_t Tensor::elements_from(int axis) const {
  std::int64_t count = 1;
  for (int i = axis; i < rank; ++i) count *= shape[static_cast<std::size_t>(i)];
  return count;
}

std::int64_t Tensor::elements() const {
  return data == nullptr && rank == 0 ? 0 : elements_from(0);
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  M3_CHECK(rank >= 1 && 0 <= begin && begin <= end && end <= dim(0), "rows [{}, {}) of {}", begin,
           end, describe());
  Tensor part = *this;
  part.data = static_cast<std::byte*>(data) + begin * row_elements() * dtype_size(dtype);
  part.shape[0] = end - begin;
  return part;
}

Tensor Tensor::reshape(std::initializer_list<std::int64_t> new_shape) const {
  Tensor other(data, dtype, new_shape, space);
  M3_CHECK(other.elements() == elements(), "{} as {}", describe(), other.describe());
  return other;
}

std::string Tensor::describe() const {
  return fmt::format("{} {}", dtype_name(dtype),
                     describe_shape({shape.data(), static_cast<std::size_t>(rank)}));
}

std::string describe_shape(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i)
    text += fmt::format("{}{}", i ? ", " : "", shape[i]);
  return text + "]";
}

Buffer::Buffer(std::int64_t bytes) {
  auto buffer = allocate(bytes);
  if (!buffer) throw std::bad_alloc();
  *this = std::move(*buffer);
}

Result<Buffer> Buffer::allocate(std::int64_t bytes) {
  M3_CHECK(bytes >= 0, "a buffer of {} bytes", bytes);
  Buffer buffer;
  if (bytes == 0) return buffer;
  void* data = ::mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED)
    return fail("the system has no memory for {} bytes: {}", bytes, std::strerror(errno));
  // Pages of 2 MiB where the system has them to give: large buffers are read at the memory's speed,
  // and a miss of the address cache is part of that. A refusal changes nothing.
  if (bytes >= kHugePage) ::madvise(data, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = bytes;
  return buffer;
}

Buffer::~Buffer() {
  if (data_ != nullptr) ::munmap(data_, static_cast<std::size_t>(bytes_));
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Tensor Buffer::tensor(DType dtype, std::initializer_list<std::int64_t> shape) const {
  Tensor view(data_, dtype, shape);
  M3_CHECK(view.bytes() <= bytes_, "{} does not fit {} bytes", view.describe(), bytes_);
  return view;
}

}  // namespace m3
