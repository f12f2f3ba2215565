// Frames cut into the rows that the vision tower reads.
#pragma once

#include "media/image.h"
#include "media/preprocess_options.h"

namespace m3 {

// Sizes in patches; t counts groups of `temporal_patch` frames.
struct Grid {
  std::int64_t t = 0;
  std::int64_t h = 0;
  std::int64_t w = 0;

  std::int64_t rows() const { return t * h * w; }
  friend bool operator==(const Grid&, const Grid&) = default;
};

// One row per patch: x = (level / 255 - mean) / std of its pixels. Rows run over t, the blocks of
// merge x merge patches from top left to bottom right, then the patches of a block in the same
// order; columns over channel, frame of the group, pixel row, pixel column (spec: vision §3.4-3.6).
struct PixelRows {
  std::vector<float> values;  // [grid.rows(), 3 * temporal_patch * patch^2]: 1,176 columns
  Grid grid;
};

// Numbers of one row.
std::int64_t row_columns(const PreprocessOptions& options);

// Frames of one size, whose sides are multiples of patch * merge; at least one. Where the last
// group is not full, the last frame is repeated: a picture is shown in every frame of its group.
PixelRows cut_into_rows(std::span<const Image> frames, const PreprocessOptions& options);

// A picture at the size at which the model sees it. Errors: as image_size().
Result<PixelRows> image_rows(Image image, const PreprocessOptions& options);

}  // namespace m3
