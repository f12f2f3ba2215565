// What tokenizer.json says, checked. The file is the world's: every field may be anything.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/bpe.h"

namespace m3 {

// A token matched in the raw text, before the pattern cuts it (spec: chat-and-api §1.4).
struct AddedToken {
  TokenId id;
  std::string content;
  bool special;  // hidden from users; false for the five that output parsers need (§1.5)
};

struct TokenizerFile {
  struct Token {
    TokenId id;
    std::string bytes;
  };
  std::string pattern;                // of the pre-tokenizer
  bool ignore_merges = false;         // a piece that is a token is taken whole, without merging
  std::vector<Token> tokens;          // the base vocabulary, in any order
  std::array<TokenId, 256> byte_ids;  // the token of each single byte
  std::vector<Merge> merges;          // by rank
  std::vector<AddedToken> added;
  std::size_t ids_end = 0;  // one above the highest id
};

// Reads the text of a tokenizer.json: byte-level BPE without normalisation, a "Split" by a regular
// expression before it, merges as pairs or as "left right". Errors: JSON; any other kind of
// tokenizer; a field of another type; an id that is negative, taken twice or far above the number
// of tokens; a byte without token; a merge that names no token.
Result<TokenizerFile> parse_tokenizer_file(std::string_view json);

}  // namespace m3
