#include "text/utf8.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

using State = Utf8Char::State;

TEST(Utf8, ReadsWhatItWrites) {
  for (char32_t c :
       {0x0, 0x41, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF}) {
    std::string text;
    append_utf8(text, c);
    const Utf8Char read = read_utf8(text + "x", 0);
    EXPECT_EQ(read.state, State::kValid);
    EXPECT_EQ(read.code_point, c);
    EXPECT_EQ(read.length, text.size());
  }
}

TEST(Utf8, CutsWrongSequencesAsUnicodeAdvises) {
  struct Case {
    std::string_view bytes;
    State state;
    int length;
  };
  for (const Case& c : {
           Case{"\x80", State::kInvalid, 1},              // continuation alone
           Case{"\xC0\x80", State::kInvalid, 1},          // overlong
           Case{"\xE0\x80\x80", State::kInvalid, 1},      // overlong
           Case{"\xED\xA0\x80", State::kInvalid, 1},      // surrogate
           Case{"\xF4\x90\x80\x80", State::kInvalid, 1},  // above U+10FFFF
           Case{"\xF5", State::kInvalid, 1},
           Case{"\xE2\x82x", State::kInvalid, 2},
           Case{"\xF0\x9F\x98x", State::kInvalid, 3},
           Case{"\xC3", State::kTruncated, 1},
           Case{"\xE2\x82", State::kTruncated, 2},
           Case{"\xF0\x9F\x98", State::kTruncated, 3},
       }) {
    const Utf8Char read = read_utf8(c.bytes, 0);
    EXPECT_EQ(read.state, c.state) << c.bytes.size();
    EXPECT_EQ(read.length, c.length) << c.bytes.size();
  }
}

TEST(Utf8Stream, DoesNotDependOnTheCuts) {
  const std::string bytes =
      "a\xC3\xA9\xE2\x82\xE2\x82\xAC\xF0\x9F\x98\x80\xED\xA0\x80\xFF z\xF0\x9F";
  Utf8Stream whole;
  std::string expected = whole.push(bytes);
  expected += whole.flush();
  EXPECT_EQ(expected, "aé\uFFFD€😀\uFFFD\uFFFD\uFFFD\uFFFD z\uFFFD");
  for (std::size_t first = 0; first <= bytes.size(); ++first)
    for (std::size_t second = first; second <= bytes.size(); ++second) {
      Utf8Stream stream;
      std::string text = stream.push(bytes.substr(0, first));
      text += stream.push(bytes.substr(first, second - first));
      text += stream.push(bytes.substr(second));
      EXPECT_EQ(text + stream.flush(), expected) << first << " " << second;
    }
}

TEST(Utf8Stream, HoldsTruncatedSurrogatesAsPythonDoes) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("\xED"), "");
  EXPECT_EQ(stream.push("\xA0"), "");
  EXPECT_EQ(stream.flush(), "\uFFFD\uFFFD");
  EXPECT_EQ(stream.flush(), "");
}

}  // namespace
}  // namespace m3
