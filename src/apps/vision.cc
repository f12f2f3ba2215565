// `m3 vision`: pictures and clips as the rows that the vision tower reads.
#include <CLI/CLI.hpp>

#include "apps/commands.h"
#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "media/video.h"
#include "model/config.h"

namespace m3 {
namespace {

struct VisionOptions {
  std::string model;
  std::vector<std::string> images;
  std::string video;
  double fps = 1;
  bool rows_only = false;
  std::string out;
};

// What is written: everything that was given, one after the other.
struct VisionInput {
  std::vector<float> pixel_values;     // [rows, columns]
  std::vector<std::int64_t> grid_thw;  // [pictures, 3]
  std::vector<std::int32_t> kept;      // of a clip: frames

  void add(PixelRows rows) {
    grid_thw.insert(grid_thw.end(), {rows.grid.t, rows.grid.h, rows.grid.w});
    // A clip is large and comes alone: moved, not copied.
    if (pixel_values.empty())
      pixel_values = std::move(rows.values);
    else
      pixel_values.insert(pixel_values.end(), rows.values.begin(), rows.values.end());
  }
};

Result<PreprocessOptions> preprocess_options(const std::string& model) {
  M3_TRY(const Config config, load_config(model));
  if (!config.vision)
    return fail("{} is a text model: its config.json has no vision_config", model);
  if (config.vision->channels != 3)
    return fail("{}/config.json: vision_config.num_channels is {}, but pictures have 3", model,
                config.vision->channels);
  PreprocessOptions options{.patch = config.vision->patch,
                            .merge = config.vision->spatial_merge,
                            .temporal_patch = config.vision->temporal_patch};
  M3_TRY_STATUS(read_preprocess_options(model, options));
  return options;
}

Status add_image(const std::string& path, const PreprocessOptions& options, VisionInput& input) {
  M3_TRY(const auto file, MappedFile::open(path));
  M3_TRY(Image image, decode_image(file->bytes(), path));
  auto rows = image_rows(std::move(image), options);
  if (!rows) return fail("{}: {}", path, rows.error().message);
  input.add(std::move(*rows));
  return {};
}

Status add_video(const std::string& path, double fps, const PreprocessOptions& options,
                 VisionInput& input) {
  M3_TRY(const auto file, MappedFile::open(path));
  M3_TRY(Clip clip, decode_video(file->bytes(), path, fps, options));
  input.add(std::move(clip.rows));
  for (const std::int64_t frame : clip.kept) input.kept.push_back(static_cast<std::int32_t>(frame));
  return {};
}

Status write_input(VisionInput& input, std::int64_t columns, const std::string& path) {
  const auto rows = static_cast<std::int64_t>(input.pixel_values.size()) / columns;
  const auto items = static_cast<std::int64_t>(input.grid_thw.size()) / 3;
  const auto kept = static_cast<std::int64_t>(input.kept.size());
  std::vector<NamedTensor> tensors{
      {"pixel_values", Tensor(input.pixel_values.data(), DType::kF32, {rows, columns})},
      {"grid_thw", Tensor(input.grid_thw.data(), DType::kI64, {items, 3})}};
  if (kept > 0) tensors.push_back({"kept", Tensor(input.kept.data(), DType::kI32, {kept})});
  return write_safetensors(path, tensors);
}

Status run_vision(const VisionOptions& options) {
  M3_TRY(const PreprocessOptions preprocess, preprocess_options(options.model));
  VisionInput input;
  for (const std::string& path : options.images) M3_TRY_STATUS(add_image(path, preprocess, input));
  if (!options.video.empty())
    M3_TRY_STATUS(add_video(options.video, options.fps, preprocess, input));
  if (options.rows_only) return write_input(input, row_columns(preprocess), options.out);
  return fail("the vision tower is not built yet: add --rows-only to write what it would read");
}

}  // namespace

void add_vision(CLI::App& app, Run& run) {
  auto options = std::make_shared<VisionOptions>();
  CLI::App* command =
      app.add_subcommand("vision", "Write pictures or a clip as rows of pixels to a file");
  command->add_option("MODEL", options->model, "directory with config.json")->required();
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
  command->add_flag("--rows-only", options->rows_only, "stop before the vision tower");
  command->add_option("--out", options->out, "safetensors file to write")->required();
  command->callback([=, &run] {
    if (options->images.empty() && options->video.empty())
      throw CLI::RequiredError("--image or --video");
    run = [options] { return run_vision(*options); };
  });
}

}  // namespace m3
