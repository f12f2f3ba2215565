#include "data/record_remarks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <span>
#include <utility>

namespace m3 {
namespace {

using Remarks = std::vector<std::string>;

constexpr std::array<std::string_view, 19> kMessageKeys = {
    "role", "content", "reasoning_content", "reasoning", "reasoning_details", "tool_calls",
    "tool_call_id", "weight", "from", "value",
    // Those that say nothing about what is learnt.
    "name", "id", "type", "status", "refusal", "annotations", "audio", "function_call", "parsed"};

constexpr std::array<std::string_view, 19> kRecordKeys = {
    "messages",        "conversations", "conversation",
    "instruction",     "input",         "output",
    "history",         "prompt",        "completion",
    "system",          "tools",         "image",
    "images",          "video",         "videos",
    "thinking_mode",   "thinking",      "chat_template_kwargs",
    "reasoning_effort"};

// Letters put in, left out or replaced.
std::size_t edits_between(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

// The known key that this one is a slip away from; empty: none. Short ones are words of their own
// after two edits.
std::string_view meant(std::string_view key, std::span<const std::string_view> known) {
  const std::size_t most = key.size() < 6 ? 1 : 2;
  if (key.size() < 4) return {};
  for (const std::string_view one : known)
    if (std::max(key.size(), one.size()) <= std::min(key.size(), one.size()) + most &&
        edits_between(key, one) <= most)
      return one;
  return {};
}

bool is_known(std::string_view key, std::span<const std::string_view> known) {
  return std::ranges::find(known, key) != known.end();
}

std::string named(const std::string& key, std::string_view meant) {
  constexpr std::size_t kLongest = 60;
  if (key.size() > kLongest) return fmt::format("one of {} bytes", key.size());
  return python_json(key) + (meant.empty() ? "" : fmt::format(" (is it \"{}\"?)", meant));
}

// The first few that differ, as a list for people.
class Names {
 public:
  void add(const std::string& name) {
    if (names_.size() <= kShown && std::ranges::find(names_, name) == names_.end())
      names_.push_back(name);
  }
  bool empty() const { return names_.empty(); }
  std::string text() const {
    const std::span<const std::string> shown(names_.data(), std::min(names_.size(), kShown));
    return fmt::format("{}{}", fmt::join(shown, ", "), names_.size() > kShown ? ", ..." : "");
  }

 private:
  static constexpr std::size_t kShown = 5;
  std::vector<std::string> names_;
};

void add_message_keys(const Json& turns, Names& unknown) {
  if (!turns.is_array()) return;
  for (const Json& turn : turns) {
    if (!turn.is_object()) continue;
    for (const auto& [key, value] : turn.items())
      if (!value.is_null() && !is_known(key, kMessageKeys))
        unknown.add(named(key, meant(key, kMessageKeys)));
  }
}

bool is_role(const Json& message, std::string_view role) {
  return *find_string(message, "role") == role;
}

// Of a message as normalise_messages() leaves it.
bool has_text(const Json& message, std::string_view words) {
  return std::ranges::any_of(message["content"], [&](const Json& part) {
    const std::string* text = find_string(part, "text");
    return text != nullptr && text->find(words) != text->npos;
  });
}

bool is_empty(const Json& answer) {
  if (find_set_member(answer, "reasoning_content") != nullptr ||
      find_set_member(answer, "tool_calls") != nullptr)
    return false;
  return std::ranges::all_of(answer["content"], [](const Json& part) {
    const std::string* text = find_string(part, "text");
    return text != nullptr && text->find_first_not_of(" \t\r\n") == text->npos;
  });
}

// What counts answers.
struct AnswerCounts {
  std::size_t all = 0, empty = 0, with_think_tag = 0, with_calls = 0;
  bool unasked = false;

  AnswerCounts(const Json& messages, const std::vector<bool>& learnt) {
    bool asked = false;
    for (const Json& message : messages) {
      asked |= is_role(message, "user");
      if (!is_role(message, "assistant")) continue;
      unasked |= all == 0 && !asked;
      with_calls += find_set_member(message, "tool_calls") != nullptr;
      if (!learnt[all++]) continue;
      empty += is_empty(message);
      with_think_tag += has_text(message, "<think>");
    }
  }
};

}  // namespace

Remarks remarks_on_keys(const Json& record) {
  Names of_messages, of_record;
  for (const char* key : {"messages", "conversations", "conversation", "prompt", "completion"})
    if (const Json* turns = find_set_member(record, key)) add_message_keys(*turns, of_messages);
  for (const auto& [key, value] : record.items()) {
    if (value.is_null() || is_known(key, kRecordKeys)) continue;
    if (const auto known = meant(key, kRecordKeys); !known.empty())
      of_record.add(named(key, known));
  }
  Remarks remarks;
  if (!of_messages.empty())
    remarks.push_back("messages have keys that are not known and not read: " + of_messages.text());
  if (!of_record.empty())
    remarks.push_back("the record has keys that are not known and not read: " + of_record.text());
  return remarks;
}

Remarks remarks_on_chat(const ChatInput& chat, const std::vector<bool>& learnt) {
  const AnswerCounts answers(chat.messages, learnt);
  Remarks remarks;
  if (answers.empty > 0)
    remarks.push_back(
        fmt::format("{} of {} answers have nothing in them and are learnt so; "
                    "\"weight\": 0 in one leaves it out",
                    answers.empty, answers.all));
  if (answers.unasked) remarks.push_back("the first answer has no user's message before it");
  if (answers.with_calls > 0 && (chat.tools.is_null() || chat.tools.empty()))
    remarks.push_back("answers call tools, but the record declares none in \"tools\"");
  if (answers.with_think_tag > 0)
    remarks.push_back(
        fmt::format("{} of {} answers have <think> in their text, where it is learnt as a word: "
                    "reasoning belongs in \"reasoning_content\"",
                    answers.with_think_tag, answers.all));
  for (const char* tag : {"<image>", "<video>"})
    if (std::ranges::any_of(chat.messages, [&](const Json& message) {
          return is_role(message, "user") && has_text(message, tag);
        }))
      remarks.push_back(fmt::format(
          "a user's text has {}, a word like others here: the record has no key for addresses",
          tag));
  return remarks;
}

}  // namespace m3
