#include "text/tokenizer.h"

#include "base/file.h"
#include "text/utf8.h"

namespace m3 {

Result<Tokenizer> Tokenizer::load(const std::string& directory) {
  const std::string path = directory + "/tokenizer.json";
  M3_TRY(const std::string json, read_text_file(path));
  auto tokenizer = parse(json);
  if (!tokenizer) return fail("{}: {}", path, tokenizer.error().message);
  return tokenizer;
}

Result<Tokenizer> Tokenizer::parse(std::string_view tokenizer_json) {
  M3_TRY(TokenizerFile file, parse_tokenizer_file(tokenizer_json));
  M3_TRY(Pretokenizer pretokenizer, Pretokenizer::compile(file.pattern));
  return Tokenizer(std::move(file), std::move(pretokenizer));
}

Tokenizer::Tokenizer(TokenizerFile file, Pretokenizer pretokenizer)
    : pretokenizer_(std::move(pretokenizer)),
      bpe_(file.byte_ids, file.merges),
      added_(file.added),
      ignore_merges_(file.ignore_merges),
      kinds_(file.ids_end, Kind::kNone),
      bytes_(file.ids_end) {
  base_ids_.reserve(file.tokens.size());
  for (const TokenizerFile::Token& token : file.tokens) {
    set(token.id, token.bytes, Kind::kBase);
    base_ids_.emplace(token.bytes, token.id);
  }
  for (const AddedToken& token : file.added) {
    set(token.id, token.content, token.special ? Kind::kSpecial : Kind::kAdded);
    added_ids_.emplace(token.content, token.id);
  }
}

void Tokenizer::set(TokenId id, std::string_view bytes, Kind kind) {
  kinds_[static_cast<std::size_t>(id)] = kind;
  bytes_[static_cast<std::size_t>(id)] = bytes;
}

Tokenizer::Kind Tokenizer::kind(TokenId id) const {
  return id >= 0 && id < vocab_size() ? kinds_[static_cast<std::size_t>(id)] : Kind::kNone;
}

std::string_view Tokenizer::bytes(TokenId id) const {
  if (!has_string(id)) return {};
  return bytes_[static_cast<std::size_t>(id)];
}

std::optional<TokenId> Tokenizer::id_of(std::string_view text) const {
  for (const auto* ids : {&added_ids_, &base_ids_})
    if (const auto it = ids->find(std::string(text)); it != ids->end()) return it->second;
  return std::nullopt;
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, ControlTokens control) const {
  if (control == ControlTokens::kHonoured) return encode(text, std::span<const TextRange>());
  const TextRange whole{0, text.size()};
  return encode(text, std::span(&whole, 1));
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text,
                                               std::span<const TextRange> client_ranges) const {
  if (text.size() > INT32_MAX)
    return fail("the text has {} bytes, the tokenizer takes less than 2^31", text.size());
  std::vector<TokenId> ids;
  std::size_t at = 0;
  for (const auto& match : added_.find_all(text, client_ranges)) {
    M3_TRY_STATUS(encode_plain(text.substr(at, match.range.begin - at), ids));
    ids.push_back(match.id);
    at = match.range.end;
  }
  M3_TRY_STATUS(encode_plain(text.substr(at), ids));
  return ids;
}

Status Tokenizer::encode_plain(std::string_view text, std::vector<TokenId>& ids) const {
  if (text.empty()) return {};
  M3_TRY(const auto pieces, pretokenizer_.split(text));
  for (const std::string_view piece : pieces) {
    if (ignore_merges_) {
      if (const auto it = base_ids_.find(std::string(piece)); it != base_ids_.end()) {
        ids.push_back(it->second);
        continue;
      }
    }
    bpe_.encode(piece, ids);
  }
  return {};
}

std::string Tokenizer::decode(std::span<const TokenId> ids) const {
  Utf8Stream stream;
  std::string text;
  for (const TokenId id : ids) text += stream.push(bytes(id));
  return text + stream.flush();
}

}  // namespace m3
