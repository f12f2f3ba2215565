// Tables of packed weights: whatever the bytes, an error or tensors that tile the data, and then
// the table has these very bytes. The first 8 bytes say where the data end.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "checkpoint/pack_table.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::int64_t data_end = 0;
  if (size < sizeof data_end) return 0;
  std::memcpy(&data_end, data, sizeof data_end);
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(sizeof data_end);
  const auto table = m3::parse_pack_table(bytes, data_end, "input");
  if (!table) {
    M3_CHECK(!table.error().message.empty(), "an error without a sentence");
    return 0;
  }
  std::int64_t end = m3::kPackDataBegin;
  for (const m3::PackedTensor& tensor : table->tensors) {
    M3_CHECK(tensor.offset == end && tensor.bytes > 0, "{} at {}", tensor.name, tensor.offset);
    end += m3::pack_pages(tensor.bytes);
  }
  M3_CHECK(end == data_end, "data end at {} of {}", end, data_end);
  const std::string again = m3::pack_table_bytes(*table);
  M3_CHECK(
      again.size() == bytes.size() && std::memcmp(again.data(), bytes.data(), again.size()) == 0,
      "{} bytes became {}", bytes.size(), again.size());
  return 0;
}
