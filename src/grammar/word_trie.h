// Many words read at once, byte by byte: the values of an enumeration, the keys of an object.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace m3 {

// Words are known by their place in the list that the trie was built from; of equal ones the first
// counts. The start is node 0.
class WordTrie {
 public:
  explicit WordTrie(std::span<const std::string> words);

  std::optional<std::uint32_t> child(std::uint32_t node, std::uint8_t byte) const;
  bool has_children(std::uint32_t node) const { return nodes_[node].edges > 0; }
  // The word that ends here.
  std::optional<std::uint32_t> word(std::uint32_t node) const;
  // All words that pass or end here, in any order.
  std::span<const std::uint32_t> words(std::uint32_t node) const;
  // By byte: whether it stands in some word.
  std::vector<bool> bytes() const;

 private:
  struct Node {
    std::uint32_t first_edge = 0, edges = 0;
    std::uint32_t first_word = 0, words = 0;  // in order_
    bool ends_word = false;                   // the first of them
  };
  struct Edge {
    std::uint8_t byte;
    std::uint32_t to;
  };
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::vector<std::uint32_t> order_;  // the words sorted
};

}  // namespace m3
