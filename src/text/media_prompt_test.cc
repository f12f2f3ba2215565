#include "text/media_prompt.h"

#include <gtest/gtest.h>

#include "text/testing.h"

namespace m3 {
namespace {

using testing::small_tokenizer;

const MediaShape kPicture{MediaShape::Kind::kImage, 1, 2};
const MediaShape kClip{MediaShape::Kind::kVideo, 2, 1, {0.0, 2.04}};

std::vector<TokenId> encode(std::string_view text) {
  return small_tokenizer().encode(text, Tokenizer::ControlTokens::kHonoured).value();
}

TEST(ExpandMedia, PicturesAndClipsInTheirPlaces) {
  const auto ids = encode("user: ]<]image[>[What?]<]video[>[[e~[");
  const auto expanded =
      expand_media(ids, std::vector<MediaShape>{kClip, kPicture}, small_tokenizer());
  ASSERT_TRUE(expanded) << expanded.error().message;
  EXPECT_EQ(small_tokenizer().decode(*expanded),
            "user: ]<]start of image[>[]<]image[>[]<]image[>[]<]end of image[>[What?"
            "]<]0.0 seconds[>[]<]start of image[>[]<]video[>[]<]end of image[>["
            "]<]2.0 seconds[>[]<]start of image[>[]<]video[>[]<]end of image[>[[e~[");
  // The space before a placeholder stays alone, whatever follows.
  const auto before = encode("user: ");
  EXPECT_TRUE(std::equal(before.begin(), before.end(), expanded->begin()));
}

TEST(ExpandMedia, CountsMustAgree) {
  const auto ids = encode("]<]image[>[]<]video[>[");
  const auto message = [&](std::vector<MediaShape> media) {
    const auto expanded = expand_media(ids, media, small_tokenizer());
    return expanded ? "accepted" : expanded.error().message;
  };
  EXPECT_EQ(message({kPicture, kClip}), "accepted");
  EXPECT_EQ(message({kPicture}),
            "the text has 1 image and 1 video placeholders, but 1 images and 0 videos were given");
  EXPECT_NE(message({kPicture, kClip, kClip}).find("2 videos"), std::string::npos);
  EXPECT_NE(message({}).find("0 images"), std::string::npos);
}

}  // namespace
}  // namespace m3
