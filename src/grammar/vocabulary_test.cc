#include "grammar/vocabulary.h"

#include <gtest/gtest.h>

#include "grammar/testing.h"

namespace m3 {
namespace {

using testing::small_tokenizer;
using testing::small_vocabulary;

TEST(Vocabulary, TheTreeSpellsEveryTextToken) {
  const Vocabulary& vocabulary = small_vocabulary();
  std::string text;
  std::vector<int> met(static_cast<std::size_t>(small_tokenizer().vocab_size()));
  const auto nodes = vocabulary.nodes();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    text.resize(nodes[i].depth - 1u);
    text += static_cast<char>(nodes[i].byte);
    ASSERT_GT(nodes[i].end, i);
    EXPECT_TRUE(nodes[i].end == nodes.size() || nodes[nodes[i].end].depth <= nodes[i].depth);
    for (const TokenId id : vocabulary.tokens(i)) {
      EXPECT_EQ(small_tokenizer().bytes(id), text);
      ++met[static_cast<std::size_t>(id)];
    }
  }
  for (TokenId id = 0; id < small_tokenizer().vocab_size(); ++id)
    EXPECT_EQ(met[static_cast<std::size_t>(id)], vocabulary.is_text(id) ? 1 : 0) << id;
}

TEST(Vocabulary, ControlTokensAreNoText) {
  const Vocabulary& vocabulary = small_vocabulary();
  for (const std::string_view text : {"]<]minimax[>[", "<tool_call>", "</tool_call>", "<mm:think>",
                                      "</mm:think>", "[e~[", "<fim_pad>"}) {
    const TokenId id = small_tokenizer().id_of(text).value();
    EXPECT_FALSE(vocabulary.is_text(id)) << text;
    EXPECT_TRUE(has_bit(vocabulary.all(), id)) << text;
  }
  EXPECT_TRUE(vocabulary.is_text(small_tokenizer().id_of("a").value()));
  EXPECT_FALSE(vocabulary.is_text(-1));
  EXPECT_FALSE(vocabulary.is_text(small_tokenizer().vocab_size()));
}

}  // namespace
}  // namespace m3
