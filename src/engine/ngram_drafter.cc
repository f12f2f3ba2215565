#include "engine/ngram_drafter.h"

#include <algorithm>
#include <iterator>

namespace m3 {
namespace {

// A single token recurs too often by chance.
constexpr std::int64_t kLeast = 2;
// Where so many agree, the latest place is as good as one that agrees further.
constexpr std::int64_t kMost = 8;

}  // namespace

// One pass over the ids: a million of them take well below a millisecond, a step over so many a
// hundred times that, so there is no index to keep.
std::vector<std::int32_t> look_up_ngram(std::span<const std::int32_t> tokens, std::int64_t count) {
  const std::int64_t size = std::ssize(tokens);
  const auto at = [&](std::int64_t i) { return tokens[static_cast<std::size_t>(i)]; };
  std::int64_t longest = kLeast - 1, found = -1;
  for (std::int64_t end = size - 1; end > longest && longest < kMost; --end) {
    if (at(end - 1) != at(size - 1)) continue;
    std::int64_t length = 1;
    while (length < kMost && length < end && at(end - 1 - length) == at(size - 1 - length))
      ++length;
    if (length <= longest) continue;
    longest = length;
    found = end;
  }
  if (found < 0 || count <= 0) return {};
  std::vector<std::int32_t> drafts;
  for (std::int64_t i = found; i < found + count; ++i)  // what goes round goes on
    drafts.push_back(i < size ? at(i) : drafts[static_cast<std::size_t>(i - size)]);
  return drafts;
}

std::vector<std::vector<std::int32_t>> NgramDrafter::draft(const VerifiedStep& step) {
  std::vector<std::vector<std::int32_t>> drafts;
  for (const DraftJob& job : step.jobs) drafts.push_back(look_up_ngram(job.tokens, job.count));
  return drafts;
}

}  // namespace m3
