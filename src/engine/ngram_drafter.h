// Prompt lookup: what followed the last time that the sequence stood where it stands now.
#pragma once

#include "engine/drafter.h"

namespace m3 {

// `count` tokens that followed the latest earlier place where the longest run of the last tokens
// stands, up to 8 and at least 2 of them; none where there is no such place. A place so late that
// fewer follow is the beginning of a round, which is taken to go on.
std::vector<std::int32_t> look_up_ngram(std::span<const std::int32_t> tokens, std::int64_t count);

class NgramDrafter final : public Drafter {
 public:
  std::vector<std::vector<std::int32_t>> draft(const VerifiedStep& step) override;
};

}  // namespace m3
