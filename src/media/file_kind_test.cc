#include "media/file_kind.h"

#include "media/test_support.h"

namespace m3 {
namespace {

using namespace std::string_literals;

std::string kind_of(const std::string& bytes, MediaUse use = MediaUse::kPicture) {
  return kind_of_file(as_bytes(bytes), use);
}

TEST(KindOfFile, ByMagic) {
  const auto boxed = [](const std::string& magic) { return std::string(3, '\0') + "\x18" + magic; };
  for (const auto& [bytes, kind] : std::vector<std::pair<std::string, std::string>>{
           {boxed("ftypheic"), "a HEIC picture"},
           {boxed("ftypmif1"), "a HEIF picture"},
           {boxed("ftypavif"), "an AVIF picture"},
           {boxed("ftypM4A "), "M4A sound"},
           {"BM\x36\0"s, "a BMP picture"},
           {"II*\0"s, "a TIFF picture"},
           {"MM\0*"s, "a TIFF picture"},
           {"%PDF-1.7", "a PDF document"},
           {"RIFF\4\0\0\0WAVE"s, "WAV sound"},
           {"G" + std::string(187, '\0') + "G", "an MPEG transport stream"}}) {
    EXPECT_EQ(kind_of(bytes), kind);
    EXPECT_EQ(kind_of(bytes, MediaUse::kClip), kind);
  }
}

TEST(KindOfFile, Text) {
  EXPECT_EQ(kind_of("<?xml version='1.0'?>\n<SVG width='3'/>"), "an SVG drawing");
  EXPECT_EQ(kind_of("<!DOCTYPE html>"), "a web page");
  EXPECT_EQ(kind_of("<?xml version='1.0'?><plist/>"), "an XML document");
  EXPECT_EQ(kind_of("BMW is a \xc3\xa4 car\n"), "text");
  EXPECT_EQ(kind_of("hello"), "text");
}

TEST(KindOfFile, GivenAsTheOtherKind) {
  EXPECT_EQ(kind_of(media_file("smooth.png"), MediaUse::kClip),
            "a PNG picture: give it as a picture (--image)");
  EXPECT_EQ(kind_of(media_file("palette.gif"), MediaUse::kClip),
            "a GIF picture: give it as a picture (--image)");
  EXPECT_EQ(kind_of(media_file("turned.mp4")), "an MP4 clip: give it as a clip (--video)");
  EXPECT_EQ(kind_of(media_file("clip.mkv")), "an MKV or WebM clip: give it as a clip (--video)");
  EXPECT_EQ(kind_of(media_file("clip.avi"), MediaUse::kClip), "what begins as an AVI clip");
}

TEST(KindOfFile, UnknownBytes) {
  EXPECT_EQ(kind_of("\x12\x34\x56\x78\x9a"), "a file that starts with the bytes 12 34 56 78");
  EXPECT_EQ(kind_of("\xff"), "a file that starts with the bytes ff");
  EXPECT_EQ(kind_of(""), "no bytes");
}

}  // namespace
}  // namespace m3
