#include "backend/cpu/weight_rows.h"

#include "base/check.h"

namespace m3::cpu {

WeightFormat format_of(const Matrix& w) {
  switch (w.codec->format) {
    case Format::kBF16:
      return WeightFormat::kBF16;
    case Format::kMxfp8:
      return WeightFormat::kMxfp8;
    case Format::kF16:
      return WeightFormat::kF16;
    case Format::kF32:
      return WeightFormat::kF32;
    case Format::kMxfp4:
      return WeightFormat::kMxfp4;
    case Format::kNvfp4:
      return WeightFormat::kNvfp4;
    case Format::kInt8:
      return WeightFormat::kInt8;
  }
  M3_CHECK(false, "format {} has no kernel", w.codec->name);
}

WeightRows stored_rows(const Matrix& w) {
  return {format_of(w), w.values.data, static_cast<const std::uint8_t*>(w.scales.data), w.scale};
}

WeightRows rows_from(const WeightRows& w, std::int64_t begin, std::int64_t k) {
  WeightRows rows = w;
  rows.values = static_cast<const std::byte*>(w.values) + begin * value_row_bytes(w.format, k);
  if (w.scales != nullptr) rows.scales = w.scales + begin * scale_row_bytes(w.format, k);
  return rows;
}

}  // namespace m3::cpu
