#include "train/event_file.h"

#include <array>
#include <bit>

namespace m3 {
namespace {

constexpr std::uint32_t kCastagnoli = 0x82f63b78;  // its bits reversed

constexpr std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kCastagnoli : 0);
    table[byte] = crc;
  }
  return table;
}

constexpr std::array<std::uint32_t, 256> kCrcTable = crc_table();

// Protocol buffers' types of fields.
enum Wire : std::uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

template <typename Number>
std::string fixed(Number number) {
  std::string bytes;
  for (std::size_t i = 0; i < sizeof number; ++i)
    bytes += static_cast<char>((number >> (8 * i)) & 0xff);
  return bytes;
}

std::string varint(std::uint64_t number) {
  std::string bytes;
  for (; number >= 0x80; number >>= 7) bytes += static_cast<char>((number & 0x7f) | 0x80);
  return bytes + static_cast<char>(number);
}

std::string key(int field, Wire wire) {
  return varint((static_cast<std::uint64_t>(field) << 3) | wire);
}

std::string field(int number, std::string_view bytes) {
  return key(number, kBytes) + varint(bytes.size()) + std::string(bytes);
}

// So that the sum of bytes that hold sums is no special one.
std::uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

std::string record(double seconds, std::int64_t step, const std::string& what) {
  const std::string event = key(1, kFixed64) + fixed(std::bit_cast<std::uint64_t>(seconds)) +
                            key(2, kVarint) + varint(static_cast<std::uint64_t>(step)) + what;
  const std::string length = fixed(static_cast<std::uint64_t>(event.size()));
  return length + fixed(masked_crc(length)) + event + fixed(masked_crc(event));
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0u;
  for (const char byte : bytes)
    crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

std::string version_event(double seconds) {
  return record(seconds, 0, field(3, "brain.Event:2"));
}

std::string session_event(double seconds, std::int64_t step) {
  constexpr std::uint64_t kStart = 1;
  return record(seconds, step, field(7, key(1, kVarint) + varint(kStart)));
}

std::string scalars_event(double seconds, std::int64_t step, std::span<const EventScalar> scalars) {
  std::string summary;
  for (const EventScalar& scalar : scalars)
    summary += field(1, field(1, scalar.tag) + key(2, kFixed32) +
                            fixed(std::bit_cast<std::uint32_t>(static_cast<float>(scalar.value))));
  return record(seconds, step, field(5, summary));
}

}  // namespace m3
