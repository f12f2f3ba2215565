// Clips: whatever the bytes, an error or rows for the frames kept.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "media/video.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::int64_t kFramePixelsMax = 1 << 16;  // small, for speed
  constexpr double kFps = 2;
  m3::PreprocessOptions options;
  options.clip_pixels_max = 1 << 20;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto clip = m3::decode_video(bytes, "input", kFps, options, kFramePixelsMax);
  if (!clip) {
    M3_CHECK(!clip.error().message.empty(), "an error without a sentence");
    return 0;
  }
  const m3::PixelRows& rows = clip->rows;
  M3_CHECK(!clip->kept.empty() && clip->fps > 0, "{} frames", clip->kept.size());
  M3_CHECK(
      static_cast<std::int64_t>(rows.values.size()) == rows.grid.rows() * m3::row_columns(options),
      "{} values for {} rows", rows.values.size(), rows.grid.rows());
  return 0;
}
