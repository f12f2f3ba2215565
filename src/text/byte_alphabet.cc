#include "text/byte_alphabet.h"

#include <array>

#include "text/utf8.h"

namespace m3 {
namespace {

constexpr char32_t kFirstOther = 0x100;

constexpr bool is_itself(char32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

constexpr std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t other = kFirstOther;
  for (char32_t byte = 0; byte < 256; ++byte) alphabet[byte] = is_itself(byte) ? byte : other++;
  return alphabet;
}

constexpr std::array<char32_t, 256> kAlphabet = make_alphabet();
constexpr int kNone = -1;

constexpr std::array<int, 0x144> make_bytes() {
  std::array<int, 0x144> bytes{};
  bytes.fill(kNone);
  for (int byte = 0; byte < 256; ++byte) bytes[kAlphabet[static_cast<std::size_t>(byte)]] = byte;
  return bytes;
}

constexpr std::array<int, 0x144> kBytes = make_bytes();

}  // namespace

std::string spelling_of_byte(std::uint8_t byte) {
  std::string spelling;
  append_utf8(spelling, kAlphabet[byte]);
  return spelling;
}

std::string bytes_of_spelling(std::string_view spelling) {
  std::string bytes;
  for (std::size_t at = 0; at < spelling.size();) {
    const Utf8Char c = read_utf8(spelling, at);
    const bool known = c.state == Utf8Char::State::kValid && c.code_point < kBytes.size() &&
                       kBytes[c.code_point] != kNone;
    if (!known) return std::string(spelling);
    bytes += static_cast<char>(kBytes[c.code_point]);
    at += c.length;
  }
  return bytes;
}

}  // namespace m3
