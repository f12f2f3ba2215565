// What a constrained output may look like: rules over bytes and special tokens (spec: chat-and-api
// §5.4, §8.6). Matcher (matcher.h) walks one token by token.
//
// A grammar is a graph of small nodes. Texts without structure (strings, numbers, keys) are
// automata over bytes; what nests is made of sequences, choices and repetitions of them. A special
// token is a letter of its own: bytes never spell it, and it never stands for its bytes.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "grammar/dfa.h"
#include "grammar/word_trie.h"
#include "text/bpe.h"

namespace m3 {

using NodeId = std::uint32_t;
constexpr NodeId kNoNode = std::numeric_limits<NodeId>::max();

// A text that an automaton accepts.
struct LexemeNode {
  std::uint32_t dfa;
};

// One of the words of a trie, and behind the word with number w, targets[w]. No targets: nothing.
struct WordsNode {
  std::uint32_t trie;
  std::vector<NodeId> targets;
};

struct TokenNode {
  TokenId id;
};

struct SequenceNode {
  std::vector<NodeId> parts;
};

struct ChoiceNode {
  std::vector<NodeId> options;
};

// `item` from min to max times, `first` before the first and `between` before each other, where
// there are such nodes. An item is never empty: rounds are counted by what they read.
struct RepeatNode {
  static constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
  NodeId item;
  NodeId first = kNoNode, between = kNoNode;
  std::uint64_t min = 0, max = kUnlimited;
};

// Members with keys, each at most once, then any number of others if there is an `extra` node.
struct FieldsNode {
  enum class Order {
    kAsListed,
    kRequiredFirst,  // the required ones as listed, then the others in any order
  };
  // In any order at most so many can be told apart.
  static constexpr std::size_t kUnorderedMax = 62;
  struct Field {
    std::string key;  // as it is written, with all that makes it end
    NodeId value;     // what follows it
    bool required;
  };
  std::vector<Field> fields;
  NodeId first = kNoNode, between = kNoNode;  // before the first member, before each other
  NodeId extra = kNoNode;                     // another member, key and value
  Order order = Order::kAsListed;
  // What finish() fills in.
  std::uint32_t trie = 0;                    // of the keys
  std::uint64_t required = 0;                // how many are
  std::vector<std::uint32_t> next_required;  // the first at or behind a field, or their number
};

// An element of a tool call whose key is the model's choice: behind its "<", a key that an
// automaton accepts, ">", the value, the namespace token, and the tag that closes this key.
struct ElementNode {
  std::uint32_t keys;  // an automaton that knows no ">"
  NodeId value;
  TokenId name_space;
};

using Node = std::variant<std::monostate, LexemeNode, WordsNode, TokenNode, SequenceNode,
                          ChoiceNode, RepeatNode, FieldsNode, ElementNode>;

// Made by GrammarBuilder; unchanging, so that any number of matchers can walk it at once. From each
// of its nodes the end can be reached.
struct Grammar {
  std::vector<Node> nodes;
  // A node is made of nodes of lower rank, at least by one way: the way to an end for a text that
  // has nested deeply enough.
  std::vector<std::uint32_t> ranks;
  std::vector<Dfa> dfas;
  std::vector<WordTrie> tries;
  NodeId root = kNoNode;
};

}  // namespace m3
