#include "media/video.h"

#include <limits>

#include "media/frame_reader.h"
#include "media/test_support.h"

namespace m3 {
namespace {

std::vector<std::int64_t> kept_of(std::int64_t frames, double source_fps, double fps) {
  std::vector<std::int64_t> kept;
  for (std::int64_t at = 0; at < frames; at = next_kept_frame(at, source_fps, fps))
    kept.push_back(at);
  return kept;
}

// The examples of vision §4.1.
TEST(NextKeptFrame, Examples) {
  using Kept = std::vector<std::int64_t>;
  EXPECT_EQ(kept_of(150, 30, 1), (Kept{0, 30, 60, 90, 120}));
  EXPECT_EQ(kept_of(100, 25, 1), (Kept{0, 25, 50, 75}));
  EXPECT_EQ(kept_of(75, 29.97, 1), (Kept{0, 30, 60}));
  EXPECT_EQ(kept_of(240, 23.976, 1), (Kept{0, 24, 48, 72, 96, 120, 144, 168, 192, 216}));
  EXPECT_EQ(kept_of(4, 30, 1000), (Kept{0, 1, 2, 3}));
  EXPECT_EQ(kept_of(1000, 30, 1e-300), (Kept{0}));
}

// Frame t of clip.* and turned.mp4: the top left quarter white, the rest this.
Pixel color_of(std::int64_t t) {
  return {int(20 * t), 100, int(250 - 20 * t)};
}

std::unique_ptr<FrameReader> reader_of(const std::string& bytes) {
  auto reader = FrameReader::open(as_bytes(bytes), "clip", kFramePixelsMax);
  EXPECT_TRUE(reader) << reader.error().message;
  return reader ? *std::move(reader) : nullptr;
}

void expect_near(const Pixel& got, const Pixel& want, int allowed) {
  for (std::size_t c = 0; c < 3; ++c) EXPECT_NEAR(got[c], want[c], allowed);
}

TEST(FrameReader, FramesInOrderUprightAndInRgb) {
  for (const auto& [name, allowed] :
       {std::pair{"clip.mkv", 0}, {"clip.avi", 6}, {"clip.webm", 30}, {"turned.mp4", 12}}) {
    const std::string bytes = media_file(name);
    const bool turned = std::string(name) == "turned.mp4";
    const auto reader = reader_of(bytes);
    ASSERT_NE(reader, nullptr) << name;
    EXPECT_DOUBLE_EQ(reader->fps(), 5);
    for (int t = 0; t < 10; ++t) {
      SCOPED_TRACE(fmt::format("{} frame {}", name, t));
      ASSERT_TRUE(reader->advance());
      const auto image = reader->image();
      ASSERT_TRUE(image);
      ASSERT_EQ(image->width, turned ? 28 : 56);
      ASSERT_EQ(image->height, turned ? 56 : 28);
      // What was left is on top after a turn to the right, and what was on top is to the right.
      expect_near(turned ? pixel_of(*image, 20, 5) : pixel_of(*image, 5, 5), {255, 255, 255},
                  allowed);
      expect_near(turned ? pixel_of(*image, 5, 50) : pixel_of(*image, 50, 22), color_of(t),
                  allowed);
    }
    EXPECT_FALSE(reader->advance());
    EXPECT_FALSE(reader->is_cut());
    EXPECT_EQ(reader->frames_lost(), 0);
    EXPECT_DOUBLE_EQ(reader->seconds(), 2);
    EXPECT_DOUBLE_EQ(reader->claimed_seconds(), 2);
  }
}

TEST(DecodeVideo, SamplesAndPadsAndTellsTheRate) {
  const std::string bytes = media_file("clip.mkv");
  const auto clip = decode_video(as_bytes(bytes), "clip", /*fps=*/2, {});
  ASSERT_TRUE(clip) << clip.error().message;
  EXPECT_EQ(clip->kept, (std::vector<std::int64_t>{0, 3, 6, 9}));
  EXPECT_DOUBLE_EQ(clip->fps, 5);
  EXPECT_EQ(clip->rows.grid, (Grid{2, 4, 6}));
  const auto odd = decode_video(as_bytes(bytes), "clip", /*fps=*/1, {});
  ASSERT_TRUE(odd);
  EXPECT_EQ(odd->kept, (std::vector<std::int64_t>{0, 5}));
  EXPECT_EQ(odd->rows.grid, (Grid{1, 4, 6}));
}

std::vector<std::string> notes_of(const std::string& bytes, double fps = 1) {
  const auto clip = decode_video(as_bytes(bytes), "input", fps, {});
  return clip ? clip->notes : std::vector{"error: " + clip.error().message};
}

TEST(ClipNotes, NoneOfAHealthyClip) {
  for (const char* name : {"clip.mkv", "clip.avi", "clip.webm", "turned.mp4"})
    EXPECT_EQ(notes_of(media_file(name)), std::vector<std::string>{}) << name;
}

TEST(ClipNotes, BeyondTheLimit) {
  EXPECT_EQ(notes_of(media_file("long.mkv"), /*fps=*/0.01),
            std::vector<std::string>{"input: only the first 300 s of 302 s are seen"});
}

TEST(ClipNotes, CutFiles) {
  for (const auto& [name, seconds] :
       {std::pair{"clip.mkv", "0.6"}, {"clip.webm", "0.6"}, {"clip.avi", "0.2"}}) {
    const std::string whole = media_file(name);
    EXPECT_EQ(notes_of(whole.substr(0, whole.size() * 6 / 10)),
              std::vector{fmt::format("input: ends after {} s of 2 s; what follows is missing or "
                                      "damaged",
                                      seconds)})
        << name;
  }
}

// clip.avi with frame `t` zeroed but for its end.
std::string damaged_avi(int t) {
  std::string bytes = media_file("clip.avi");
  std::size_t at = bytes.find("movi");
  for (int i = 0; i <= t; ++i) at = bytes.find("00dc", at + 4);
  bytes.replace(at + 8, 360, 360, '\0');
  return bytes;
}

TEST(ClipNotes, FramesThatCannotBeDecoded) {
  EXPECT_EQ(notes_of(damaged_avi(4)),
            std::vector<std::string>{"input: 1 frame cannot be decoded and is passed over"});
  EXPECT_EQ(notes_of(damaged_avi(9)),
            std::vector<std::string>{
                "input: ends after 1.8 s of 2 s; what follows is missing or damaged"});
}

std::string message_of(const std::string& bytes, double fps = 1,
                       const PreprocessOptions& options = {}, std::int64_t pixels = 1 << 20) {
  const auto clip = decode_video(as_bytes(bytes), "input", fps, options, pixels);
  return clip ? "" : clip.error().message;
}

TEST(HostileVideo, WhatIsNoClip) {
  EXPECT_NE(message_of("").find("empty"), std::string::npos);
  const std::string playlist = "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n";
  const std::string list = "ffconcat version 1.0\nfile /etc/passwd\n";
  for (const std::string& bytes : {std::string("hello"), playlist, list, media_file("smooth.png"),
                                   media_file("palette.gif"), media_file("smooth.jpg")})
    EXPECT_NE(message_of(bytes).find("MP4, MOV, MKV, WebM or AVI"), std::string::npos)
        << message_of(bytes);
}

TEST(HostileVideo, LimitsAreSentences) {
  const std::string bytes = media_file("clip.mkv");
  for (const double fps : {0.0, -1.0, 1001.0, std::numeric_limits<double>::quiet_NaN()})
    EXPECT_NE(message_of(bytes, fps).find("frames per second"), std::string::npos);
  PreprocessOptions few;
  few.clip_pixels_max = 3 * 84 * 56;
  EXPECT_NE(message_of(bytes, 5, few).find("more than 3 frames"), std::string::npos)
      << message_of(bytes, 5, few);
}

TEST(HostileVideo, FramesAreTooLargeByTheHeadAlone) {
  for (const char* name : {"clip.mkv", "clip.avi", "clip.webm"})
    EXPECT_EQ(message_of(media_file(name), 1, {}, /*pixels=*/1000),
              "input has frames of 56 x 28 pixels; at most 1000 pixels are accepted: scale it down")
        << name;
}

TEST(HostileVideo, ACoverPictureIsNoVideo) {
  EXPECT_EQ(message_of(media_file("cover.m4a")), "input has no video stream");
}

TEST(HostileVideo, WhatWasFoundInstead) {
  EXPECT_NE(message_of("hello").find("found text"), std::string::npos) << message_of("hello");
  EXPECT_NE(message_of(media_file("smooth.png")).find("give it as a picture (--image)"),
            std::string::npos);
}

TEST(HostileVideo, CutOrDamagedClipsEndInAClipOrASentence) {
  for (const char* name : {"clip.mkv", "turned.mp4", "clip.avi", "clip.webm"}) {
    const std::string whole = media_file(name);
    EXPECT_NE(message_of(whole.substr(0, 100)), "") << name;
    for (int i = 1; i < 12; ++i) {
      message_of(whole.substr(0, whole.size() * i / 12));
      std::string bytes = whole;
      for (std::size_t at = i * 31; at < bytes.size(); at += 397) bytes[at] ^= 0x55;
      message_of(bytes);
    }
  }
}

}  // namespace
}  // namespace m3
