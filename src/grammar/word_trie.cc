#include "grammar/word_trie.h"

#include <algorithm>
#include <numeric>

namespace m3 {

WordTrie::WordTrie(std::span<const std::string> words) : order_(words.size()) {
  std::iota(order_.begin(), order_.end(), 0u);
  std::stable_sort(order_.begin(), order_.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return words[a] < words[b]; });
  const auto equal = [&](std::uint32_t a, std::uint32_t b) { return words[a] == words[b]; };
  order_.erase(std::unique(order_.begin(), order_.end(), equal), order_.end());

  // Breadth first, so that the edges of a node are neighbours.
  std::vector<std::size_t> depth = {0};
  nodes_.push_back({.words = static_cast<std::uint32_t>(order_.size())});
  for (std::size_t at = 0; at < nodes_.size(); ++at) {
    Node node = nodes_[at];
    std::uint32_t word = node.first_word;
    const std::uint32_t end = word + node.words;
    node.ends_word = word < end && words[order_[word]].size() == depth[at];
    if (node.ends_word) ++word;
    node.first_edge = static_cast<std::uint32_t>(edges_.size());
    while (word < end) {
      const std::uint32_t begin = word;
      const char byte = words[order_[begin]][depth[at]];
      while (word < end && words[order_[word]][depth[at]] == byte) ++word;
      edges_.push_back(
          {static_cast<std::uint8_t>(byte), static_cast<std::uint32_t>(nodes_.size())});
      nodes_.push_back({.first_word = begin, .words = word - begin});
      depth.push_back(depth[at] + 1);
    }
    node.edges = static_cast<std::uint32_t>(edges_.size()) - node.first_edge;
    nodes_[at] = node;
  }
}

std::optional<std::uint32_t> WordTrie::child(std::uint32_t node, std::uint8_t byte) const {
  const auto begin = edges_.begin() + nodes_[node].first_edge;
  const auto end = begin + nodes_[node].edges;
  const auto it =
      std::lower_bound(begin, end, byte, [](const Edge& e, int b) { return e.byte < b; });
  if (it == end || it->byte != byte) return std::nullopt;
  return it->to;
}

std::optional<std::uint32_t> WordTrie::word(std::uint32_t node) const {
  if (!nodes_[node].ends_word) return std::nullopt;
  return order_[nodes_[node].first_word];
}

std::span<const std::uint32_t> WordTrie::words(std::uint32_t node) const {
  return std::span(order_).subspan(nodes_[node].first_word, nodes_[node].words);
}

std::vector<bool> WordTrie::bytes() const {
  std::vector<bool> used(256);
  for (const Edge& edge : edges_) used[edge.byte] = true;
  return used;
}

}  // namespace m3
