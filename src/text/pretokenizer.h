// Cuts text into the pieces that BPE never crosses, by the pattern of tokenizer.json.
//
// The reference runs the pattern in Oniguruma with the tables of Unicode 16 (spec: chat-and-api
// §1.2); we run it in PCRE2, whose tables are those of whatever version is installed and whose \s
// differs a little. So PCRE2 never sees the text beyond ASCII: each such character is first
// replaced by a representative of its class that has the same length in UTF-8, and all versions
// agree on the representatives. Offsets stay what they are. It follows that a pattern may
// distinguish ASCII characters and these classes, and any other pattern is refused.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct pcre2_real_code_8;

namespace m3 {

class Pretokenizer {
 public:
  // Errors: not a regular expression, or one that asks for more than the classes above can tell.
  static Result<Pretokenizer> compile(const std::string& pattern);

  // Slices of `text`, in order and without gaps: every match of the pattern is a piece, and so is
  // what lies between two matches ("Isolated"). A byte that is no UTF-8 counts as a symbol.
  // Linear in the text for M3's patterns. Safe to call from several threads.
  // Errors: the pattern backtracks without end on this text.
  Result<std::vector<std::string_view>> split(std::string_view text) const;

 private:
  struct FreeCode {
    void operator()(pcre2_real_code_8* code) const;
  };
  using Code = std::unique_ptr<pcre2_real_code_8, FreeCode>;

  explicit Pretokenizer(Code code) : code_(std::move(code)) {}
  Code code_;
};

}  // namespace m3
