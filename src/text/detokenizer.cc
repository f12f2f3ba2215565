#include "text/detokenizer.h"

namespace m3 {

std::string Detokenizer::push(TokenId id) {
  if (special_ == SpecialTokens::kHidden && tokenizer_.is_special(id)) return {};
  return stream_.push(tokenizer_.bytes(id));
}

}  // namespace m3
