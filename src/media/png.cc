#include <png.h>

#include <cstdio>
#include <cstring>

#include "media/image_formats.h"
#include "media/orientation.h"

namespace m3 {
namespace {

// Compressed metadata may expand to anything: this much of one chunk is enough for any real one.
constexpr png_alloc_size_t kChunkBytesMax = 16 << 20;
constexpr png_uint_32 kSideMax = PNG_UINT_31_MAX;  // the limit on pixels is ours

struct PngReader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::span<const std::byte> rest;
  std::jmp_buf failed;
  char message[160] = "out of memory";

  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
  std::snprintf(reader->message, sizeof reader->message, "%s", message);
  std::longjmp(reader->failed, 1);
}

void on_warning(png_structp, png_const_charp) {}

void read_bytes(png_structp png, png_bytep out, std::size_t size) {
  auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
  if (size > reader->rest.size()) png_error(png, "it is truncated");
  std::memcpy(out, reader->rest.data(), size);
  reader->rest = reader->rest.subspan(size);
}

void read_header(PngReader& reader) {
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_error, on_warning);
  if (reader.png == nullptr) std::longjmp(reader.failed, 1);
  reader.info = png_create_info_struct(reader.png);
  if (reader.info == nullptr) std::longjmp(reader.failed, 1);
  png_set_read_fn(reader.png, &reader, read_bytes);
  png_set_user_limits(reader.png, kSideMax, kSideMax);
  png_set_chunk_malloc_max(reader.png, kChunkBytesMax);
  png_read_info(reader.png, reader.info);
}

// Everything to 8 bits of RGB or RGBA. Returns the number of passes over the rows.
int ask_for_rgb(PngReader& reader) {
  png_set_expand(reader.png);  // palettes, fewer than 8 bits, transparent colours
  png_set_strip_16(reader.png);
  png_set_gray_to_rgb(reader.png);
  const int passes = png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  return passes;
}

// The rest of the file holds the end mark, without which it is truncated, and maybe EXIF.
void read_rows(PngReader& reader, int passes, std::uint8_t* out) {
  const std::size_t row_bytes = png_get_rowbytes(reader.png, reader.info);
  const png_uint_32 height = png_get_image_height(reader.png, reader.info);
  for (int pass = 0; pass < passes; ++pass)
    for (png_uint_32 y = 0; y < height; ++y) png_read_row(reader.png, out + y * row_bytes, nullptr);
  png_read_end(reader.png, reader.info);
}

int orientation_of(PngReader& reader) {
  png_bytep exif = nullptr;
  png_uint_32 size = 0;
  if (png_get_eXIf_1(reader.png, reader.info, &size, &exif) == 0) return kUpright;
  return exif_orientation(std::as_bytes(std::span(exif, size)));
}

}  // namespace

Result<Image> decode_png(const ImageSource& source) {
  PngReader reader;
  reader.rest = source.bytes;
  const auto damaged = [&] {
    return fail("{} is a damaged PNG: {}", source.where, reader.message);
  };
  if (!finishes(reader.failed, [&] { read_header(reader); })) return damaged();
  Image image{.width = png_get_image_width(reader.png, reader.info),
              .height = png_get_image_height(reader.png, reader.info)};
  M3_TRY_STATUS(check_image_size(image.width, image.height, source));
  int passes = 1;
  if (!finishes(reader.failed, [&] { passes = ask_for_rgb(reader); })) return damaged();
  image.rgb.resize(image.height * png_get_rowbytes(reader.png, reader.info));
  if (!finishes(reader.failed, [&] { read_rows(reader, passes, image.rgb.data()); }))
    return damaged();
  if (png_get_channels(reader.png, reader.info) == 4) flatten_over_white(image.rgb);
  return turn_upright(std::move(image), orientation_of(reader));
}

}  // namespace m3
