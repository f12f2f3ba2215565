// The texts of a tokenizer's tokens as one tree, so that a grammar reads shared beginnings once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "text/tokenizer.h"

namespace m3 {

// Sets of tokens: token t is bit t % 64 of word t / 64.
inline void set_bit(std::span<std::uint64_t> bits, TokenId id) {
  bits[static_cast<std::size_t>(id) / 64] |= std::uint64_t{1} << (id % 64);
}
inline void clear_bit(std::span<std::uint64_t> bits, TokenId id) {
  bits[static_cast<std::size_t>(id) / 64] &= ~(std::uint64_t{1} << (id % 64));
}
inline bool has_bit(std::span<const std::uint64_t> bits, TokenId id) {
  return (bits[static_cast<std::size_t>(id) / 64] >> (id % 64) & 1) != 0;
}

// Built once for a tokenizer, which outlives it; unchanging, for all matchers in all threads.
class Vocabulary {
 public:
  explicit Vocabulary(const Tokenizer& tokenizer);

  const Tokenizer& tokenizer() const { return tokenizer_; }
  // Tokens that are ordinary text, with at least one byte. The others are letters of their own.
  bool is_text(TokenId id) const;
  // Of the longest text token.
  std::size_t token_bytes_max() const { return token_bytes_max_; }
  // The length of a bit set over all ids that have a string; one of a model may be longer.
  std::size_t mask_words() const { return all_.size(); }
  // Every id that has a string.
  std::span<const std::uint64_t> all() const { return all_; }

  // The tree in the order in which one reads it: a node, then all that begins with it.
  struct Node {
    std::uint32_t end;          // the node behind all that begins with this one
    std::uint32_t first_token;  // in tokens(); those of the next node end them
    std::uint16_t depth;        // bytes up to here, at least 1
    std::uint8_t byte;          // the last of them
    bool plain;                 // all bytes below are plain
  };
  // Bytes that texts of every kind are full of: letters, digits and the space of ASCII.
  static bool is_plain(std::uint8_t byte);
  std::span<const Node> nodes() const { return std::span(nodes_).first(nodes_.size() - 1); }
  // The tokens whose text ends at a node.
  std::span<const TokenId> tokens(std::size_t node) const {
    const std::uint32_t begin = nodes_[node].first_token;
    return std::span(tokens_).subspan(begin, nodes_[node + 1].first_token - begin);
  }
  // And of all nodes below it.
  std::span<const TokenId> tokens_from(std::size_t node) const {
    const std::uint32_t begin = nodes_[node].first_token;
    return std::span(tokens_).subspan(begin, nodes_[nodes_[node].end].first_token - begin);
  }

 private:
  void add_nodes(std::span<const TokenId> sorted);

  const Tokenizer& tokenizer_;
  std::vector<std::uint64_t> text_, all_;  // sets of tokens
  std::vector<Node> nodes_;                // and one behind the last
  std::vector<TokenId> tokens_;            // sorted by their bytes
  std::size_t token_bytes_max_ = 0;
};

}  // namespace m3
