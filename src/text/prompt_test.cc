#include "text/prompt.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

using Ranges = std::vector<TextRange>;

Prompt example() {
  Prompt prompt;  // ab[cdef]gh[i]
  prompt.add_template("ab");
  prompt.add_client("cd");
  prompt.add_client("");
  prompt.add_client("ef");
  prompt.add_template("gh");
  prompt.add_client("i");
  return prompt;
}

TEST(Prompt, MarksWhatClientsWrote) {
  EXPECT_EQ(example().text(), "abcdefghi");
  EXPECT_EQ(example().client_ranges(), (Ranges{{2, 6}, {8, 9}}));
}

TEST(Prompt, SlicesKeepTheirMarks) {
  const Prompt source = example();
  for (std::size_t begin = 0; begin <= source.text().size(); ++begin)
    for (std::size_t end = begin; end <= source.text().size(); ++end) {
      Prompt slice;
      slice.add_slice(source, {begin, end});
      EXPECT_EQ(slice.text(), source.text().substr(begin, end - begin));
      std::string marked(slice.text().size(), '.');
      for (const TextRange& range : slice.client_ranges())
        for (std::size_t i = range.begin; i < range.end; ++i) marked[i] = '#';
      EXPECT_EQ(marked, std::string("..####..#").substr(begin, end - begin));
    }
}

TEST(Prompt, TruncationCutsMarks) {
  Prompt prompt = example();
  prompt.truncate(100);
  EXPECT_EQ(prompt.text().size(), 9u);
  prompt.truncate(8);
  EXPECT_EQ(prompt.client_ranges(), (Ranges{{2, 6}}));
  prompt.truncate(3);
  EXPECT_EQ(prompt.client_ranges(), (Ranges{{2, 3}}));
  prompt.truncate(2);
  EXPECT_EQ(prompt.client_ranges(), Ranges{});
  EXPECT_EQ(prompt.text(), "ab");
}

}  // namespace
}  // namespace m3
