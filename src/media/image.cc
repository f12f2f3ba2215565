#include "media/image.h"

#include "media/file_kind.h"
#include "media/image_formats.h"

namespace m3 {
namespace {

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

Status check_image_size(std::int64_t width, std::int64_t height, const ImageSource& source) {
  if (width <= 0 || height <= 0)
    return fail("{} is a picture of {} x {} pixels, which shows nothing", source.where, width,
                height);
  if (width > source.pixels_max / height)
    return fail("{} is a picture of {} x {} pixels; at most {} pixels are accepted: scale it down",
                source.where, width, height, source.pixels_max);
  return {};
}

void flatten_over_white(std::vector<std::uint8_t>& rgba) {
  const std::size_t pixels = rgba.size() / 4;
  for (std::size_t i = 0; i < pixels; ++i) {
    const std::uint8_t alpha = rgba[4 * i + 3];
    for (std::size_t c = 0; c < 3; ++c) rgba[3 * i + c] = over_white(rgba[4 * i + c], alpha);
  }
  rgba.resize(3 * pixels);
}

Result<Image> decode_image(std::span<const std::byte> bytes, std::string_view where,
                           std::int64_t pixels_max) {
  const ImageSource source{bytes, where, pixels_max};
  const std::string_view text = as_text(bytes);
  if (text.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(source);
  if (text.starts_with("\xff\xd8\xff")) return decode_jpeg(source);
  if (text.starts_with("GIF87a") || text.starts_with("GIF89a")) return decode_gif(source);
  if (text.starts_with("RIFF") && text.substr(0, 12).ends_with("WEBP")) return decode_webp(source);
  if (bytes.empty()) return fail("{} is empty: expected a PNG, JPEG, WebP or GIF picture", where);
  return fail("{} is no picture that can be read: expected PNG, JPEG, WebP or GIF, found {}", where,
              kind_of_file(bytes, MediaUse::kPicture));
}

}  // namespace m3
