// Text to token ids and back: the byte-level BPE that tokenizer.json describes.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "text/added_token_matcher.h"
#include "text/bpe.h"
#include "text/pretokenizer.h"
#include "text/text_range.h"
#include "text/tokenizer_file.h"

namespace m3 {

// Unchanging once loaded; every const function may be called from several threads.
class Tokenizer {
 public:
  // Reads DIRECTORY/tokenizer.json. Errors: those of parse(), with the path.
  static Result<Tokenizer> load(const std::string& directory);
  // Errors: as parse_tokenizer_file() and Pretokenizer::compile() report them.
  static Result<Tokenizer> parse(std::string_view tokenizer_json);

  enum class ControlTokens {
    kHonoured,  // added tokens are recognised wherever they stand, as in the reference
    kPlain,     // their characters are ordinary text
  };
  // Nothing is put in front or behind. Bytes that are no UTF-8 are encoded as bytes.
  // Errors: the text has 2 GiB or more; the file's pattern gives up on it.
  Result<std::vector<TokenId>> encode(std::string_view text, ControlTokens control) const;
  // Added tokens count only where they lie wholly outside `client_ranges` (ascending, disjoint,
  // within the text); the pattern and BPE do not see the ranges (spec: chat-and-api §1.6).
  Result<std::vector<TokenId>> encode(std::string_view text,
                                      std::span<const TextRange> client_ranges) const;

  // One above the highest id that has a string. Checkpoints have a few rows more.
  TokenId vocab_size() const { return static_cast<TokenId>(kinds_.size()); }
  // Any id may be asked about, also one outside the vocabulary.
  bool has_string(TokenId id) const { return kind(id) != Kind::kNone; }
  // Hidden from users: not base tokens, nor the five control tokens that output parsers read.
  bool is_special(TokenId id) const { return kind(id) == Kind::kSpecial; }
  // The bytes of a token, which need not be whole characters; empty when it has no string.
  std::string_view bytes(TokenId id) const;
  // The token that is exactly this string, control tokens first.
  std::optional<TokenId> id_of(std::string_view text) const;

  // All tokens as text, the special ones too; U+FFFD for what is no UTF-8.
  std::string decode(std::span<const TokenId> ids) const;

 private:
  enum class Kind : std::uint8_t { kNone, kBase, kAdded, kSpecial };
  Tokenizer(TokenizerFile file, Pretokenizer pretokenizer);
  Kind kind(TokenId id) const;
  void set(TokenId id, std::string_view bytes, Kind kind);
  Status encode_plain(std::string_view text, std::vector<TokenId>& ids) const;

  Pretokenizer pretokenizer_;
  Bpe bpe_;
  AddedTokenMatcher added_;
  bool ignore_merges_;
  std::vector<Kind> kinds_;                            // by id
  std::vector<std::string> bytes_;                     // by id
  std::unordered_map<std::string, TokenId> base_ids_;  // by bytes
  std::unordered_map<std::string, TokenId> added_ids_;
};

}  // namespace m3
