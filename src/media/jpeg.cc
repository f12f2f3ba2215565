// After <cstdio>: jpeglib.h uses FILE and does not include it.
#include <cstdio>
// clang-format off
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include "media/image_formats.h"
#include "media/orientation.h"

namespace m3 {
namespace {

// A progressive picture draws itself in some ten scans. Each costs time for the whole picture even
// when it holds a few bytes, so a file that has more than this is meant to hurt.
constexpr int kScansMax = 100;

struct JpegReader {
  jpeg_decompress_struct info = {};
  jpeg_error_mgr errors = {};
  jpeg_progress_mgr progress = {};
  std::jmp_buf failed;
  char message[JMSG_LENGTH_MAX] = "";

  ~JpegReader() { jpeg_destroy_decompress(&info); }
};

JpegReader& reader_of(j_common_ptr info) {
  return *static_cast<JpegReader*>(info->client_data);
}

[[noreturn]] void stop(j_common_ptr info, const char* message) {
  JpegReader& reader = reader_of(info);
  std::snprintf(reader.message, sizeof reader.message, "%s", message);
  std::longjmp(reader.failed, 1);
}

[[noreturn]] void on_error(j_common_ptr info) {
  char message[JMSG_LENGTH_MAX];
  info->err->format_message(info, message);
  stop(info, message);
}

// libjpeg goes on with grey where coded pixels are missing or wrong; we do not. Its other warnings
// are about bytes between the segments, which cameras write and which do no harm.
void on_message(j_common_ptr info, int level) {
  if (level >= 0) return;
  const int code = info->err->msg_code;
  if (code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE || code == JWRN_ARITH_BAD_CODE)
    on_error(info);
}

boolean on_end(j_decompress_ptr info) {
  stop(reinterpret_cast<j_common_ptr>(info), "it is truncated");
}

void on_progress(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kScansMax)
    stop(info, "it has too many scans");
}

void read_header(JpegReader& reader, std::span<const std::byte> bytes) {
  jpeg_decompress_struct& info = reader.info;
  info.err = jpeg_std_error(&reader.errors);
  reader.errors.error_exit = on_error;
  reader.errors.emit_message = on_message;
  info.client_data = &reader;
  jpeg_create_decompress(&info);  // keeps err and client_data
  reader.progress.progress_monitor = on_progress;
  info.progress = &reader.progress;
  jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  info.src->fill_input_buffer = on_end;
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&info, TRUE);
  const bool inks = info.num_components == 4;
  info.out_color_space = inks ? JCS_CMYK : JCS_RGB;
}

int orientation_of(const jpeg_decompress_struct& info) {
  for (const auto* marker = info.marker_list; marker != nullptr; marker = marker->next) {
    const auto data = std::as_bytes(std::span(marker->data, marker->data_length));
    if (marker->marker != JPEG_APP0 + 1 || data.size() < 6 || data[0] != std::byte{'E'}) continue;
    if (const int orientation = exif_orientation(data); orientation != kUpright) return orientation;
  }
  return kUpright;
}

// Inks are stored inverted, as Adobe's programs write them: 255 is no ink.
void inks_to_rgb(const std::uint8_t* cmyk, std::int64_t pixels, std::uint8_t* rgb) {
  for (; pixels > 0; --pixels, cmyk += 4, rgb += 3)
    for (int c = 0; c < 3; ++c) rgb[c] = static_cast<std::uint8_t>((cmyk[c] * cmyk[3] + 127) / 255);
}

// `inks` is room for one row of CMYK.
void read_rows(jpeg_decompress_struct& info, std::uint8_t* inks, std::uint8_t* rgb) {
  jpeg_start_decompress(&info);
  while (info.output_scanline < info.output_height) {
    std::uint8_t* row = rgb + std::size_t{info.output_scanline} * info.output_width * 3;
    std::uint8_t* target = info.out_color_components == 4 ? inks : row;
    jpeg_read_scanlines(&info, &target, 1);
    if (target == inks) inks_to_rgb(inks, info.output_width, row);
  }
  jpeg_finish_decompress(&info);  // looks for the end mark
}

}  // namespace

Result<Image> decode_jpeg(const ImageSource& source) {
  JpegReader reader;
  const auto damaged = [&] {
    return fail("{} is a damaged or unusual JPEG: {}", source.where, reader.message);
  };
  if (!finishes(reader.failed, [&] { read_header(reader, source.bytes); })) return damaged();
  Image image{.width = reader.info.image_width, .height = reader.info.image_height};
  M3_TRY_STATUS(check_image_size(image.width, image.height, source));
  const int orientation = orientation_of(reader.info);  // while its bytes are there
  image.rgb.resize(image.width * image.height * 3);
  std::vector<std::uint8_t> inks(image.width * 4);
  const auto read = [&] { read_rows(reader.info, inks.data(), image.rgb.data()); };
  if (!finishes(reader.failed, read)) return damaged();
  return turn_upright(std::move(image), orientation);
}

}  // namespace m3
