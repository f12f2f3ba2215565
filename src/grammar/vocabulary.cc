#include "grammar/vocabulary.h"

#include <algorithm>

#include "text/control_strings.h"

namespace m3 {
namespace {

// The five control tokens that output parsers read are not special to the tokenizer.
bool is_control(const Tokenizer& tokenizer, TokenId id) {
  if (tokenizer.is_special(id)) return true;
  for (const std::string_view text :
       {control::kNamespace, control::kToolCallBegin, control::kToolCallEnd, control::kThinkBegin,
        control::kThinkEnd})
    if (tokenizer.bytes(id) == text && tokenizer.id_of(text) == id) return true;
  return false;
}

}  // namespace

Vocabulary::Vocabulary(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  const TokenId end = tokenizer.vocab_size();
  all_.resize((static_cast<std::size_t>(end) + 63) / 64);
  text_.resize(all_.size());
  for (TokenId id = 0; id < end; ++id) {
    if (!tokenizer.has_string(id)) continue;
    set_bit(all_, id);
    // The depth of a node has 16 bits; no tokenizer comes near.
    const std::size_t bytes = tokenizer.bytes(id).size();
    if (bytes == 0 || bytes > UINT16_MAX || is_control(tokenizer, id)) continue;
    set_bit(text_, id);
    tokens_.push_back(id);
    token_bytes_max_ = std::max(token_bytes_max_, bytes);
  }
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [&](TokenId a, TokenId b) { return tokenizer.bytes(a) < tokenizer.bytes(b); });
  add_nodes(tokens_);
}

bool Vocabulary::is_text(TokenId id) const {
  return id >= 0 && id < tokenizer_.vocab_size() && has_bit(text_, id);
}

bool Vocabulary::is_plain(std::uint8_t byte) {
  return byte == ' ' || (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
         (byte >= 'a' && byte <= 'z');
}

void Vocabulary::add_nodes(std::span<const TokenId> sorted) {
  std::vector<std::uint32_t> path;  // the nodes of the text before, by depth
  std::string_view before;
  const auto close_from = [&](std::size_t depth) {
    for (; path.size() > depth; path.pop_back()) {
      Node& closed = nodes_[path.back()];
      closed.end = static_cast<std::uint32_t>(nodes_.size());
      if (path.size() > 1 && !(closed.plain && is_plain(closed.byte)))
        nodes_[path[path.size() - 2]].plain = false;
    }
  };
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    const std::string_view text = tokenizer_.bytes(sorted[i]);
    const auto shared = std::mismatch(text.begin(), text.end(), before.begin(), before.end());
    close_from(static_cast<std::size_t>(shared.first - text.begin()));
    // All but the last node of a text end no token, which an empty range of tokens says.
    while (path.size() < text.size()) {
      path.push_back(static_cast<std::uint32_t>(nodes_.size()));
      nodes_.push_back({.end = 0,
                        .first_token = static_cast<std::uint32_t>(i),
                        .depth = static_cast<std::uint16_t>(path.size()),
                        .byte = static_cast<std::uint8_t>(text[path.size() - 1]),
                        .plain = true});
    }
    before = text;
  }
  close_from(0);
  nodes_.push_back({.end = 0, .first_token = static_cast<std::uint32_t>(sorted.size())});
}

}  // namespace m3
