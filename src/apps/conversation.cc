#include "apps/conversation.h"

#include <algorithm>
#include <iterator>

#include "apps/media_notes.h"
#include "base/check.h"
#include "base/file.h"
#include "text/control_strings.h"
#include "text/normalise.h"

namespace m3 {
namespace {

// The marked prompt from byte `begin` on.
Prompt tail_of(const Prompt& prompt, std::size_t begin) {
  Prompt tail;
  tail.add_slice(prompt, {begin, prompt.text().size()});
  return tail;
}

}  // namespace

Json media_part(const std::string& kind, const std::string& address) {
  return {{"type", kind}, {kind, address}};
}

Json user_message(const std::string& text, Json media) {
  if (media.empty()) return {{"role", "user"}, {"content", text}};
  media.push_back({{"type", "text"}, {"text", text}});
  return {{"role", "user"}, {"content", std::move(media)}};
}

Result<ChatInput> read_messages_file(const std::string& path) {
  M3_TRY(const std::string text, read_text_file(path));
  auto parsed = parse_json(text);
  if (!parsed) return fail("{}: {}", path, parsed.error().message);
  Json request = parsed->is_array() ? Json{{"messages", *parsed}} : std::move(*parsed);
  if (find_member(request, "messages") == nullptr)
    return fail("{} is neither a list of messages nor an object with \"messages\"", path);
  auto input = read_chat_input(request);
  if (!input) return fail("{}: {}", path, input.error().message);
  input->add_generation_prompt = true;
  return input;
}

Conversation::Conversation(MediaReader& reader, const Tokenizer& tokenizer, std::string system,
                           std::string thinking_mode)
    : reader_(reader),
      tokenizer_(tokenizer),
      system_(std::move(system)),
      thinking_mode_(std::move(thinking_mode)) {
  clear();
}

void Conversation::clear() {
  messages_ = Json::array();
  ids_.clear();
  media_.clear();
  if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
}

ChatInput Conversation::input() const {
  ChatInput input{.messages = messages_};
  if (!thinking_mode_.empty()) input.thinking_mode = thinking_mode_;
  return input;
}

Result<std::vector<TokenId>> Conversation::ask(Json message, std::span<const MediaInput> inputs) {
  ChatInput whole = input();
  M3_TRY(const Prompt before, render_chat(whole));
  whole.messages.push_back(std::move(message));
  whole.add_generation_prompt = true;
  M3_TRY(const Prompt after, render_chat(whole));
  // What was rendered before is a beginning of what is rendered now; only the rest is new. The line
  // feed behind the model's end of turn is its first character.
  M3_CHECK(after.text().starts_with(before.text()), "the template rewrote an earlier turn");
  const std::size_t known = ids_.empty() ? 0 : before.text().size() - 1;
  M3_TRY(const auto ids, encode_prompt(tail_of(after, known), inputs, tokenizer_));
  asked_ = ids_;
  asked_.insert(asked_.end(), ids.begin(), ids.end());
  messages_ = std::move(whole.messages);
  return asked_;
}

Result<SplicePlan> Conversation::look(std::span<const MediaInput> inputs,
                                      const std::function<bool()>& cancelled) {
  M3_TRY(auto encoded, encode_with_progress(reader_, inputs, cancelled));
  asked_media_ = media_;
  std::ranges::move(encoded, std::back_inserter(asked_media_));
  return reader_.plan(asked_, asked_media_);
}

void Conversation::answer(const std::vector<TokenId>& ids, const std::string& text) {
  ids_ = asked_;
  media_ = asked_media_;
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  const auto end = tokenizer_.id_of(control::kTurnEnd);
  if (end && ids_.back() != *end) ids_.push_back(*end);
  messages_.push_back({{"role", "assistant"}, {"content", text}});
}

void Conversation::retract() {
  messages_.erase(messages_.size() - 1);
}

}  // namespace m3
