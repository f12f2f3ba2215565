#include "tensor/matrix.h"

#include "base/check.h"
#include "tensor/codecs.h"

namespace m3 {
namespace {

constexpr const Codec* kCodecs[] = {&kF32Codec,   &kBF16Codec,  &kF16Codec, &kMxfp8Codec,
                                    &kMxfp4Codec, &kNvfp4Codec, &kInt8Codec};

}  // namespace

std::span<const Codec* const> codecs() {
  return kCodecs;
}

const Codec& codec_of(Format format) {
  for (const Codec* codec : kCodecs)
    if (codec->format == format) return *codec;
  M3_CHECK(false, "no codec for format {}", static_cast<int>(format));
  __builtin_unreachable();
}

Result<const Codec*> codec_named(std::string_view name) {
  std::string known;
  for (const Codec* codec : kCodecs) {
    if (codec->name == name) return codec;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", codec->name);
  }
  return fail("unknown weight format '{}'; known are {}", name, known);
}

const Codec* codec_for(DType values, std::optional<DType> scales) {
  if (scales == DType::kF8E8M0) scales = DType::kU8;
  for (const Codec* codec : kCodecs) {
    const bool same_scales = codec->scale_columns == 0 ? !scales : scales == codec->scales_dtype;
    if (codec->values_dtype == values && same_scales) return codec;
  }
  return nullptr;
}

std::int64_t values_cols(const Codec& codec, std::int64_t cols) {
  return cols / codec.packed;
}

std::int64_t scale_cols(const Codec& codec, std::int64_t cols) {
  return codec.scale_columns == 0 ? 0 : (cols + codec.scale_columns - 1) / codec.scale_columns;
}

std::int64_t value_row_bytes(const Codec& codec, std::int64_t cols) {
  return values_cols(codec, cols) * dtype_size(codec.values_dtype);
}

std::int64_t scale_row_bytes(const Codec& codec, std::int64_t cols) {
  return scale_cols(codec, cols) * dtype_size(codec.scales_dtype);
}

bool fits(const Codec& codec, std::int64_t cols) {
  return cols % codec.packed == 0;
}

Matrix matrix_rows(const Matrix& w, std::int64_t begin, std::int64_t end) {
  Matrix part = w;
  part.values = w.values.rows(begin, end);
  if (w.scales) part.scales = w.scales.rows(begin, end);
  part.rows = end - begin;
  part.packed = nullptr;
  return part;
}

}  // namespace m3
