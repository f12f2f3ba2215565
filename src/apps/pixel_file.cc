#include "apps/pixel_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "apps/media_notes.h"
#include "apps/progress_bar.h"
#include "checkpoint/safetensors.h"

namespace m3 {
namespace {

constexpr std::int64_t kSideMax = 1 << 20;  // patches: far beyond any picture, and no overflow

Result<Tensor> find_tensor(const SafetensorsFile& file, const char* name, DType dtype) {
  const TensorInfo* info = file.find(name);
  if (info == nullptr || info->dtype != dtype || info->shape.size() != 2)
    return fail("{}: expected {} {} with two axes, found {}", file.path(), name, dtype_name(dtype),
                info == nullptr ? "none" : file.tensor(*info).describe());
  return file.tensor(*info);
}

Result<MediaGrid> read_grid(const Tensor& grids, std::int64_t item, const VisionConfig& config,
                            const std::string& path) {
  std::int64_t sides[3];
  // In a mapped file nothing is aligned.
  std::memcpy(sides, static_cast<const std::byte*>(grids.data) + item * std::int64_t{sizeof sides},
              sizeof sides);
  const MediaGrid grid{sides[0], sides[1], sides[2]};
  const std::int64_t merge = config.spatial_merge;
  for (const std::int64_t side : sides)
    if (side < 1 || side > kSideMax)
      return fail("{}: grid {} is {} x {} x {}, expected 1 to {} patches each way", path, item,
                  grid.t, grid.h, grid.w, kSideMax);
  if (grid.h % merge != 0 || grid.w % merge != 0)
    return fail("{}: grid {} is {} x {} patches, expected multiples of {}", path, item, grid.h,
                grid.w, merge);
  return grid;
}

}  // namespace

Result<PixelFile> read_pixel_file(const std::string& path, const VisionConfig& config) {
  PixelFile pixels;
  M3_TRY(const auto file, SafetensorsFile::open(path));
  M3_TRY(const Tensor values, find_tensor(*file, "pixel_values", DType::kF32));
  M3_TRY(const Tensor grids, find_tensor(*file, "grid_thw", DType::kI64));
  const std::int64_t width = pixel_row_size(config), rows = values.dim(0);
  if (values.dim(1) != width || grids.dim(1) != 3)
    return fail("{}: expected pixel_values [rows, {}] and grid_thw [items, 3], found {} and {}",
                path, width, values.describe(), grids.describe());
  std::int64_t expected = 0;
  for (std::int64_t item = 0; item < grids.dim(0) && expected <= rows; ++item) {
    M3_TRY(pixels.grids.emplace_back(), read_grid(grids, item, config, path));
    expected += pixels.grids.back().rows();
  }
  if (expected != rows || rows == 0)
    return fail("{}: its grids need {} rows and more than 0, but pixel_values has {}", path,
                expected, rows);
  pixels.memory = Buffer(values.bytes());
  pixels.pixels = pixels.memory.tensor(DType::kF32, {rows, width});
  std::memcpy(pixels.memory.data(), values.data, static_cast<std::size_t>(values.bytes()));
  const float* numbers = pixels.pixels.as<float>();
  for (std::int64_t i = 0; i < rows * width; ++i)
    if (!std::isfinite(numbers[i]))
      return fail("{}: pixel_values[{}, {}] is {}, which is no pixel", path, i / width, i % width,
                  numbers[i]);
  return pixels;
}

Status expect_vision(const Model& model) {
  if (!model.config().vision) return fail("--rows needs a model with a vision tower");
  if (!model.weights().vision)
    return fail("--language-model-only leaves out the vision tower, which --rows needs");
  return {};
}

std::vector<PixelItem> pixel_items(const PixelFile& file, std::span<const std::int32_t> ids,
                                   const Config& config) {
  const auto has = [&](std::int32_t token) { return token >= 0 && std::ranges::count(ids, token); };
  const bool clips = !has(config.image_token) && has(config.video_token);
  std::vector<PixelItem> items;
  std::int64_t row = 0;
  for (const MediaGrid& grid : file.grids) {
    items.push_back({.pixels = file.pixels.rows(row, row + grid.rows()),
                     .grid = grid,
                     .token = clips ? config.video_token : config.image_token});
    row += grid.rows();
  }
  return items;
}

Result<SplicePlan> splice_pixel_file(const std::string& path, std::span<const std::int32_t> ids,
                                     const Model& model) {
  const Config& config = model.config();
  M3_TRY_STATUS(expect_vision(model));
  M3_TRY(const PixelFile file, read_pixel_file(path, *config.vision));
  const std::vector<PixelItem> items = pixel_items(file, ids, config);
  MediaEncoder encoder(model);
  ProgressBar bar(kLookingAtMedia, "tokens");
  auto media = encoder.encode_all(items, {.progress = bar.callback()});
  return SplicePlan::create(ids, std::move(*media), config);
}

Status expect_no_placeholder(std::span<const std::int32_t> ids, const Config& config) {
  for (const std::int32_t id : ids)
    if (id >= 0 && (id == config.image_token || id == config.video_token))
      return fail(
          "the ids hold {} placeholders (id {}) of {}, but no pixels were given: give them with "
          "--rows",
          std::ranges::count(ids, id), id, id == config.image_token ? "pictures" : "clips");
  return {};
}

}  // namespace m3
