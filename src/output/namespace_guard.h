// Keeps the namespace string out of what a client is shown.
//
// The scanner takes every namespace token out of the text, but taking something out joins what
// stood around it: "]<]mini", a swallowed marker and "max[>[" would spell the string anew. A client
// that sends it back in a conversation would then feed the model a control token.
#pragma once

#include <cstddef>
#include <string>

namespace m3 {

// One per field: it remembers how the field's text ends.
class NamespaceGuard {
 public:
  // The text without the last byte of any namespace string that it would complete.
  std::string pass(std::string text);

 private:
  std::size_t matched_ = 0;  // bytes of the string with which the shown text ends
};

}  // namespace m3
