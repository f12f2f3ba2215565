#include "media/video.h"

#include <cmath>

#include "media/frame_reader.h"

namespace m3 {
namespace {

constexpr double kFpsMax = 1000;

// The frames kept so far, at the size of the first.
class FrameSampler {
 public:
  FrameSampler(std::string_view where, const PreprocessOptions& options)
      : where_(where), options_(options) {}

  Status keep(Image image, std::int64_t index) {
    if (frames_.empty()) {
      const auto size = options_.frame_size({image.width, image.height});
      if (!size) return fail("{}: {}", where_, size.error().message);
      size_ = *size;
    }
    const std::int64_t frames_max = options_.clip_pixels_max / (size_.width * size_.height);
    if (static_cast<std::int64_t>(frames_.size()) >= frames_max)
      return fail(
          "{} gives more than {} frames of {} x {} pixels, which is all that is accepted: "
          "ask for fewer frames per second or send a shorter clip",
          where_, frames_max, size_.width, size_.height);
    frames_.push_back(resize_bicubic(std::move(image), size_));
    kept_.push_back(index);
    return {};
  }

  Result<Clip> finish(double source_fps) && {
    if (frames_.empty()) return fail("{} has no frame that can be decoded", where_);
    return Clip{cut_into_rows(frames_, options_), std::move(kept_), source_fps};
  }

 private:
  std::string_view where_;
  const PreprocessOptions& options_;
  Size size_;
  std::vector<Image> frames_;
  std::vector<std::int64_t> kept_;
};

}  // namespace

std::int64_t next_kept_frame(std::int64_t kept, double source_fps, double fps) {
  const double seconds = static_cast<double>(kept) / source_fps + 1 / fps - 1e-4;
  const double next = std::ceil(seconds * source_fps);
  // Beyond every clip, and within the integers, where the wanted rate is nearly zero.
  constexpr double kFramesMax = 1e15;
  return std::max(kept + 1, static_cast<std::int64_t>(std::min(next, kFramesMax)));
}

Result<Clip> decode_video(std::span<const std::byte> bytes, std::string_view where, double fps,
                          const PreprocessOptions& options, std::int64_t frame_pixels_max) {
  if (!(fps > 0 && fps <= kFpsMax))
    return fail("{} frames per second cannot be sampled: give a number above 0 and at most {}", fps,
                kFpsMax);
  M3_TRY(const auto reader, FrameReader::open(bytes, where, frame_pixels_max));
  const double source_fps = reader->fps();
  const auto end = static_cast<std::int64_t>(std::ceil(kClipSecondsMax * source_fps));
  FrameSampler sampler(where, options);
  std::int64_t wanted = 0;
  for (std::int64_t index = 0; wanted < end && reader->advance(); ++index) {
    if (index < wanted) continue;
    M3_TRY(Image image, reader->image());
    M3_TRY_STATUS(sampler.keep(std::move(image), index));
    wanted = next_kept_frame(index, source_fps, fps);
  }
  return std::move(sampler).finish(source_fps);
}

}  // namespace m3
