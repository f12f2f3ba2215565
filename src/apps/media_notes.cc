#include "apps/media_notes.h"

#include <cstdio>

#include "apps/progress_bar.h"

namespace m3 {

void print_notes(std::span<const MediaInput> inputs) {
  for (const MediaInput& input : inputs)
    for (const std::string& note : input.notes) std::fprintf(stderr, "note: %s\n", note.c_str());
}

Result<std::vector<std::shared_ptr<const EncodedMedia>>> encode_with_progress(
    MediaReader& reader, std::span<const MediaInput> inputs,
    const std::function<bool()>& cancelled) {
  if (inputs.empty()) return reader.encode(inputs);
  ProgressBar bar(kLookingAtMedia, "tokens");
  return reader.encode(inputs, {.progress = bar.callback(), .cancelled = cancelled});
}

}  // namespace m3
