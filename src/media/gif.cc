#include <gif_lib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "media/image_formats.h"

namespace m3 {
namespace {

struct CloseGif {
  void operator()(GifFileType* gif) const { DGifCloseFile(gif, nullptr); }
};
using Gif = std::unique_ptr<GifFileType, CloseGif>;

using Palette = std::array<std::array<std::uint8_t, 3>, 256>;
constexpr std::array<std::uint8_t, 3> kWhite{255, 255, 255};

int read_bytes(GifFileType* gif, GifByteType* out, int size) {
  auto& rest = *static_cast<std::span<const std::byte>*>(gif->UserData);
  const std::size_t count = std::min(rest.size(), static_cast<std::size_t>(size));
  std::memcpy(out, rest.data(), count);
  rest = rest.subspan(count);
  return static_cast<int>(count);
}

// Reads an extension; a graphics control block tells the transparent index of the next frame.
bool read_extension(GifFileType* gif, int& transparent) {
  int code = 0;
  GifByteType* block = nullptr;
  if (DGifGetExtension(gif, &code, &block) == GIF_ERROR) return false;
  GraphicsControlBlock control;
  if (code == GRAPHICS_EXT_FUNC_CODE && block != nullptr &&
      DGifExtensionToGCB(block[0], block + 1, &control) == GIF_OK)
    transparent = control.TransparentColor;
  while (block != nullptr)
    if (DGifGetExtensionNext(gif, &block) == GIF_ERROR) return false;
  return true;
}

// Stands before the pixels of the first frame. False: damaged, or there is no frame.
bool find_first_frame(GifFileType* gif, int& transparent) {
  for (;;) {
    GifRecordType type;
    if (DGifGetRecordType(gif, &type) == GIF_ERROR) return false;
    if (type == IMAGE_DESC_RECORD_TYPE) return DGifGetImageDesc(gif) == GIF_OK;
    if (type != EXTENSION_RECORD_TYPE || !read_extension(gif, transparent)) return false;
  }
}

// What each index shows: shades of grey where the file has no palette, white where transparent.
Palette palette_of(const GifFileType* gif, int transparent) {
  const ColorMapObject* map = gif->Image.ColorMap != nullptr ? gif->Image.ColorMap : gif->SColorMap;
  Palette palette = {};
  for (std::size_t i = 0; i < palette.size(); ++i) {
    const auto grey = static_cast<std::uint8_t>(i);
    if (map == nullptr)
      palette[i] = {grey, grey, grey};
    else if (i < static_cast<std::size_t>(map->ColorCount))
      palette[i] = {map->Colors[i].Red, map->Colors[i].Green, map->Colors[i].Blue};
  }
  if (transparent >= 0) palette[static_cast<std::size_t>(transparent)] = kWhite;
  return palette;
}

// The frame's rows in the order of the file: from top to bottom, or in four passes.
std::vector<std::int64_t> row_order(std::int64_t height, bool interlaced) {
  std::vector<std::int64_t> order;
  order.reserve(height);
  const std::array<std::int64_t, 4> first{0, 4, 2, 1}, step{8, 8, 4, 2};
  for (std::size_t pass = 0; pass < (interlaced ? 4 : 1); ++pass)
    for (std::int64_t y = first[pass]; y < height; y += interlaced ? step[pass] : 1)
      order.push_back(y);
  return order;
}

bool draw(GifFileType* gif, const Palette& palette, Image& canvas) {
  const GifImageDesc& frame = gif->Image;
  std::vector<GifPixelType> indices(frame.Width);
  for (const std::int64_t y : row_order(frame.Height, frame.Interlace)) {
    if (DGifGetLine(gif, indices.data(), frame.Width) == GIF_ERROR) return false;
    std::uint8_t* out = &canvas.rgb[((frame.Top + y) * canvas.width + frame.Left) * 3];
    for (const GifPixelType index : indices) out = std::copy_n(palette[index].data(), 3, out);
  }
  return true;
}

}  // namespace

Result<Image> decode_gif(const ImageSource& source) {
  const auto damaged = [&] { return fail("{} is a damaged or truncated GIF", source.where); };
  std::span<const std::byte> rest = source.bytes;
  const Gif gif(DGifOpen(&rest, read_bytes, nullptr));
  if (!gif) return damaged();
  int transparent = NO_TRANSPARENT_COLOR;
  if (!find_first_frame(gif.get(), transparent)) return damaged();
  const GifImageDesc& frame = gif->Image;
  if (frame.Width <= 0 || frame.Height <= 0) return damaged();
  // As Pillow: a frame that leaves the canvas enlarges it, and where it leaves the canvas free the
  // transparent colour shows or else the palette's first.
  Image image{.width = std::max(gif->SWidth, frame.Left + frame.Width),
              .height = std::max(gif->SHeight, frame.Top + frame.Height)};
  M3_TRY_STATUS(check_image_size(image.width, image.height, source));
  const Palette palette = palette_of(gif.get(), transparent);
  const auto& ground = transparent >= 0 ? kWhite : palette[0];
  image.rgb.resize(image.width * image.height * 3);
  for (std::size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = ground[i % 3];
  if (!draw(gif.get(), palette, image)) return damaged();
  return image;
}

}  // namespace m3
