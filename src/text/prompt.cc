#include "text/prompt.h"

#include <algorithm>

namespace m3 {

void Prompt::add_client(std::string_view text) {
  if (text.empty()) return;
  const std::size_t begin = text_.size();
  text_ += text;
  if (!client_ranges_.empty() && client_ranges_.back().end == begin) {
    client_ranges_.back().end = text_.size();
  } else {
    client_ranges_.push_back({begin, text_.size()});
  }
}

void Prompt::add_slice(const Prompt& source, TextRange range) {
  const std::string_view text = source.text_;
  std::size_t at = range.begin;
  for (const TextRange& client : source.client_ranges_) {
    const std::size_t begin = std::clamp(client.begin, at, range.end);
    const std::size_t end = std::clamp(client.end, at, range.end);
    add_template(text.substr(at, begin - at));
    add_client(text.substr(begin, end - begin));
    at = end;
  }
  add_template(text.substr(at, range.end - at));
}

void Prompt::truncate(std::size_t size) {
  text_.resize(std::min(size, text_.size()));
  while (!client_ranges_.empty() && client_ranges_.back().begin >= text_.size())
    client_ranges_.pop_back();
  if (!client_ranges_.empty())
    client_ranges_.back().end = std::min(client_ranges_.back().end, text_.size());
}

}  // namespace m3
