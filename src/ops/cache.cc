#include "ops/cache.h"

#include "base/check.h"

namespace m3 {

float PagePart::get_at(std::int64_t place) const {
  switch (dtype) {
    case DType::kF32:
      return reinterpret_cast<const float*>(data)[place];
    case DType::kBF16:
      return to_float(reinterpret_cast<const BF16*>(data)[place]);
    default:
      return e4m3_to_float(reinterpret_cast<const std::uint8_t*>(data)[place]);
  }
}

void PagePart::set_at(std::int64_t place, float x) const {
  switch (dtype) {
    case DType::kF32:
      reinterpret_cast<float*>(data)[place] = x;
      break;
    case DType::kBF16:
      reinterpret_cast<BF16*>(data)[place] = to_bf16(x);
      break;
    default:
      reinterpret_cast<std::uint8_t*>(data)[place] = float_to_e4m3(x);
  }
}

// Of a view without memory too, whose pages are being planned.
std::int64_t KvView::head_bytes() const {
  const PagePart keys{nullptr, dtype, order, /*sums_tokens=*/false, page_tokens, head_dim};
  PagePart values = keys;
  values.sums_tokens = true;
  return keys.bytes() + values.bytes();
}

}  // namespace m3
