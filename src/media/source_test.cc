#include "media/source.h"

#include <gtest/gtest.h>
#include <unistd.h>

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
  for (const char* address : {"https://example.org/a.png", "HTTP://a", "ftp://a/b", "s3+x.1-y://"})
    EXPECT_EQ(text_of(address),
              fmt::format("error: {} is not fetched: give a file or a data: URL", address));
  for (const char* address : {"", "file://"})
    EXPECT_EQ(text_of(address), "error: an empty address: give a file or a data: URL");
  EXPECT_NE(text_of("/nowhere/a.png").find("/nowhere/a.png"), std::string::npos);
}

TEST(MediaSource, ReadsFiles) {
  const std::string path = __FILE__;
  EXPECT_FALSE(text_of(path).starts_with("error: "));
  EXPECT_EQ(text_of("file://" + path), text_of(path));
}

TEST(MediaSource, ReadsPipesToTheirEnd) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_EQ(::write(ends[1], "Hello", 5), 5);
  ::close(ends[1]);
  EXPECT_EQ(text_of(fmt::format("/dev/fd/{}", ends[0])), "Hello");
  ::close(ends[0]);
  EXPECT_EQ(text_of("/dev/null"), "");
}

TEST(MediaSource, ReadsNoMoreOfAStreamThanItsLimit) {
  const auto source = MediaSource::open("/dev/zero", /*stream_bytes_max=*/1'000'000);
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().message, "/dev/zero is larger than 1000000 bytes");
}

}  // namespace
}  // namespace m3
