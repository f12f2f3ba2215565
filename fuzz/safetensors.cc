// Headers of safetensors files: whatever the bytes, an error or tensors that tile the data.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file_bytes = static_cast<std::int64_t>(size);
  const auto header = m3::parse_safetensors_header(bytes, file_bytes, "input");
  if (!header) {
    M3_CHECK(!header.error().message.empty(), "an error without a sentence");
    return 0;
  }
  std::int64_t end = 0;
  for (const m3::TensorInfo& info : header->tensors) {
    M3_CHECK(info.begin == end && info.end >= info.begin, "{} at {}", info.name, info.begin);
    end = info.end;
  }
  M3_CHECK(header->data_begin + end == file_bytes, "data end at {} of {}", end, file_bytes);
  return 0;
}
