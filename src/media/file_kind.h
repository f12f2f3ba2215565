// What a file is that cannot be read, for messages.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace m3 {

enum class MediaUse { kPicture, kClip };

// What the first bytes tell: "a HEIC picture", "a PDF document", "text", or those bytes themselves.
// `use`: what the file was given as; where it belongs to the other kind, the phrase says so.
std::string kind_of_file(std::span<const std::byte> bytes, MediaUse use);

}  // namespace m3
