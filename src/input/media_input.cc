#include "input/media_input.h"

#include "input/media_part.h"
#include "media/source.h"
#include "media/video.h"

namespace m3 {
namespace {

// Every part of the messages that is a picture or clip, in order: body(message, place, part).
template <typename Body>
Status for_each_media_part(const Json& messages, const Body& body) {
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const Json* content = find_member(messages[i], "content");
    if (content == nullptr || !content->is_array()) continue;
    for (std::size_t place = 0; place < content->size(); ++place) {
      const Json& part = (*content)[place];
      const std::string* type = find_string(part, "type");
      if (type != nullptr && (*type == "image" || *type == "video"))
        M3_TRY_STATUS(body(i, place, part));
    }
  }
  return {};
}

}  // namespace

Tensor pixel_tensor(const PixelRows& pixels) {
  const std::int64_t rows = pixels.grid.rows();
  // The tower only reads them; a tensor cannot say so.
  auto* values = const_cast<float*>(pixels.values.data());
  return {values, DType::kF32, {rows, std::ssize(pixels.values) / rows}};
}

Result<PreprocessOptions> preprocess_options(const std::string& directory, const Config& config) {
  if (!config.vision)
    return fail("{} is a text model: its config.json has no vision_config", directory);
  if (config.vision->channels != 3)
    return fail("{}/config.json: vision_config.num_channels is {}, but pictures have 3", directory,
                config.vision->channels);
  PreprocessOptions options{.patch = config.vision->patch,
                            .merge = config.vision->spatial_merge,
                            .temporal_patch = config.vision->temporal_patch};
  M3_TRY_STATUS(read_preprocess_options(directory, options));
  return options;
}

Result<MediaInput> read_image(const std::string& address, const PreprocessOptions& options) {
  M3_TRY(const MediaSource source, MediaSource::open(address));
  M3_TRY(Image image, decode_image(source.bytes(), source.name()));
  auto rows = image_rows(std::move(image), options);
  if (!rows) return fail("{}: {}", source.name(), rows.error().message);
  MediaInput input{.pixels = std::move(*rows), .shape = {.kind = MediaShape::Kind::kImage}};
  input.shape.tokens_per_group = input.pixels.grid.rows() / (options.merge * options.merge);
  return input;
}

Result<MediaInput> read_video(const std::string& address, double fps,
                              const PreprocessOptions& options) {
  M3_TRY(const MediaSource source, MediaSource::open(address));
  M3_TRY(Clip clip, decode_video(source.bytes(), source.name(), fps, options));
  const Grid grid = clip.rows.grid;
  MediaInput input{.pixels = std::move(clip.rows), .shape = {.kind = MediaShape::Kind::kVideo}};
  input.shape.groups = grid.t;
  input.shape.tokens_per_group = grid.h * grid.w / (options.merge * options.merge);
  // A group's time is that of its first frame (spec: vision §5.2).
  for (std::int64_t g = 0; g < grid.t; ++g) {
    const std::int64_t last = std::ssize(clip.kept) - 1;
    const std::int64_t frame = std::min(options.temporal_patch * g, last);
    input.shape.seconds.push_back(static_cast<double>(clip.kept[static_cast<std::size_t>(frame)]) /
                                  clip.fps);
  }
  input.kept = std::move(clip.kept);
  input.notes = std::move(clip.notes);
  return input;
}

Result<std::vector<MediaInput>> read_message_media(const Json& messages, std::string_view where,
                                                   double fps, const PreprocessOptions& options,
                                                   const AddressRule& rule) {
  std::vector<MediaInput> inputs;
  const auto read = [&](std::size_t i, std::size_t place, const Json& part) -> Status {
    auto input = read_media_part(part, fps, options, rule);
    if (!input && where.empty()) return fail("{}", input.error().message);
    if (!input)
      return fail("{}: messages[{}].content[{}]: {}", where, i, place, input.error().message);
    inputs.push_back(std::move(*input));
    return {};
  };
  M3_TRY_STATUS(for_each_media_part(messages, read));
  return inputs;
}

MediaCount count_media(const Json& messages) {
  MediaCount count;
  const auto add = [&](std::size_t, std::size_t, const Json& part) -> Status {
    ++(*find_string(part, "type") == "image" ? count.images : count.videos);
    return {};
  };
  [[maybe_unused]] const Status status = for_each_media_part(messages, add);
  return count;
}

Result<std::vector<TokenId>> encode_prompt(const Prompt& prompt, std::span<const MediaInput> inputs,
                                           const Tokenizer& tokenizer) {
  std::vector<MediaShape> shapes;
  for (const MediaInput& input : inputs) shapes.push_back(input.shape);
  M3_TRY(const auto ids, tokenizer.encode(prompt.text(), prompt.client_ranges()));
  return expand_media(ids, shapes, tokenizer);
}

MediaReader::MediaReader(const Model& model) : model_(model) {
  if (model.weights().vision) encoder_ = std::make_unique<MediaEncoder>(model);
}

Result<std::vector<std::shared_ptr<const EncodedMedia>>> MediaReader::encode(
    std::span<const MediaInput> inputs, const EncodeWatch& watch) {
  if (inputs.empty()) return std::vector<std::shared_ptr<const EncodedMedia>>();
  if (encoder_ == nullptr) return fail("--language-model-only leaves out the vision tower");
  const Config& config = model_.config();
  std::vector<PixelItem> items;
  for (const MediaInput& input : inputs) {
    const Grid& grid = input.pixels.grid;
    const bool image = input.shape.kind == MediaShape::Kind::kImage;
    items.push_back({.pixels = pixel_tensor(input.pixels),
                     .grid = {grid.t, grid.h, grid.w},
                     .token = image ? config.image_token : config.video_token});
  }
  auto encoded = encoder_->encode_all(items, watch);
  if (!encoded) return fail("stopped while the pictures were looked at");
  return std::move(*encoded);
}

Result<SplicePlan> MediaReader::plan(std::span<const TokenId> ids,
                                     std::vector<std::shared_ptr<const EncodedMedia>> media) const {
  if (media.empty()) return SplicePlan();  // a placeholder that the model itself drew is a token
  return SplicePlan::create(ids, std::move(media), model_.config());
}

}  // namespace m3
