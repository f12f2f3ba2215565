// `m3 vision`: pictures and clips as the rows that the vision tower reads, or as what it makes of
// them.
#include <CLI/CLI.hpp>

#include "apps/commands.h"
#include "apps/media_notes.h"
#include "apps/model_options.h"
#include "apps/pixel_file.h"
#include "apps/progress_bar.h"
#include "checkpoint/safetensors.h"

namespace m3 {
namespace {

struct VisionOptions {
  ModelOptions model;
  std::vector<std::string> images;
  std::string video;
  double fps = 1;
  std::string rows;
  bool rows_only = false;
  std::string out;
};

// Everything that was given, one after the other.
struct VisionInput {
  PixelFile pixels;
  std::vector<std::int32_t> kept;  // of a clip: frames
};

Result<VisionInput> join(std::vector<MediaInput> inputs) {
  VisionInput joined;
  std::int64_t rows = 0, columns = 0;
  for (const MediaInput& input : inputs) {
    const Grid& grid = input.pixels.grid;
    joined.pixels.grids.push_back({grid.t, grid.h, grid.w});
    rows += grid.rows();
    columns = std::ssize(input.pixels.values) / grid.rows();
    for (const std::int64_t frame : input.kept)
      joined.kept.push_back(static_cast<std::int32_t>(frame));
  }
  M3_TRY(joined.pixels.memory, Buffer::allocate(rows * columns * dtype_size(DType::kF32)));
  joined.pixels.pixels = joined.pixels.memory.tensor(DType::kF32, {rows, columns});
  float* out = joined.pixels.pixels.as<float>();
  for (const MediaInput& input : inputs)
    out = std::copy(input.pixels.values.begin(), input.pixels.values.end(), out);
  return joined;
}

Result<VisionInput> read_input(const VisionOptions& o, const Config& config) {
  M3_TRY(const auto options, preprocess_options(o.model.model, config));
  VisionInput input;
  if (!o.rows.empty()) {
    M3_TRY(input.pixels, read_pixel_file(o.rows, *config.vision));
    return input;
  }
  std::vector<MediaInput> inputs;
  for (const std::string& path : o.images) {
    M3_TRY(inputs.emplace_back(), read_image(path, options));
  }
  if (!o.video.empty()) {
    M3_TRY(inputs.emplace_back(), read_video(o.video, o.fps, options));
  }
  print_notes(inputs);
  return join(std::move(inputs));
}

Status write_rows(const VisionInput& input, const std::string& path) {
  std::vector<std::int64_t> sides;
  for (const MediaGrid& grid : input.pixels.grids)
    sides.insert(sides.end(), {grid.t, grid.h, grid.w});
  std::vector<std::int32_t> kept = input.kept;
  std::vector<NamedTensor> tensors{
      {"pixel_values", input.pixels.pixels},
      {"grid_thw", Tensor(sides.data(), DType::kI64, {std::ssize(input.pixels.grids), 3})}};
  if (!kept.empty())
    tensors.push_back({"kept", Tensor(kept.data(), DType::kI32, {std::ssize(kept)})});
  return write_safetensors(path, tensors);
}

Status write_features(const VisionInput& input, const LoadedModel& loaded,
                      const std::string& path) {
  const Config& config = loaded.config();
  std::int64_t tokens = 0;
  for (const MediaGrid& grid : input.pixels.grids) tokens += media_tokens(grid, *config.vision);
  M3_TRY(const Buffer memory, Buffer::allocate(tokens * config.hidden * dtype_size(DType::kF32)));
  const Tensor features = memory.tensor(DType::kF32, {tokens, config.hidden});
  const VisionTower tower(config, *loaded.model->weights().vision, *loaded.backend);
  {
    ProgressBar bar(kLookingAtMedia, "tokens");
    tower.encode(input.pixels.pixels, input.pixels.grids, features, {.progress = bar.callback()});
  }
  const std::vector<NamedTensor> tensors{{"features", features}};
  return write_safetensors(path, tensors);
}

Status run_vision(const VisionOptions& options) {
  if (options.rows_only) {
    M3_TRY(const Config config, load_config(options.model.model));
    M3_TRY(const auto input, read_input(options, config));
    return write_rows(input, options.out);
  }
  M3_TRY(const auto loaded, load_model(options.model));
  if (loaded->config().vision && !loaded->model->weights().vision)
    return fail("--language-model-only leaves out the vision tower: add --rows-only to do without");
  M3_TRY(const auto input, read_input(options, loaded->config()));
  return write_features(input, *loaded, options.out);
}

}  // namespace

void add_vision(CLI::App& app, Run& run) {
  auto options = std::make_shared<VisionOptions>();
  CLI::App* command =
      app.add_subcommand("vision", "Write what the vision tower makes of pictures or a clip");
  add_model_options(*command, options->model);
  CLI::Option* image = command
                           ->add_option("--image", options->images,
                                        "PNG, JPEG, WebP or GIF file; may be given more than once")
                           ->allow_extra_args(false)
                           ->take_all();
  CLI::Option* video =
      command->add_option("--video", options->video, "MP4, MOV, MKV, WebM or AVI file")
          ->excludes(image);
  command->add_option("--fps", options->fps, "frames to keep of a second of the clip")
      ->capture_default_str()
      ->needs(video);
  CLI::Option* rows = command
                          ->add_option("--rows", options->rows,
                                       "safetensors file with pixel_values and grid_thw, as "
                                       "--rows-only writes it")
                          ->excludes(image)
                          ->excludes(video);
  command->add_flag("--rows-only", options->rows_only, "write the rows of pixels that it reads")
      ->excludes(rows);
  command->add_option("--out", options->out, "safetensors file to write")->required();
  command->callback([=, &run] {
    if (options->images.empty() && options->video.empty() && options->rows.empty())
      throw CLI::RequiredError("--image, --video or --rows");
    run = [options] { return run_vision(*options); };
  });
}

}  // namespace m3
