#include "server/openai_logprobs.h"

#include <algorithm>

namespace m3 {
namespace {

std::string text_of(std::int32_t id, const Tokenizer& tokenizer) {
  return tokenizer.decode(std::span(&id, 1));
}

Json bytes_of(std::int32_t id, const Tokenizer& tokenizer) {
  Json bytes = Json::array();
  for (const char byte : tokenizer.bytes(id)) bytes.push_back(static_cast<unsigned char>(byte));
  return bytes;
}

// JSON has no infinity: what cannot be drawn is as unlikely as can be written.
float finite(float logprob) {
  return std::max(logprob, -9999.0f);
}

Json entry(std::int32_t id, float logprob, const Tokenizer& tokenizer) {
  return {{"token", text_of(id, tokenizer)},
          {"logprob", finite(logprob)},
          {"bytes", bytes_of(id, tokenizer)}};
}

}  // namespace

std::int64_t characters_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

Json chat_logprobs(std::span<const SampledToken> tokens, const Tokenizer& tokenizer) {
  Json content = Json::array();
  for (const SampledToken& token : tokens) {
    Json one = entry(token.id, token.logprob, tokenizer);
    one["top_logprobs"] = Json::array();
    for (const TokenLogprob& other : token.top)
      one["top_logprobs"].push_back(entry(other.id, other.logprob, tokenizer));
    content.push_back(std::move(one));
  }
  return {{"content", std::move(content)}};
}

Json completion_logprobs(std::span<const SampledToken> tokens, const Tokenizer& tokenizer,
                         bool skip_special_tokens, std::int64_t& offset) {
  Json texts = Json::array(), logprobs = Json::array(), tops = Json::array(),
       offsets = Json::array();
  for (const SampledToken& token : tokens) {
    const std::string text = text_of(token.id, tokenizer);
    Json top = Json::object();
    for (const TokenLogprob& other : token.top)
      top[text_of(other.id, tokenizer)] = finite(other.logprob);
    texts.push_back(text);
    logprobs.push_back(finite(token.logprob));
    tops.push_back(std::move(top));
    offsets.push_back(offset);
    // A token may end within a character, which counts where it begins.
    if (!skip_special_tokens || !tokenizer.is_special(token.id))
      offset += characters_of(tokenizer.bytes(token.id));
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

Json token_ids(std::span<const SampledToken> tokens) {
  Json ids = Json::array();
  for (const SampledToken& token : tokens) ids.push_back(token.id);
  return ids;
}

}  // namespace m3
