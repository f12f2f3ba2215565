#include "media/orientation.h"

#include <cstring>

#include "base/check.h"

namespace m3 {
namespace {

// Numbers of a TIFF file, in its byte order. Beyond the end they are zero.
class TiffNumbers {
 public:
  TiffNumbers(std::span<const std::byte> bytes, bool big_endian)
      : bytes_(bytes), big_endian_(big_endian) {}

  std::uint32_t u16(std::size_t at) const { return number(at, 2); }
  std::uint32_t u32(std::size_t at) const { return number(at, 4); }

 private:
  std::uint32_t number(std::size_t at, std::size_t size) const {
    if (at > bytes_.size() || bytes_.size() - at < size) return 0;
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t next = big_endian_ ? at + i : at + size - 1 - i;
      value = value << 8 | std::to_integer<std::uint32_t>(bytes_[next]);
    }
    return value;
  }
  std::span<const std::byte> bytes_;
  bool big_endian_;
};

bool begins(std::span<const std::byte> bytes, std::string_view text) {
  return bytes.size() >= text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

constexpr std::uint32_t kOrientationTag = 0x0112;
constexpr std::uint32_t kShort = 3;
constexpr std::uint32_t kLong = 4;
constexpr std::size_t kEntryBytes = 12;

}  // namespace

int exif_orientation(std::span<const std::byte> exif) {
  constexpr std::string_view kPrefix("Exif\0\0", 6);
  if (begins(exif, kPrefix)) exif = exif.subspan(kPrefix.size());
  const bool big_endian = begins(exif, "MM");
  if (!big_endian && !begins(exif, "II")) return kUpright;
  const TiffNumbers tiff(exif, big_endian);
  if (tiff.u16(2) != 42) return kUpright;
  const std::size_t directory = tiff.u32(4);
  const std::size_t entries = tiff.u16(directory);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + i * kEntryBytes;
    if (tiff.u16(entry) != kOrientationTag) continue;
    const std::uint32_t type = tiff.u16(entry + 2);
    const std::uint32_t value = type == kShort  ? tiff.u16(entry + 8)
                                : type == kLong ? tiff.u32(entry + 8)
                                                : 0;
    return value >= 1 && value <= 8 ? static_cast<int>(value) : kUpright;
  }
  return kUpright;
}

Image turn_upright(Image image, int orientation) {
  M3_CHECK(orientation >= 1 && orientation <= 8, "orientation {}", orientation);
  if (orientation == kUpright) return image;
  const bool exchange = orientation >= 5;
  const bool from_right =
      orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom =
      orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image turned{.width = exchange ? image.height : image.width,
               .height = exchange ? image.width : image.height,
               .rgb = std::vector<std::uint8_t>(image.rgb.size())};
  std::uint8_t* out = turned.rgb.data();
  for (std::int64_t y = 0; y < turned.height; ++y) {
    for (std::int64_t x = 0; x < turned.width; ++x, out += 3) {
      const std::int64_t column = exchange ? y : x, row = exchange ? x : y;
      const std::int64_t from_x = from_right ? image.width - 1 - column : column;
      const std::int64_t from_y = from_bottom ? image.height - 1 - row : row;
      std::memcpy(out, &image.rgb[(from_y * image.width + from_x) * 3], 3);
    }
  }
  return turned;
}

}  // namespace m3
