// Finds the markers of a model's turn in streamed text (spec: chat-and-api §4, §5.1, §6.2).
//
// A marker is one token as a rule, but sampling can spell it from ordinary pieces, and zero-width
// characters (U+200B, U+200C, U+200D, U+FEFF) may have crept in between its characters. All of
// these are the same marker here: by the time a token is text, its string says all that its id
// said.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace m3 {

class MarkerScanner {
 public:
  // Where the text stands decides what counts: think markers and the opening of a block of tool
  // calls outside such a block, tags inside. Elsewhere the same characters are text.
  enum class Mode : std::uint8_t { kText, kBlock };
  enum class Kind : std::uint8_t {
    kText,
    kThinkBegin,
    kThinkEnd,
    kBlockBegin,  // the namespace string and <tool_call>
    kTag,         // the namespace string and any <tag>, in a block
    kNamespace,   // the namespace string before anything else
  };
  struct Lexeme {
    Kind kind;
    std::string_view text;  // of kText; of kTag what stands between < and >, never empty
  };

  // Whole characters.
  void add(std::string_view text);
  // What stands next, or nothing while that depends on text to come. Lexemes are valid until add().
  // How text is cut into lexemes depends on how it was added, all else does not. `at_end`: no more
  // text will come, so that what is unfinished is text; but an unfinished tag is dropped, since it
  // is the beginning of what the turn had no time to say.
  std::optional<Lexeme> next(Mode mode, bool at_end);
  // Text waits for more. It is never longer than the longest tag (512 bytes) and a marker.
  bool holds() const { return at_ < text_.size(); }

 private:
  std::string text_;
  std::size_t at_ = 0;  // what stands before has been given
};

// The text without zero-width characters.
std::string without_zero_width(std::string_view text);

}  // namespace m3
