// The model's output, token by token, made into reasoning, content and tool calls (spec:
// chat-and-api §1.7, §5 to §7). The order of the pipeline: the end of turn is dropped, bytes become
// characters, markers part reasoning and calls from content, stop strings end the content. What
// comes out goes through fragments.h on its way to a client that streams.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "output/output_reader.h"
#include "text/tokenizer.h"

namespace m3 {

class OutputParser {
 public:
  // The tokenizer outlives the parser, which stays where it was made. `skip_special_tokens`:
  // control tokens that mean nothing here are not shown; the five of thinking and tool calls are
  // read either way, and whatever the tokenizer's file says of them. Within a block of calls all
  // are text: "<filename>" is one, and may be a parameter's tag.
  OutputParser(const Tokenizer& tokenizer, OutputOptions options, bool skip_special_tokens = true);

  // The next token of the turn. The end of turn and ids without a string give nothing; tokens that
  // end the turn by the client's wish (stop_token_ids) are not to be pushed.
  OutputEvents push(TokenId id);
  // Text that counts as written by the model, but not as tokens.
  OutputEvents push_text(std::string_view text) { return reader_.push(text); }
  OutputEvents finish();

  // Tokens of reasoning so far, think markers excluded, also those that were spelled from pieces.
  // A token that holds text of both counts.
  int reasoning_tokens() const { return reasoning_tokens_; }
  OutputState state() const { return reader_.state(); }
  const std::optional<std::string>& stopped_by() const { return reader_.stopped_by(); }
  int calls() const { return reader_.calls(); }
  std::string_view finish_reason(bool limit_reached) const {
    return reader_.finish_reason(limit_reached);
  }

 private:
  bool is_hidden(TokenId id) const;
  void count(const OutputEvents& events, bool marker_read);

  const Tokenizer& tokenizer_;
  const bool skip_special_tokens_;
  const std::optional<TokenId> turn_end_;
  const std::array<std::optional<TokenId>, 5> markers_;
  OutputReader reader_;
  int reasoning_tokens_ = 0;
  int undecided_tokens_ = 0;  // their text waits: reasoning, or part of a marker
};

}  // namespace m3
