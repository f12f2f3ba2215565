// Pictures and clips on their way into a prompt: encoded once, however often they come back.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/model.h"
#include "model/splice.h"
#include "model/vision.h"

namespace m3 {

// One picture or clip in front of the vision tower.
struct PixelItem {
  Tensor pixels;  // [grid.rows(), pixel_row_size] F32
  MediaGrid grid;
  std::int32_t token = 0;  // its placeholder id
};

// Keeps what it encoded last, by content, until `cache_bytes` of features are exceeded (spec:
// vision §8); features that a prompt still holds outlive that.
class MediaEncoder {
 public:
  static constexpr std::int64_t kCacheBytes = std::int64_t{1} << 30;

  // The model has a vision tower and outlives the encoder, which keeps so many bytes of embeddings.
  explicit MediaEncoder(const Model& model, std::int64_t cache_bytes = kCacheBytes);

  // Null if it was cancelled.
  std::shared_ptr<const EncodedMedia> encode(const PixelItem& item, const EncodeWatch& watch = {});
  // One after the other; progress counts the embeddings of all. Nothing if it was cancelled.
  std::optional<std::vector<std::shared_ptr<const EncodedMedia>>> encode_all(
      std::span<const PixelItem> items, const EncodeWatch& watch);
  std::int64_t encoded() const { return encoded_; }  // items that ran through the tower

 private:
  const Model& model_;
  VisionTower tower_;
  std::int64_t cache_bytes_;
  std::int64_t encoded_ = 0;
  std::list<std::shared_ptr<const EncodedMedia>> cache_;  // latest use first
};

}  // namespace m3
