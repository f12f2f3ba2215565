#include "model/cache.h"

#include "base/check.h"

namespace m3 {
namespace {

constexpr std::int64_t kAlignment = 4096;

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// The views of layer 0, without their strides.
KvView kv_view(const Config& config, const CacheFormat& format) {
  return {.dtype = format.kv,
          .order = format.order,
          .page_tokens = config.block_tokens,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim};
}
IndexView index_view(const Config& config, const CacheFormat& format) {
  return {.dtype = format.index,
          .order = format.order,
          .page_tokens = config.block_tokens,
          .dim = config.index_dim};
}

// Bytes of K and V of one (page, layer, head).
std::int64_t kv_unit(const Config& config, const CacheFormat& format) {
  return aligned(kv_view(config, format).head_bytes());
}

// Bytes of the index keys of one (page, sparse layer).
std::int64_t index_unit(const Config& config, const CacheFormat& format) {
  return aligned(index_view(config, format).keys(0).bytes());
}

}  // namespace

CacheFormat CacheTypes::on(const Backend& backend) const {
  CacheFormat format = backend.cache_format();
  format.kv = kv.value_or(format.kv);
  format.index = index.value_or(format.index);
  return format;
}

PageBytes page_bytes(const Config& config, const CacheFormat& format, std::int64_t mtp_modules) {
  return {.kv = (config.layers + mtp_modules) * config.kv_heads * kv_unit(config, format),
          .index = (config.sparse_layer_count() + mtp_modules) * index_unit(config, format)};
}

Result<PagedCache> PagedCache::create(const Config& config, const CacheFormat& format,
                                      std::int64_t pages, std::int64_t mtp_modules) {
  const PageBytes bytes = page_bytes(config, format, mtp_modules);
  PagedCache cache;
  cache.pages_ = pages;
  cache.page_tokens_ = config.block_tokens;
  M3_TRY(cache.kv_pool_, Buffer::allocate(pages * bytes.kv));
  M3_TRY(cache.index_pool_, Buffer::allocate(pages * bytes.index));
  cache.kv_ = kv_view(config, format);
  cache.kv_.base = cache.kv_pool_.data();
  cache.kv_.page_stride = bytes.kv;
  cache.kv_.head_stride = kv_unit(config, format);
  cache.kv_layer_stride_ = config.kv_heads * kv_unit(config, format);
  cache.index_ = index_view(config, format);
  cache.index_.base = cache.index_pool_.data();
  cache.index_.page_stride = bytes.index;
  cache.index_layer_stride_ = index_unit(config, format);
  std::int64_t place = 0;
  for (const bool sparse : config.sparse_layers)
    cache.index_place_.push_back(sparse ? place++ : -1);
  for (std::int64_t module = 0; module < mtp_modules; ++module)
    cache.index_place_.push_back(place++);
  return cache;
}

KvView PagedCache::kv(std::int64_t layer) const {
  KvView view = kv_;
  view.base += layer * kv_layer_stride_;
  return view;
}

IndexView PagedCache::index(std::int64_t layer) const {
  const std::int64_t place = index_place_.at(static_cast<std::size_t>(layer));
  M3_CHECK(place >= 0, "layer {} has no index keys", layer);
  IndexView view = index_;
  view.base += place * index_layer_stride_;
  return view;
}

}  // namespace m3
