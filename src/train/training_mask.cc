#include "train/training_mask.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "base/check.h"

namespace m3 {
namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

// Groups of tokens, each ascending, in the order of their first ones.
using Groups = std::vector<std::vector<std::size_t>>;

// Sets that grow together; each is called by its least member.
class DisjointSets {
 public:
  explicit DisjointSets(std::size_t count) : parents_(count) {
    std::iota(parents_.begin(), parents_.end(), std::size_t{0});
  }
  std::size_t of(std::size_t i) {
    while (parents_[i] != i) i = parents_[i] = parents_[parents_[i]];
    return i;
  }
  void join(std::size_t a, std::size_t b) {
    a = of(a), b = of(b);
    parents_[std::max(a, b)] = std::min(a, b);
  }

 private:
  std::vector<std::size_t> parents_;
};

Groups documents_of(const std::vector<std::int32_t>& documents) {
  Groups groups;
  std::map<std::int32_t, std::size_t> group_of;
  for (std::size_t t = 0; t < documents.size(); ++t) {
    if (documents[t] == 0) continue;
    const auto [at, is_new] = group_of.try_emplace(documents[t], groups.size());
    if (is_new) groups.emplace_back();
    groups[at->second].push_back(t);
  }
  return groups;
}

// Tokens that attend to each other, directly or through others.
Result<Groups> connected_tokens(const TrainingMask& mask) {
  const std::size_t tokens = mask.padding.size();
  DisjointSets sets(tokens);
  for (std::size_t row = 0; row < tokens; ++row) {
    if (mask.padding[row]) continue;
    for (std::size_t t = 0; t < tokens; ++t) {
      if (mask.bias[row * tokens + t] == kHidden) continue;
      if (mask.padding[t])
        return fail("row {} attends to token {}, which does not attend to itself and so is padding",
                    row, t);
      sets.join(row, t);
    }
  }
  std::vector<std::int32_t> names(tokens, 0);
  for (std::size_t t = 0; t < tokens; ++t)
    if (!mask.padding[t]) names[t] = static_cast<std::int32_t>(sets.of(t)) + 1;
  return documents_of(names);
}

// Whether each row attends to all tokens up to itself, and no more is said.
bool is_causal(const std::vector<float>& bias, std::size_t tokens) {
  for (std::size_t row = 0; row < tokens; ++row)
    for (std::size_t t = 0; t < tokens; ++t)
      if (bias[row * tokens + t] != (t <= row ? 0 : kHidden)) return false;
  return true;
}

// The mask of some of its tokens. What a whole row has in common is taken off, which softmax does
// not see: so no score is lost in the rounding of a large bias.
std::vector<float> bias_of(const TrainingMask& mask, const std::vector<std::size_t>& tokens) {
  std::vector<float> bias;
  for (const std::size_t row : tokens) {
    const auto begin = std::ssize(bias);
    for (const std::size_t t : tokens) bias.push_back(mask.bias[row * mask.padding.size() + t]);
    const float largest = *std::max_element(bias.begin() + begin, bias.end());
    if (largest == kHidden) continue;
    for (auto at = bias.begin() + begin; at != bias.end(); ++at) *at -= largest;
  }
  return bias;
}

template <typename T>
std::vector<T> selected(const std::vector<T>& from, const std::vector<std::size_t>& tokens) {
  std::vector<T> some;
  for (const std::size_t t : tokens) some.push_back(from[t]);
  return some;
}

TrainingSequence part_of(const TrainingSequence& sequence, const std::vector<std::size_t>& tokens) {
  TrainingSequence part{selected(sequence.ids, tokens), selected(sequence.labels, tokens)};
  if (!sequence.positions.empty()) {
    part.positions = selected(sequence.positions, tokens);
  } else if (tokens.back() - tokens.front() + 1 != tokens.size()) {
    for (const std::size_t t : tokens)
      part.positions.push_back(static_cast<std::int32_t>(t - tokens.front()));
  }
  return part;
}

Status expect_no_label_on_padding(const TrainingSequence& sequence, const Groups& kept) {
  std::vector<bool> real(sequence.ids.size(), false);
  for (const auto& group : kept)
    for (const std::size_t t : group) real[t] = true;
  for (std::size_t t = 0; t < real.size(); ++t)
    if (!real[t] && sequence.labels[t] != kNotScored)
      return fail("token {} is padding and has the label {}, expected {}", t, sequence.labels[t],
                  kNotScored);
  return {};
}

}  // namespace

TrainingMask boolean_mask(const std::vector<bool>& attends, std::int64_t tokens) {
  M3_CHECK(std::ssize(attends) == tokens * tokens, "a mask of {} for {} tokens", attends.size(),
           tokens);
  TrainingMask mask;
  for (const bool a : attends) mask.bias.push_back(a ? 0 : kHidden);
  for (std::int64_t t = 0; t < tokens; ++t)
    mask.padding.push_back(!attends[static_cast<std::size_t>(t * (tokens + 1))]);
  return mask;
}

TrainingMask additive_mask(std::vector<float> bias, std::int64_t tokens) {
  const auto count = static_cast<std::size_t>(tokens);
  M3_CHECK(bias.size() == count * count, "a mask of {} for {} tokens", bias.size(), tokens);
  TrainingMask mask{
      .documents = {}, .bias = std::move(bias), .padding = std::vector<bool>(count, true)};
  for (std::size_t row = 0; row < count; ++row)
    for (std::size_t t = 0; t < count; ++t)
      if (mask.bias[row * count + t] != kHidden) mask.padding[t] = false;
  return mask;
}

Result<std::vector<TrainingSequence>> apply_mask(const TrainingSequence& sequence,
                                                 const TrainingMask& mask) {
  M3_CHECK(sequence.bias.empty() && sequence.media.empty(), "a mask over what one was applied to");
  Groups groups;
  if (mask.bias.empty()) {
    groups = documents_of(mask.documents);
  } else {
    M3_TRY(groups, connected_tokens(mask));
  }
  if (groups.empty()) return fail("all of the {} tokens are padding", sequence.ids.size());
  M3_TRY_STATUS(expect_no_label_on_padding(sequence, groups));
  std::vector<TrainingSequence> parts;
  for (const std::vector<std::size_t>& tokens : groups) {
    parts.push_back(part_of(sequence, tokens));
    if (mask.bias.empty()) continue;
    std::vector<float> bias = bias_of(mask, tokens);
    if (!is_causal(bias, tokens.size())) parts.back().bias = std::move(bias);
  }
  return parts;
}

}  // namespace m3
