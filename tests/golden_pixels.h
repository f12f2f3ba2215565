// The pictures and clips of the goldens, as the tower reads them.
#pragma once

#include <cstring>
#include <vector>

#include "model/vision.h"
#include "tests/golden_file.h"

namespace m3 {

// Pixel rows with their grids.
struct Pixels {
  Buffer memory;
  Tensor rows;
  std::vector<MediaGrid> grids;

  // Rows [begin, end) as one tensor.
  std::int64_t first_row(std::size_t item) const {
    std::int64_t row = 0;
    for (std::size_t i = 0; i < item; ++i) row += grids[i].rows();
    return row;
  }
};

// The goldens keep levels: of one frame where both are the same, as in pictures (spec: vision
// §3.4).
inline Pixels pixels_of(const GoldenFile& golden) {
  constexpr float kMean[] = {0.48145466f, 0.4578275f, 0.40821073f};
  constexpr float kStd[] = {0.26862954f, 0.26130258f, 0.27577711f};
  constexpr std::int64_t kPatch = 14 * 14;
  const Tensor levels = golden.at("levels"), grids = golden.at("grid_thw");
  const std::int64_t rows = levels.dim(0), frames = levels.dim(1) / (3 * kPatch);
  Pixels pixels;
  pixels.memory = Buffer(rows * 3 * 2 * kPatch * 4);
  pixels.rows = pixels.memory.tensor(DType::kF32, {rows, 3 * 2 * kPatch});
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t i = 0; i < 3 * 2 * kPatch; ++i) {
      const std::int64_t channel = i / (2 * kPatch), frame = i / kPatch % 2 % frames;
      const auto level = static_cast<float>(
          levels.row<std::uint8_t>(row)[(channel * frames + frame) * kPatch + i % kPatch]);
      pixels.rows.row<float>(row)[i] = (level / 255 - kMean[channel]) / kStd[channel];
    }
  for (std::int64_t item = 0; item < grids.dim(0); ++item) {
    std::int64_t sides[3];
    std::memcpy(sides, static_cast<const std::byte*>(grids.data) + item * 24, sizeof sides);
    pixels.grids.push_back({sides[0], sides[1], sides[2]});
  }
  return pixels;
}

}  // namespace m3
