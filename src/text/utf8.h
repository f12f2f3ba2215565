// UTF-8: one character at a time out of bytes that nobody has checked, and a decoder for streams.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace m3 {

// What stands at one place of a byte string.
struct Utf8Char {
  enum class State : std::uint8_t {
    kValid,
    kInvalid,    // `length` bytes that no continuation can repair: one U+FFFD stands for them
    kTruncated,  // the text ends inside a character that is well-formed so far
  };
  State state;
  std::uint8_t length;  // bytes, 1 to 4
  char32_t code_point;  // only when kValid
};

// Reads the character at `at` (< text.size()). A wrong sequence is cut where Unicode advises
// (Unicode 16 §3.9, "maximal subparts"), as Python and browsers do.
Utf8Char read_utf8(std::string_view text, std::size_t at);

// The text behind the byte order mark that some editors begin a file with.
std::string_view without_byte_order_mark(std::string_view text);

// Appends a code point that is no surrogate and at most U+10FFFF.
void append_utf8(std::string& text, char32_t code_point);

// The bytes of a text that arrive in pieces of any length, as characters. It follows Python's
// incremental decoder with errors="replace" to the byte, since the goldens do.
class Utf8Stream {
 public:
  // What is certain after these bytes; an unfinished character is held back.
  std::string push(std::string_view bytes);
  // The end of the text: U+FFFD for an unfinished character, else nothing.
  std::string flush();

 private:
  std::string held_;
};

}  // namespace m3
