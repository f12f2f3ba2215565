#include "server/openai_logprobs.h"

#include <algorithm>

namespace m3 {
namespace {

std::string text_of(std::int32_t id, const Tokenizer& tokenizer) {
  return tokenizer.decode(std::span(&id, 1));
}

std::string name_of(std::int32_t id, const TokenNames& names) {
  return names.by_id ? fmt::format("token_id:{}", id) : text_of(id, names.tokenizer);
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

Json entry(std::int32_t id, float logprob, const TokenNames& names) {
  return {{"token", name_of(id, names)},
          {"logprob", finite(logprob)},
          {"bytes", bytes_of(id, names.tokenizer)}};
}

Json top_of(const SampledToken& token, const TokenNames& names) {
  Json top = Json::object();
  for (const TokenLogprob& other : token.top) top[name_of(other.id, names)] = finite(other.logprob);
  top[name_of(token.id, names)] = finite(token.logprob);  // always, so there may be one more
  return top;
}

}  // namespace

std::int64_t characters_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

Json chat_logprobs(std::span<const SampledToken> tokens, const TokenNames& names) {
  Json content = Json::array();
  for (const SampledToken& token : tokens) {
    Json one = entry(token.id, token.logprob, names);
    one["top_logprobs"] = Json::array();
    for (const TokenLogprob& other : token.top)
      one["top_logprobs"].push_back(entry(other.id, other.logprob, names));
    content.push_back(std::move(one));
  }
  return {{"content", std::move(content)}};
}

Json completion_logprobs(std::span<const SampledToken> tokens, const TokenNames& names,
                         bool skip_special_tokens, std::int64_t& offset) {
  Json texts = Json::array(), logprobs = Json::array(), tops = Json::array(),
       offsets = Json::array();
  for (const SampledToken& token : tokens) {
    const bool known = token.rank > 0;
    texts.push_back(name_of(token.id, names));
    logprobs.push_back(known ? Json(finite(token.logprob)) : Json());
    tops.push_back(known ? top_of(token, names) : Json());
    offsets.push_back(offset);
    // A token may end within a character, which counts where it begins.
    if (!skip_special_tokens || !names.tokenizer.is_special(token.id))
      offset += characters_of(names.tokenizer.bytes(token.id));
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

void append_logprobs(Json& logprobs, const Json& more) {
  if (logprobs.is_null()) {
    logprobs = more;
    return;
  }
  for (const auto& [key, list] : more.items())
    for (const Json& value : list) logprobs[key].push_back(value);
}

Json prompt_logprobs(std::span<const SampledToken> scores, int count, const Tokenizer& tokenizer) {
  Json all = Json::array({nullptr});
  const auto one = [&](std::int32_t id, float logprob, std::int32_t rank) {
    return Json{
        {"logprob", finite(logprob)}, {"rank", rank}, {"decoded_token", text_of(id, tokenizer)}};
  };
  for (const SampledToken& token : scores) {
    Json entry = {{std::to_string(token.id), one(token.id, token.logprob, token.rank)}};
    for (int i = 0; i < std::min(count, static_cast<int>(token.top.size())); ++i) {
      const TokenLogprob& other = token.top[static_cast<std::size_t>(i)];
      entry.emplace(std::to_string(other.id), one(other.id, other.logprob, i + 1));
    }
    all.push_back(std::move(entry));
  }
  return all;
}

Json token_ids(std::span<const SampledToken> tokens) {
  Json ids = Json::array();
  for (const SampledToken& token : tokens) ids.push_back(token.id);
  return ids;
}

}  // namespace m3
