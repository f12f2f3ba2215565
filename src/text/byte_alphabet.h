// The spelling of bytes in a vocabulary (GPT-2's): 188 bytes that Latin-1 prints stand for
// themselves, the other 68 are U+0100 and on, in order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace m3 {

std::string spelling_of_byte(std::uint8_t byte);

// The bytes that a token stands for. A spelling with a character outside the alphabet stands for
// its own UTF-8, as in the reference's decoder.
std::string bytes_of_spelling(std::string_view spelling);

}  // namespace m3
