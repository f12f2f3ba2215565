// From the one placeholder that the template writes for a picture or clip to those that its
// embeddings replace (spec: vision §5.2, §5.3).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace m3 {

// What the prompt must know of a picture or clip.
struct MediaShape {
  enum class Kind { kImage, kVideo };
  Kind kind = Kind::kImage;
  std::int64_t groups = 1;            // temporal groups; 1 for a picture
  std::int64_t tokens_per_group = 0;  // embeddings of each
  // Of a clip: when each group begins, in seconds; empty where that is not known.
  std::vector<double> seconds = {};
};

// Replaces the i-th placeholder id of each kind by what the i-th of the media of that kind becomes.
// (A client's text that spells a placeholder has become other ids before.) The time of a group is
// text, tokenised alone, as the official processor does.
// Errors: more or fewer placeholders than media of a kind, with the counts; a tokenizer that lacks
// the control strings.
Result<std::vector<TokenId>> expand_media(std::span<const TokenId> ids,
                                          std::span<const MediaShape> media,
                                          const Tokenizer& tokenizer);

}  // namespace m3
