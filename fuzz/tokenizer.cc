// The parsers of text that come from outside: tokenizer.json, requests, prompts.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/check.h"
#include "text/chat.h"
#include "text/detokenizer.h"
#include "text/json.h"
#include "text/normalise.h"
#include "text/stop.h"
#include "text/thinking.h"
#include "text/tokenizer.h"

namespace {

using m3::Tokenizer;

std::string bytes_of(const Tokenizer& tokenizer, const std::vector<m3::TokenId>& ids) {
  std::string bytes;
  for (const m3::TokenId id : ids) bytes += tokenizer.bytes(id);
  return bytes;
}

// Whatever the tokenizer and whatever the text, the ids spell the text.
void check_round_trip(const Tokenizer& tokenizer, std::string_view text) {
  const m3::TextRange middle{text.size() / 3, text.size() - text.size() / 3};
  const auto marked = tokenizer.encode(text, std::span(&middle, 1));
  for (const auto& ids : {tokenizer.encode(text, Tokenizer::ControlTokens::kHonoured),
                          tokenizer.encode(text, Tokenizer::ControlTokens::kPlain), marked}) {
    if (!ids) continue;
    M3_CHECK(bytes_of(tokenizer, *ids) == text, "the ids of {} bytes spell another text",
             text.size());
    m3::Detokenizer detokenizer(tokenizer, m3::Detokenizer::SpecialTokens::kShown);
    std::string shown;
    for (const m3::TokenId id : *ids) shown += detokenizer.push(id);
    shown += detokenizer.flush();
    M3_CHECK(shown == tokenizer.decode(*ids), "a stream shows another text");
  }
}

// What is printed reads back as the same value.
void check_json(const m3::Json& value) {
  const std::string printed = m3::python_json(value);
  const auto again = m3::parse_json(printed);
  M3_CHECK(again && m3::python_json(*again) == printed, "cannot read {}", printed);
}

void render(m3::Json request, bool wire) {
  m3::ChatInput input;
  if (const m3::Json* tools = m3::find_member(request, "tools")) input.tools = *tools;
  input.messages = std::move(request);
  if (const m3::Json* messages = m3::find_member(input.messages, "messages"))
    input.messages = m3::Json(*messages);
  input.add_generation_prompt = true;
  if (wire) {
    auto messages = m3::normalise_messages(std::move(input.messages));
    auto tools = m3::normalise_tools(std::move(input.tools));
    if (!messages || !tools) return;
    input.messages = std::move(*messages);
    input.tools = std::move(*tools);
  }
  const auto prompt = m3::render_chat(input);
  if (!prompt) return;
  std::size_t end = 0;
  for (const m3::TextRange& range : prompt->client_ranges()) {
    M3_CHECK(end <= range.begin && range.begin < range.end, "client ranges are out of order");
    end = range.end;
  }
  M3_CHECK(end <= prompt->text().size(), "a client range ends behind the prompt");
}

const Tokenizer* released_layout() {
  static const auto loaded = [] {
    const char* directory = std::getenv("M3_FUZZ_TOKENIZER");
    return Tokenizer::load(directory != nullptr ? directory : "data/tokenizer");
  }();
  return loaded ? &*loaded : nullptr;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  // Before the first NUL a file, behind it a text.
  const std::size_t border = input.find('\0');
  const std::string_view json = input.substr(0, border);
  const std::string_view text = border == input.npos ? input : input.substr(border + 1);

  if (const auto tokenizer = Tokenizer::parse(json)) check_round_trip(*tokenizer, text);
  if (released_layout() != nullptr) check_round_trip(*released_layout(), text);
  if (const auto value = m3::parse_json(json)) {
    check_json(*value);
    (void)m3::python_str(*value);
    (void)m3::thinking_mode_from(*value);
    render(*value, false);
    render(*value, true);
  }
  m3::StopMatcher matcher({std::string(json.substr(0, 4)), "\n\n"});
  std::string shown = matcher.feed(text);
  shown += matcher.flush();
  M3_CHECK(text.starts_with(shown), "a stop matcher shows what was not fed");
  return 0;
}
