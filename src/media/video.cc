#include "media/video.h"

#include <cmath>

#include "media/frame_reader.h"

namespace m3 {
namespace {

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

  Result<Clip> finish(double source_fps, std::vector<std::string> notes) && {
    if (frames_.empty()) return fail("{} has no frame that can be decoded", where_);
    return Clip{cut_into_rows(frames_, options_), std::move(kept_), source_fps, std::move(notes)};
  }

 private:
  std::string_view where_;
  const PreprocessOptions& options_;
  Size size_;
  std::vector<Image> frames_;
  std::vector<std::int64_t> kept_;
};

// A time in s for a sentence: 300, 5.3, 0.17.
std::string in_seconds(double seconds) {
  return fmt::format("{} s", std::round(seconds * 100) / 100);
}

std::string note_of_cut(const FrameReader& reader, std::string_view where) {
  const double seconds = reader.seconds(), claimed = reader.claimed_seconds();
  const std::string of = claimed > seconds ? " of " + in_seconds(claimed) : "";
  return fmt::format("{}: ends after {}{}; what follows is missing or damaged", where,
                     in_seconds(seconds), of);
}

std::string note_of_lost(std::int64_t frames, std::string_view where) {
  return frames == 1
             ? fmt::format("{}: 1 frame cannot be decoded and is passed over", where)
             : fmt::format("{}: {} frames cannot be decoded and are passed over", where, frames);
}

std::string note_of_limit(double claimed, std::string_view where) {
  const std::string of = claimed > kClipSecondsMax ? " of " + in_seconds(claimed) : "";
  return fmt::format("{}: only the first {}{} are seen", where, in_seconds(kClipSecondsMax), of);
}

// `more`: frames follow that are not looked at.
std::vector<std::string> notes_of(const FrameReader& reader, bool more, std::string_view where) {
  std::vector<std::string> notes;
  if (reader.frames_lost() > 0) notes.push_back(note_of_lost(reader.frames_lost(), where));
  if (more)
    notes.push_back(note_of_limit(reader.claimed_seconds(), where));
  else if (reader.is_cut())
    notes.push_back(note_of_cut(reader, where));
  return notes;
}

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
  std::int64_t wanted = 0, index = 0;
  bool more = reader->advance();
  for (; more && index < end; ++index, more = reader->advance()) {
    if (index < wanted) continue;
    M3_TRY(Image image, reader->image());
    M3_TRY_STATUS(sampler.keep(std::move(image), index));
    wanted = next_kept_frame(index, source_fps, fps);
  }
  return std::move(sampler).finish(source_fps, notes_of(*reader, more, where));
}

}  // namespace m3
