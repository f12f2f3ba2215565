#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include "text/testing.h"

namespace m3 {
namespace {

using testing::small_tokenizer;

TEST(Detokenizer, ShowsWhatTheReferenceShows) {
  for (const Json& c : testing::cases("stream_cases.jsonl")) {
    Detokenizer detokenizer(small_tokenizer());
    Json pieces = Json::array();
    for (const Json& id : c["ids"]) pieces.push_back(detokenizer.push(id.get<TokenId>()));
    EXPECT_EQ(pieces, c["pieces"]) << c["name"];
    EXPECT_EQ(detokenizer.flush(), c["flush"].get<std::string>()) << c["name"];
  }
}

TEST(Detokenizer, CanShowSpecialTokens) {
  Detokenizer detokenizer(small_tokenizer(), Detokenizer::SpecialTokens::kShown);
  EXPECT_EQ(detokenizer.push(4051), "]~b]");
  EXPECT_EQ(detokenizer.push(64), "a");
  EXPECT_EQ(detokenizer.push(4052), "[e~[");
}

TEST(Detokenizer, IdsWithoutStringGiveNothing) {
  Detokenizer detokenizer(small_tokenizer());
  for (const TokenId id : {-1, 4093, 4095, INT32_MAX}) EXPECT_EQ(detokenizer.push(id), "");
  EXPECT_EQ(detokenizer.flush(), "");
}

}  // namespace
}  // namespace m3
