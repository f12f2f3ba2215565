// Token ids to text as they are sampled (spec: chat-and-api §1.7).
#pragma once

#include <string>

#include "text/tokenizer.h"
#include "text/utf8.h"

namespace m3 {

class Detokenizer {
 public:
  enum class SpecialTokens { kHidden, kShown };
  // The tokenizer outlives the detokenizer.
  explicit Detokenizer(const Tokenizer& tokenizer, SpecialTokens special = SpecialTokens::kHidden)
      : tokenizer_(tokenizer), special_(special) {}

  // The text that becomes visible with this token: whole characters only, so often nothing. Special
  // tokens and ids without a string give nothing, and leave alone what is held back.
  std::string push(TokenId id);
  // The end of the sequence: U+FFFD for a character that was never finished.
  std::string flush() { return stream_.flush(); }

 private:
  const Tokenizer& tokenizer_;
  SpecialTokens special_;
  Utf8Stream stream_;
};

}  // namespace m3
