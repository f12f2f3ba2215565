// Samples for eyes.
#pragma once

#include <string>
#include <string_view>

#include "data/sample.h"

namespace m3 {

// A text of unknown origin that does nothing to a terminal: control characters but tabs and line
// feeds are shown as \xNN.
std::string visible_text(std::string_view text);

// What the model reads, with what is scored in green, or between ⟦ and ⟧. A token that stands there
// several times in a row, as those of pictures do, is written once, with a count.
std::string sample_text(const Sample& sample, const Tokenizer& tokenizer, bool colour);

}  // namespace m3
