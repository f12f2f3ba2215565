#include "engine/scripted_drafter.h"

#include <algorithm>
#include <iterator>

namespace m3 {

std::vector<std::vector<std::int32_t>> ScriptedDrafter::draft(const VerifiedStep& step) {
  std::vector<std::vector<std::int32_t>> drafts;
  for (const DraftJob& job : step.jobs) drafts.push_back(follow(job));
  return drafts;
}

std::vector<std::int32_t> ScriptedDrafter::follow(const DraftJob& job) const {
  const auto script = scripts_.find(job.sequence);
  if (script == scripts_.end()) return {};
  const std::int64_t begin = std::ssize(job.tokens);
  const std::int64_t end = std::min(begin + job.count, std::ssize(script->second));
  std::vector<std::int32_t> drafts;
  for (std::int64_t position = begin; position < end; ++position) {
    const std::int32_t id = script->second[static_cast<std::size_t>(position)];
    const std::int64_t next = (id + std::int64_t{1}) % vocab_;
    drafts.push_back(right_(job.sequence, position) ? id : static_cast<std::int32_t>(next));
  }
  return drafts;
}

}  // namespace m3
