#include "tests/server/script.h"

#include "text/json.h"
#include "text/utf8.h"

namespace m3 {
namespace {

Result<std::string> script_text(const std::string& prompt) {
  constexpr std::string_view kBegin = "SCRIPT<<", kEnd = ">>END";
  const std::size_t begin = prompt.rfind(kBegin);
  if (begin == std::string::npos) return fail("the prompt holds no script");
  const std::size_t text = begin + kBegin.size();
  const std::size_t end = prompt.find(kEnd, text);
  if (end == std::string::npos) return fail("the script has no end");
  return prompt.substr(text, end - text);
}

Result<std::vector<TokenId>> encode_bytes(std::string_view text, const Tokenizer& tokenizer) {
  std::vector<TokenId> ids;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto id = tokenizer.id_of(text.substr(i, 1));
    if (!id) return fail("the tokenizer has no token for a byte of the script");
    ids.push_back(*id);
  }
  return ids;
}

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

Result<std::vector<TokenId>> encode_characters(std::string_view text, const Tokenizer& tokenizer) {
  std::vector<TokenId> ids;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = begin + 1;
    while (end < text.size() && continues_character(text[end])) ++end;
    M3_TRY(const auto more,
           tokenizer.encode(text.substr(begin, end - begin), Tokenizer::ControlTokens::kPlain));
    ids.insert(ids.end(), more.begin(), more.end());
    begin = end;
  }
  return ids;
}

Result<std::vector<TokenId>> encode(std::string_view text, const std::string& by,
                                    const Tokenizer& tokenizer) {
  if (by == "tokens") return tokenizer.encode(text, Tokenizer::ControlTokens::kHonoured);
  if (by == "text") return tokenizer.encode(text, Tokenizer::ControlTokens::kPlain);
  if (by == "characters") return encode_characters(text, tokenizer);
  if (by == "bytes") return encode_bytes(text, tokenizer);
  return fail("the script's \"by\" is \"{}\"", by);
}

Result<Script::Ending> read_ending(const std::string& name) {
  if (name == "stop") return Script::Ending::kStop;
  if (name == "length") return Script::Ending::kLength;
  if (name == "broken") return Script::Ending::kBroken;
  if (name == "gone") return Script::Ending::kGone;
  return fail("the script's \"finish\" is \"{}\"", name);
}

std::string text_member(const Json& object, std::string_view key, const char* otherwise) {
  const std::string* text = find_string(object, key);
  return text != nullptr ? *text : otherwise;
}

}  // namespace

Result<Script> read_script(const std::string& prompt, const Tokenizer& tokenizer) {
  M3_TRY(const std::string text, script_text(prompt));
  M3_TRY(const Json json, parse_json(text));
  const Json* pieces = find_set_member(json, "pieces");
  if (pieces == nullptr || !pieces->is_array()) return fail("the script has no \"pieces\"");
  const std::string by = text_member(json, "by", "tokens");
  Script script;
  M3_TRY(script.ending, read_ending(text_member(json, "finish", "stop")));
  if (const Json* gap = find_set_member(json, "gap_ms"))
    script.gap_seconds = gap->get<double>() / 1000;
  for (const Json& piece : *pieces) {
    if (piece.is_number_integer()) {
      script.tokens.push_back(piece.get<TokenId>());
      continue;
    }
    M3_TRY(const auto ids, encode(piece.get<std::string>(), by, tokenizer));
    script.tokens.insert(script.tokens.end(), ids.begin(), ids.end());
  }
  return script;
}

}  // namespace m3
