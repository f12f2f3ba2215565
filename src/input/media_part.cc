#include "input/media_part.h"

#include "media/video.h"

namespace m3 {
namespace {

const std::string* address_of(const Json& part, const std::string& kind) {
  for (const std::string& key : {kind + "_url", kind, std::string("url"), std::string("path")}) {
    const Json* value = find_set_member(part, key);
    if (value == nullptr) continue;
    if (value->is_string()) return value->get_ptr<const std::string*>();
    if (const std::string* url = find_string(*value, "url")) return url;
  }
  return nullptr;
}

// A setting beside the address, or else in the object that holds it; or null.
const Json* setting(const Json& part, std::string_view key) {
  const std::string& kind = *find_string(part, "type");
  for (const Json* object :
       {&part, find_set_member(part, kind + "_url"), find_set_member(part, kind)}) {
    if (object == nullptr) continue;
    if (const Json* value = find_set_member(*object, key)) return value;
  }
  return nullptr;
}

Result<std::int64_t> integer_setting(const Json& part, std::string_view key,
                                     std::int64_t otherwise) {
  const Json* value = setting(part, key);
  if (value == nullptr) return otherwise;
  if (!value->is_number_integer() || *value < 1 || *value > 0x7fffffff)
    return fail("\"{}\" must be an integer of 1 or more, it is {}", key, python_json(*value));
  return value->get<std::int64_t>();
}

Result<double> fps_of(const Json& part, double fps) {
  const Json* value = setting(part, "fps");
  if (value == nullptr) return fps;
  if (!value->is_number())
    return fail("\"fps\" must be a number of frames per second, it is {}", kind_name(*value));
  return value->get<double>();
}

// The cap of the long side that `detail` stands for; `otherwise` where it leaves that open.
Result<std::int64_t> cap_of_detail(const Json& part, std::int64_t otherwise) {
  constexpr std::int64_t kLow = 504, kHigh = 2016;
  const Json* detail = setting(part, "detail");
  if (detail == nullptr || *detail == "default" || *detail == "auto") return otherwise;
  if (*detail == "low") return kLow;
  if (*detail == "high") return kHigh;
  return fail("\"detail\" must be \"low\", \"high\", \"default\" or \"auto\", it is {}",
              python_json(*detail));
}

Result<std::int64_t> cap_of(const Json& part, std::int64_t otherwise) {
  M3_TRY(const std::int64_t of_detail, cap_of_detail(part, otherwise));
  constexpr std::string_view kKey = "max_long_side_pixel";
  if (setting(part, kKey) == nullptr) return of_detail;
  M3_TRY(const std::int64_t pixels, integer_setting(part, kKey, 0));
  if (const Status status = check_long_side(pixels); !status)
    return fail("\"{}\" {}", kKey, status.error().message);
  return pixels;
}

// Frames per second that keep at most `frames` of a clip of which `fps` keeps more.
double fewer_fps(const MediaInput& clip, std::int64_t frames, std::int64_t temporal_patch) {
  const std::vector<double>& seconds = clip.shape.seconds;
  // So few that only the first can stay.
  if (frames == 1 || seconds.size() < 2) return 0.5 / kClipSecondsMax;
  // Frames are kept at one distance: the clip ends before the next would be.
  const double source_fps =
      static_cast<double>(clip.kept[static_cast<std::size_t>(temporal_patch)]) / seconds[1];
  const std::int64_t last = clip.kept.back() + clip.kept[1] - clip.kept[0] - 1;
  return source_fps / static_cast<double>(last / frames + 1);
}

Result<MediaInput> read_clip(const Json& part, const std::string& address, double fps,
                             const PreprocessOptions& options) {
  M3_TRY(fps, fps_of(part, fps));
  M3_TRY(const std::int64_t frames, integer_setting(part, "max_frames", 0));
  M3_TRY(MediaInput clip, read_video(address, fps, options));
  if (frames == 0 || std::ssize(clip.kept) <= frames) return clip;
  return read_video(address, fewer_fps(clip, frames, options.temporal_patch), options);
}

}  // namespace

Status check_long_side(std::int64_t pixels) {
  constexpr std::int64_t kLeast = 150, kMost = 3584, kFactor = 28;
  if (pixels >= kLeast && pixels <= kMost && pixels % kFactor == 0) return {};
  return fail("must be a multiple of {} from {} to {} pixels, it is {}", kFactor, kLeast, kMost,
              pixels);
}

Result<MediaInput> read_media_part(const Json& part, double fps, PreprocessOptions options,
                                   const AddressRule& rule) {
  const std::string& kind = *find_string(part, "type");
  const std::string* given = address_of(part, kind);
  if (given == nullptr)
    return fail("needs {}_url with a url: a path, a file:// or a data: address", kind);
  std::string address = *given;
  if (rule) {
    M3_TRY(address, rule(*given));
  }
  M3_TRY(options.long_side_max, cap_of(part, options.long_side_max));
  return kind == "image" ? read_image(address, options) : read_clip(part, address, fps, options);
}

}  // namespace m3
