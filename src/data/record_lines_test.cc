#include "data/record_lines.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

using Found = std::vector<std::pair<std::string, std::int64_t>>;  // text and line

Found records(std::string_view text) {
  Found found;
  for (const RecordPlace& place : find_records(text).records)
    found.emplace_back(text.substr(place.bytes.begin, place.bytes.end - place.bytes.begin),
                       place.line);
  return found;
}

TEST(RecordLines, AreAllThatAreNotBlank) {
  EXPECT_EQ(records("{\"a\": 1}\n\n \t\r\n{2}\r\nx"),
            (Found{{"{\"a\": 1}", 1}, {"{2}\r", 4}, {"x", 5}}));
  EXPECT_EQ(records(""), Found{});
  EXPECT_EQ(records(" \n \n"), Found{});
  EXPECT_EQ(records(std::string_view("\0\n", 2)), (Found{{std::string(1, '\0'), 1}}));
}

TEST(RecordLines, AreTheElementsOfAnArray) {
  EXPECT_EQ(records("\n[\n {\"a\": [1, {}]},\n\n{\"b\":\n \"],}\\\"\"}]\n"),
            (Found{{"{\"a\": [1, {}]}", 3}, {"{\"b\":\n \"],}\\\"\"}", 5}}));
  EXPECT_EQ(records("[]"), Found{});
  EXPECT_EQ(records("[1,]"), (Found{{"1", 1}, {"", 1}}));
}

TEST(RecordLines, SayWhatAilsTheArray) {
  EXPECT_EQ(find_records("[{},\n{}]\n").broken, "");
  for (const char* text : {"[{}", "[{}}"}) {
    const RecordPlaces found = find_records(text);
    EXPECT_NE(found.broken.find("not closed"), std::string::npos) << text;
  }
  // A record that is cut off is not one more that is broken.
  for (const char* text : {"[", "[{},", "[{},\n{\"a\": \"]", "[\"\\", "[{},\n[{}"}) {
    const RecordPlaces found = find_records(text);
    EXPECT_NE(found.broken.find("ends inside this record"), std::string::npos) << text;
    EXPECT_LE(found.records.size(), 1u) << text;
  }
  EXPECT_EQ(find_records("[{},\n{\"a\":\n").line, 2);
  const RecordPlaces behind = find_records("[{}]\n\n{}");
  EXPECT_NE(behind.broken.find("behind"), std::string::npos);
  EXPECT_EQ(behind.line, 3);
}

}  // namespace
}  // namespace m3
