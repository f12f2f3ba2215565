#include "media/pixel_rows.h"

#include <algorithm>

#include "base/check.h"

namespace m3 {
namespace {

using Levels = std::array<float, 256>;

// What each of the 256 levels of a channel becomes (spec: vision §3.4).
std::array<Levels, 3> normalised_levels(const PreprocessOptions& options) {
  std::array<Levels, 3> table;
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t level = 0; level < 256; ++level)
      table[c][level] = (static_cast<float>(level) / 255.0f - options.mean[c]) / options.std[c];
  return table;
}

class RowWriter {
 public:
  RowWriter(std::span<const Image> frames, const PreprocessOptions& options)
      : frames_(frames), options_(options), levels_(normalised_levels(options)) {}

  // One patch, whose first pixel is (x, y), in the frames from `first` on. Returns its end.
  float* write(std::int64_t first, std::int64_t y, std::int64_t x, float* out) const {
    for (std::size_t c = 0; c < 3; ++c)
      for (std::int64_t f = 0; f < options_.temporal_patch; ++f) {
        const auto last = static_cast<std::int64_t>(frames_.size()) - 1;
        out = write_channel(frames_[std::min(first + f, last)], c, y, x, out);
      }
    return out;
  }

 private:
  float* write_channel(const Image& frame, std::size_t channel, std::int64_t y, std::int64_t x,
                       float* out) const {
    for (std::int64_t row = y; row < y + options_.patch; ++row) {
      const std::uint8_t* pixel = &frame.rgb[(row * frame.width + x) * 3] + channel;
      for (std::int64_t i = 0; i < options_.patch; ++i) *out++ = levels_[channel][pixel[3 * i]];
    }
    return out;
  }

  std::span<const Image> frames_;
  const PreprocessOptions& options_;
  std::array<Levels, 3> levels_;
};

Grid grid_of(std::span<const Image> frames, const PreprocessOptions& options) {
  M3_CHECK(!frames.empty(), "a clip without frames");
  const Image& first = frames.front();
  const std::int64_t factor = options.patch * options.merge;
  M3_CHECK(first.width % factor == 0 && first.height % factor == 0, "{} x {} is no multiple of {}",
           first.width, first.height, factor);
  for (const Image& frame : frames)
    M3_CHECK(frame.width == first.width && frame.height == first.height,
             "{} x {} among frames of {} x {}", frame.width, frame.height, first.width,
             first.height);
  const auto count = static_cast<std::int64_t>(frames.size());
  return {.t = (count + options.temporal_patch - 1) / options.temporal_patch,
          .h = first.height / options.patch,
          .w = first.width / options.patch};
}

}  // namespace

std::int64_t row_columns(const PreprocessOptions& options) {
  return 3 * options.temporal_patch * options.patch * options.patch;
}

PixelRows cut_into_rows(std::span<const Image> frames, const PreprocessOptions& options) {
  PixelRows rows{.values = {}, .grid = grid_of(frames, options)};
  rows.values.resize(rows.grid.rows() * row_columns(options));
  const RowWriter writer(frames, options);
  float* out = rows.values.data();
  const auto [groups, height, width] = rows.grid;
  const std::int64_t merge = options.merge;
  for (std::int64_t t = 0; t < groups; ++t)
    for (std::int64_t block_h = 0; block_h < height; block_h += merge)
      for (std::int64_t block_w = 0; block_w < width; block_w += merge)
        for (std::int64_t h = block_h; h < block_h + merge; ++h)
          for (std::int64_t w = block_w; w < block_w + merge; ++w)
            out =
                writer.write(t * options.temporal_patch, h * options.patch, w * options.patch, out);
  return rows;
}

Result<PixelRows> image_rows(Image image, const PreprocessOptions& options) {
  M3_TRY(const Size size, options.image_size({image.width, image.height}));
  const Image resized = resize_bicubic(std::move(image), size);
  return cut_into_rows({&resized, 1}, options);
}

}  // namespace m3
