#include "tensor/dtype.h"

#include <array>

#include "base/check.h"

namespace m3 {
namespace {

struct Row {
  DType type;
  std::string_view name;
  std::int64_t size;
};

constexpr std::array<Row, 10> kTypes{{{DType::kF32, "F32", 4},
                                      {DType::kBF16, "BF16", 2},
                                      {DType::kF16, "F16", 2},
                                      {DType::kF8E4M3, "F8_E4M3", 1},
                                      {DType::kF8E8M0, "F8_E8M0", 1},
                                      {DType::kU8, "U8", 1},
                                      {DType::kI8, "I8", 1},
                                      {DType::kI32, "I32", 4},
                                      {DType::kI64, "I64", 8},
                                      {DType::kBool, "BOOL", 1}}};

const Row& row_of(DType type) {
  const auto& row = kTypes[static_cast<std::size_t>(type)];
  M3_CHECK(row.type == type, "the table of types is out of order at {}", row.name);
  return row;
}

}  // namespace

std::int64_t dtype_size(DType type) {
  return row_of(type).size;
}

std::string_view dtype_name(DType type) {
  return row_of(type).name;
}

std::optional<DType> dtype_named(std::string_view name) {
  for (const Row& row : kTypes)
    if (row.name == name) return row.type;
  return std::nullopt;
}

}  // namespace m3
