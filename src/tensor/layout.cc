#include "tensor/layout.h"

#include "base/check.h"

namespace m3 {
namespace {

std::int64_t padded_bytes(const Placement& p) {
  constexpr std::int64_t kAlignment = 64;
  const std::int64_t bytes = Tensor(nullptr, p.dtype, p.shape).bytes();
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

std::int64_t bytes_of(std::span<const Placement> placements) {
  std::int64_t bytes = 0;
  for (const Placement& p : placements) bytes += padded_bytes(p);
  return bytes;
}

Buffer lay_out(std::span<const Placement> placements) {
  Buffer buffer(bytes_of(placements));
  std::byte* at = buffer.data();
  for (const Placement& p : placements) {
    *p.tensor = Tensor(at, p.dtype, p.shape);
    at += padded_bytes(p);
  }
  return buffer;
}

void narrow(std::span<const Placement> placements) {
  for (const Placement& p : placements) {
    const Tensor narrowed(p.tensor->data, p.dtype, p.shape);
    M3_CHECK(narrowed.bytes() <= p.tensor->bytes(), "{} of {}", narrowed.describe(),
             p.tensor->describe());
    *p.tensor = narrowed;
  }
}

Tensor shaped(const Tensor& buffer, std::int64_t rows, std::int64_t cols) {
  M3_CHECK(rows * cols <= buffer.elements(), "[{}, {}] of {}", rows, cols, buffer.describe());
  return {buffer.data, buffer.dtype, {rows, cols}, buffer.space};
}

}  // namespace m3
