#include "text/added_token_matcher.h"

#include <algorithm>

namespace m3 {
namespace {

std::size_t first_byte(std::string_view text) {
  return static_cast<unsigned char>(text[0]);
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) {
  for (AddedToken& token : tokens)
    by_first_byte_[first_byte(token.content)].push_back(std::move(token));
  for (auto& bucket : by_first_byte_)
    std::stable_sort(bucket.begin(), bucket.end(), [](const AddedToken& a, const AddedToken& b) {
      return a.content.size() > b.content.size();
    });
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text) const {
  for (const AddedToken& token : by_first_byte_[first_byte(text)])
    if (text.starts_with(token.content)) return &token;
  return nullptr;
}

std::vector<AddedTokenMatcher::Match> AddedTokenMatcher::find_all(
    std::string_view text, std::span<const TextRange> client_ranges) const {
  std::vector<Match> found;
  std::size_t at = 0;
  // Each gap between client ranges is searched by itself, so that what begins in the template and
  // would end in a client's text is not seen.
  const auto search = [&](std::size_t end) {
    while (at < end) {
      const AddedToken* token = longest_at(text.substr(at, end - at));
      if (token != nullptr) found.push_back({{at, at + token->content.size()}, token->id});
      at += token != nullptr ? token->content.size() : 1;
    }
  };
  for (const TextRange& range : client_ranges) {
    search(range.begin);
    at = range.end;
  }
  search(text.size());
  return found;
}

}  // namespace m3
