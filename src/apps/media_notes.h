// What a terminal says of pictures and clips.
#pragma once

#include <span>

#include "input/media_input.h"

namespace m3 {

// What a progress bar says of the vision tower's work.
inline constexpr const char* kLookingAtMedia = "looking at pictures";

// What of the inputs is not seen, on stderr.
void print_notes(std::span<const MediaInput> inputs);

// MediaReader::encode() behind a progress bar. `cancelled` may be empty.
Result<std::vector<std::shared_ptr<const EncodedMedia>>> encode_with_progress(
    MediaReader& reader, std::span<const MediaInput> inputs,
    const std::function<bool()>& cancelled = {});

}  // namespace m3
