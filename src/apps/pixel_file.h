// Pixel rows as they stand in a file, for comparing: `--rows`.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/media_encoder.h"

namespace m3 {

struct PixelFile {
  Buffer memory;
  Tensor pixels;                 // [rows, pixel_row_size] F32, in `memory`
  std::vector<MediaGrid> grids;  // their rows follow each other
};

// A safetensors file with pixel_values F32 and grid_thw I64 [items, 3]. Errors: either is missing
// or misshapen, a grid that is empty or no multiple of the merge size, or rows that do not add up.
Result<PixelFile> read_pixel_file(const std::string& path, const VisionConfig& config);

// Its pictures, or clips where the prompt has placeholders of clips alone. They lie in `file`.
std::vector<PixelItem> pixel_items(const PixelFile& file, std::span<const std::int32_t> ids,
                                   const Config& config);

// Errors: the model has no vision tower, or was loaded without.
Status expect_vision(const Model& model);

// Encodes the items of a file for a prompt that has their placeholders: pictures, or clips where
// it has placeholders of clips alone. Errors: the model has no vision tower, or the counts differ.
Result<SplicePlan> splice_pixel_file(const std::string& path, std::span<const std::int32_t> ids,
                                     const Model& model);

// For ids that come without pixels. Errors: some of them are placeholders (spec: vision §5.3).
Status expect_no_placeholder(std::span<const std::int32_t> ids, const Config& config);

}  // namespace m3
