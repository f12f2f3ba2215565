// Element types, under the names that safetensors files use.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace m3 {

enum class DType : std::uint8_t {
  kF32,
  kBF16,
  kF16,
  kF8E4M3,
  kF8E8M0,
  kU8,
  kI8,
  kI32,
  kI64,
  kBool
};

// Bytes of one element.
std::int64_t dtype_size(DType type);

// "F32", "BF16", "F16", "F8_E4M3", "F8_E8M0", "U8", "I8", "I32", "I64", "BOOL".
std::string_view dtype_name(DType type);

// The type of that name, or nothing if we do not read it.
std::optional<DType> dtype_named(std::string_view name);

}  // namespace m3
