// The paged cache: K and V of every layer in one pool, index keys of the sparse layers in another.
//
// A page id stands for `page_tokens` tokens of one sequence in all layers and in both pools, so
// index keys live and die with their K/V (spec: text-model §4). Page = block of the sparse
// attention, so a page id is a block's address. Pages are whole in memory: page-major, then layer,
// then head, each (page, layer, head) 4 KiB aligned, ready to be moved to a disk or a device in one
// piece.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "ops/backend.h"
#include "ops/cache.h"

namespace m3 {

// With MTP modules, module D is layer config.layers + D of the cache, sparse: what a sequence has
// drafted from lives and dies with the rest of it.

// The types that a user asks for; where he does not, the backend's own.
struct CacheTypes {
  std::optional<DType> kv;     // BF16 or F8_E4M3
  std::optional<DType> index;  // the same, of the index keys

  CacheFormat on(const Backend& backend) const;
};

// Bytes of one page in both pools, alignment included.
struct PageBytes {
  std::int64_t kv = 0;
  std::int64_t index = 0;
  std::int64_t total() const { return kv + index; }
};
PageBytes page_bytes(const Config& config, const CacheFormat& format, std::int64_t mtp_modules = 0);

class PagedCache {
 public:
  // Room for `pages` pages. Memory is taken from the system as pages are first written. Errors: the
  // system refuses the address space.
  static Result<PagedCache> create(const Config& config, const CacheFormat& format,
                                   std::int64_t pages, std::int64_t mtp_modules = 0);

  std::int64_t pages() const { return pages_; }
  std::int64_t page_tokens() const { return page_tokens_; }

  KvView kv(std::int64_t layer) const;
  // `layer` must be sparse.
  IndexView index(std::int64_t layer) const;

 private:
  PagedCache() = default;
  std::int64_t pages_ = 0;
  std::int64_t page_tokens_ = 0;
  KvView kv_;                              // of layer 0
  std::int64_t kv_layer_stride_ = 0;       // bytes
  IndexView index_;                        // of the first sparse layer
  std::int64_t index_layer_stride_ = 0;    // bytes
  std::vector<std::int64_t> index_place_;  // [layers, modules]: place among sparse ones, or -1
  Buffer kv_pool_;
  Buffer index_pool_;
};

}  // namespace m3
