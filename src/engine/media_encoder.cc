#include "engine/media_encoder.h"

#include <algorithm>

#include "base/random.h"

namespace m3 {
namespace {

std::uint64_t content_hash(const PixelItem& item) {
  std::uint64_t hash = mix64(static_cast<std::uint64_t>(item.token));
  for (const std::int64_t side : {item.grid.t, item.grid.h, item.grid.w})
    hash = mix64(hash ^ static_cast<std::uint64_t>(side));
  const auto* values = reinterpret_cast<const std::uint32_t*>(item.pixels.as<float>());
  for (std::int64_t i = 0; i < item.pixels.elements(); ++i) hash = mix64(hash ^ values[i]);
  return hash;
}

}  // namespace

MediaEncoder::MediaEncoder(const Model& model, std::int64_t cache_bytes)
    : model_(model),
      tower_(model.config(), *model.weights().vision, model.backend()),
      cache_bytes_(cache_bytes) {}

std::shared_ptr<const EncodedMedia> MediaEncoder::encode(const PixelItem& item,
                                                         const EncodeWatch& watch) {
  const std::uint64_t hash = content_hash(item);
  const auto found = std::find_if(cache_.begin(), cache_.end(), [&](const auto& cached) {
    return cached->hash == hash && cached->token == item.token;
  });
  if (found != cache_.end()) {
    cache_.splice(cache_.begin(), cache_, found);
    return cache_.front();
  }
  auto media = std::make_shared<EncodedMedia>();
  const Config& config = model_.config();
  const std::int64_t tokens = media_tokens(item.grid, *config.vision);
  media->memory = Buffer(tokens * config.hidden * dtype_size(DType::kF32));
  media->features = media->memory.tensor(DType::kF32, {tokens, config.hidden});
  media->token = item.token;
  media->hash = hash;
  if (!tower_.encode(item.pixels, std::span(&item.grid, 1), media->features, watch)) return nullptr;
  ++encoded_;
  cache_.push_front(media);
  std::int64_t bytes = 0;
  const auto too_much = std::find_if(cache_.begin(), cache_.end(), [&](const auto& cached) {
    return (bytes += cached->memory.bytes()) > cache_bytes_;
  });
  cache_.erase(too_much, cache_.end());
  return media;
}

std::optional<std::vector<std::shared_ptr<const EncodedMedia>>> MediaEncoder::encode_all(
    std::span<const PixelItem> items, const EncodeWatch& watch) {
  std::int64_t total = 0, done = 0;
  for (const PixelItem& item : items) total += media_tokens(item.grid, *model_.config().vision);
  EncodeWatch of_item{.cancelled = watch.cancelled};
  if (watch.progress)
    of_item.progress = [&](std::int64_t tokens, std::int64_t) {
      watch.progress(done + tokens, total);
    };
  std::vector<std::shared_ptr<const EncodedMedia>> encoded;
  for (const PixelItem& item : items) {
    encoded.push_back(encode(item, of_item));
    if (encoded.back() == nullptr) return std::nullopt;
    done += encoded.back()->features.dim(0);
  }
  return encoded;
}

}  // namespace m3
