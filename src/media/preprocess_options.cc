#include "media/preprocess_options.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace m3 {
namespace {

using nlohmann::json;

// The members of one file, and its name for messages. A file that is absent has no members.
struct JsonFile {
  std::string path;
  json members = json::object();

  const json* find(const char* key) const {
    const auto it = members.find(key);
    return it == members.end() || it->is_null() ? nullptr : &*it;
  }
};

Result<JsonFile> read_json(std::string path) {
  JsonFile file{.path = std::move(path)};
  if (!std::filesystem::exists(file.path)) return file;
  M3_TRY(const std::string text, read_text_file(file.path, /*limit=*/1 << 20));
  file.members = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!file.members.is_object()) return fail("{} is not a JSON object", file.path);
  return file;
}

Status read_pixels(const JsonFile& file, const char* key, std::int64_t& pixels) {
  const json* value = file.find(key);
  if (value == nullptr) return {};
  if (!value->is_number_integer() || *value < 1 || *value > kImagePixelsMax)
    return fail("{}: {} is {}, expected an integer from 1 to {}", file.path, key, value->dump(),
                kImagePixelsMax);
  pixels = value->get<std::int64_t>();
  return {};
}

Status read_limits(const JsonFile& file, std::int64_t& pixels_min, std::int64_t& pixels_max) {
  M3_TRY_STATUS(read_pixels(file, "min_pixels", pixels_min));
  M3_TRY_STATUS(read_pixels(file, "max_pixels", pixels_max));
  if (pixels_min > pixels_max)
    return fail("{}: min_pixels {} is above max_pixels {}", file.path, pixels_min, pixels_max);
  return {};
}

Status read_channels(const JsonFile& file, const char* key, float least,
                     std::array<float, 3>& channels) {
  const json* value = file.find(key);
  if (value == nullptr) return {};
  const auto bad = [&](const json& number) {
    return !number.is_number() || !(number.get<float>() >= least && number.get<float>() <= 1e3f);
  };
  if (!value->is_array() || value->size() != 3 || std::any_of(value->begin(), value->end(), bad))
    return fail("{}: {} must be three numbers from {} to 1000", file.path, key, least);
  for (std::size_t c = 0; c < 3; ++c) channels[c] = (*value)[c].get<float>();
  return {};
}

}  // namespace

Result<Size> PreprocessOptions::image_size(Size size) const {
  const std::int64_t factor = patch * merge;
  if (long_side_max > 0) return long_side_resize(size, long_side_max, factor);
  return smart_resize(size, {factor, image_pixels_min, image_pixels_max});
}

Result<Size> PreprocessOptions::frame_size(Size size) const {
  const std::int64_t factor = patch * merge;
  if (long_side_max > 0) return long_side_resize(size, long_side_max, factor);
  return smart_resize(size, {factor, video_pixels_min, video_pixels_max});
}

Status read_preprocess_options(const std::string& directory, PreprocessOptions& options) {
  M3_TRY(const JsonFile image, read_json(directory + "/preprocessor_config.json"));
  M3_TRY_STATUS(read_limits(image, options.image_pixels_min, options.image_pixels_max));
  M3_TRY_STATUS(read_channels(image, "image_mean", -1e3f, options.mean));
  M3_TRY_STATUS(read_channels(image, "image_std", 1e-6f, options.std));
  M3_TRY(const JsonFile video, read_json(directory + "/video_preprocessor_config.json"));
  return read_limits(video, options.video_pixels_min, options.video_pixels_max);
}

}  // namespace m3
