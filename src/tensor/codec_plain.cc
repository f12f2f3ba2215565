// f32, bf16 and f16: one number an element, no scales. Stored rows may lie at any address (a
// safetensors header can have any length), so elements are read bytewise.
#include <cstring>

#include "tensor/codecs.h"

namespace m3 {
namespace {

template <typename Stored>
Stored load(const Matrix& w, std::int64_t index) {
  Stored value;
  std::memcpy(&value, static_cast<const std::byte*>(w.values.data) + index * sizeof(Stored),
              sizeof value);
  return value;
}

float widen(float x) {
  return x;
}
float widen(BF16 x) {
  return to_float(x);
}
float widen(std::uint16_t x) {
  return f16_to_float(x);
}

void narrow(float x, float* out) {
  *out = x;
}
void narrow(float x, BF16* out) {
  *out = to_bf16(x);
}
void narrow(float x, std::uint16_t* out) {
  *out = float_to_f16(x);
}

template <typename Stored>
void decode(const Matrix& w, std::int64_t row, std::int64_t begin, std::int64_t end, float* out) {
  for (std::int64_t k = begin; k < end; ++k)
    out[k - begin] = widen(load<Stored>(w, row * w.cols + k));
}

template <typename Stored>
void encode(const float* row, std::int64_t cols, float, void* values, void*) {
  for (std::int64_t k = 0; k < cols; ++k) narrow(row[k], static_cast<Stored*>(values) + k);
}

Status check(const Matrix&) {
  return {};
}

template <typename Stored>
constexpr Codec plain(Format format, std::string_view name, DType dtype) {
  return {format, name, dtype, 1, 0, dtype, decode<Stored>, encode<Stored>, check, nullptr};
}

}  // namespace

const Codec kF32Codec = plain<float>(Format::kF32, "f32", DType::kF32);
const Codec kBF16Codec = plain<BF16>(Format::kBF16, "bf16", DType::kBF16);
const Codec kF16Codec = plain<std::uint16_t>(Format::kF16, "f16", DType::kF16);

}  // namespace m3
