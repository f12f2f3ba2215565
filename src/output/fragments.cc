#include "output/fragments.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace m3 {
namespace {

std::size_t count_characters(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// The bytes of the first character, or of the first escape in a piece of JSON.
std::size_t unit_length(std::string_view text, bool json) {
  if (json && text.front() == '\\' && text.size() > 1)
    return std::min<std::size_t>(text[1] == 'u' ? 6 : 2, text.size());
  std::size_t length = 1;
  while (length < text.size() && (text[length] & 0xC0) == 0x80) ++length;
  return length;
}

// The bytes of the longest beginning of at most so many characters.
std::size_t cut_at(std::string_view text, std::size_t characters, bool json) {
  std::size_t at = 0;
  for (std::size_t taken = 0; at < text.size();) {
    const std::size_t length = unit_length(text.substr(at), json);
    taken += count_characters(text.substr(at, length));
    if (taken > characters) break;
    at += length;
  }
  return at;
}

}  // namespace

OutputEvents Fragments::push(const OutputEvents& events, double now_s) {
  OutputEvents sent;
  for (const OutputEvent& event : events) {
    if (!event.same_field(waiting_)) {
      send_all(sent);
      waiting_ = event;
      waiting_.text.clear();
    }
    if (event.has_text()) {
      add(event, now_s, sent);
    } else {
      sent.push_back(event);
    }
  }
  return sent;
}

void Fragments::add(const OutputEvent& event, double now_s, OutputEvents& sent) {
  if (waiting_.text.empty()) since_s_ = now_s;
  waiting_.text += event.text;
  characters_ += count_characters(event.text);
  if (characters_ >= sizes_.enough + sizes_.enough_late) send(sizes_.enough_late, now_s, sent);
}

std::optional<double> Fragments::deadline_s() const {
  if (characters_ < sizes_.enough_late + kept_when_late()) return std::nullopt;
  return since_s_ + sizes_.late_s;
}

OutputEvents Fragments::flush(double now_s) {
  OutputEvents sent;
  if (const auto deadline = deadline_s(); deadline && now_s >= *deadline)
    send(kept_when_late(), now_s, sent);
  return sent;
}

OutputEvents Fragments::finish() {
  OutputEvents sent;
  send_all(sent);
  return sent;
}

// All but the last `keep` characters, or a few more where an escape begins before them.
void Fragments::send(std::size_t keep, double now_s, OutputEvents& sent) {
  const std::string_view text = waiting_.text;
  const std::size_t end = cut_at(text, characters_ - std::min(keep, characters_), is_arguments());
  std::size_t left = count_characters(text.substr(0, end));
  since_s_ = now_s;
  if (keep > 0 && left < sizes_.enough_late) return;
  std::string_view rest = text.substr(0, end);
  while (left > 0) {  // in equal parts, so that the last one is not short
    const std::size_t parts = (left + sizes_.most - 1) / sizes_.most;
    const std::size_t length = cut_at(rest, (left + parts - 1) / parts, is_arguments());
    OutputEvent fragment{.kind = waiting_.kind, .call = waiting_.call};
    fragment.text = rest.substr(0, length);
    rest.remove_prefix(length);
    left -= count_characters(fragment.text);
    sent.push_back(std::move(fragment));
  }
  waiting_.text.erase(0, end);
  characters_ = count_characters(waiting_.text);
}

void Fragments::send_all(OutputEvents& sent) {
  send(0, since_s_, sent);
}

}  // namespace m3
