#include "media/source.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

std::string text_of(const std::string& address) {
  const auto source = MediaSource::open(address);
  if (!source) return "error: " + source.error().message;
  const auto bytes = source->bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(MediaSource, DecodesDataAddresses) {
  EXPECT_EQ(text_of("data:image/png;base64,SGVsbG8="), "Hello");
  EXPECT_EQ(text_of("data:image/png;base64,SGVsbG8"), "Hello");
  EXPECT_EQ(text_of("DATA:;charset=utf-8;base64,SGVs\r\n bG8=\n"), "Hello");
  EXPECT_EQ(text_of("data:;base64,_-8"), text_of("data:;base64,/+8="));
  EXPECT_EQ(text_of("data:;base64,"), "");
}

TEST(MediaSource, RefusesWhatIsNoMedia) {
  for (const char* address : {"data:image/png;base64,SGVsb*8=", "data:;base64,S",
                              "data:;base64,S=G", "data:image/png,plain", "data:image/png;base64"})
    EXPECT_TRUE(text_of(address).starts_with("error: ")) << address;
  EXPECT_NE(text_of("https://example.org/a.png").find("download it"), std::string::npos);
  EXPECT_NE(text_of("/nowhere/a.png").find("/nowhere/a.png"), std::string::npos);
}

TEST(MediaSource, ReadsFiles) {
  const std::string path = __FILE__;
  EXPECT_FALSE(text_of(path).starts_with("error: "));
  EXPECT_EQ(text_of("file://" + path), text_of(path));
}

}  // namespace
}  // namespace m3
