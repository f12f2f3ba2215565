// A paged cache for the tests of ops, full of NaN except for what was written.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "backend/op_testing.h"
#include "ops/cache.h"

namespace m3 {

inline constexpr DType kCacheDTypes[] = {DType::kBF16, DType::kF8E4M3};

// x as a cache keeps it.
inline float rounded_to(DType dtype, float x) {
  return dtype == DType::kBF16 ? round_to_bf16(x) : e4m3_to_float(float_to_e4m3(x));
}

// Keys, values and index keys of some sequences. Token contents depend on sequence and slot alone;
// `page_seed` decides which page ids they get, and which lie unused between them. Everything that
// is no token is NaN.
class TestCache {
 public:
  struct Shape {
    DType dtype = DType::kBF16;
    std::int64_t page_tokens = 4;
    std::int64_t kv_heads = 1;
    std::int64_t head_dim = 8;  // also the width of the index keys
    PageOrder order = PageOrder::kPairs;
  };

  TestCache(const Shape& shape, std::vector<std::int64_t> lengths, std::uint64_t page_seed = 1)
      : lengths_(std::move(lengths)) {
    kv = {.dtype = shape.dtype,
          .order = shape.order,
          .page_tokens = shape.page_tokens,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim};
    kv.head_stride = round_up(kv.head_bytes());
    kv.page_stride = kv.kv_heads * kv.head_stride;
    index = {.dtype = shape.dtype,
             .order = shape.order,
             .page_tokens = shape.page_tokens,
             .dim = shape.head_dim};
    index.page_stride = round_up(index.keys(0).bytes());
    lay_out(page_seed);
    for (std::size_t s = 0; s < lengths_.size(); ++s)
      for (std::int64_t slot = 0; slot < lengths_[s]; ++slot)
        write_token(static_cast<std::int64_t>(s), slot);
  }

  // Rows at the given (sequence, slot).
  Rows rows(Arena& arena, const std::vector<std::pair<std::int32_t, std::int64_t>>& places) const {
    const auto count = std::ssize(places);
    Rows rows{arena.make(DType::kI64, {count}), arena.make(DType::kI32, {count}), pages_};
    for (std::int64_t i = 0; i < count; ++i) {
      const auto& [sequence, slot] = places[static_cast<std::size_t>(i)];
      rows.sequences.as<std::int32_t>()[i] = sequence;
      rows.slots.as<std::int64_t>()[i] = slot;
    }
    return rows;
  }

  float key(std::int64_t sequence, std::int64_t slot, std::int64_t head, std::int64_t i) const {
    return kv.keys(page(sequence, slot), head).get(slot % kv.page_tokens, i);
  }
  float value(std::int64_t sequence, std::int64_t slot, std::int64_t head, std::int64_t i) const {
    return kv.values(page(sequence, slot), head).get(slot % kv.page_tokens, i);
  }
  float index_key(std::int64_t sequence, std::int64_t slot, std::int64_t i) const {
    return index.keys(page(sequence, slot)).get(slot % kv.page_tokens, i);
  }
  void set_key(std::int64_t sequence, std::int64_t slot, std::int64_t head, std::int64_t i,
               float x) {
    kv.keys(page(sequence, slot), head).set(slot % kv.page_tokens, i, x);
  }
  void set_value(std::int64_t sequence, std::int64_t slot, std::int64_t head, std::int64_t i,
                 float x) {
    kv.values(page(sequence, slot), head).set(slot % kv.page_tokens, i, x);
  }
  void set_index_key(std::int64_t sequence, std::int64_t slot, std::int64_t i, float x) {
    index.keys(page(sequence, slot)).set(slot % kv.page_tokens, i, x);
  }
  // Fills a whole block with NaN: whoever reads it shows it.
  void poison_block(std::int64_t sequence, std::int64_t block) {
    const std::int64_t page_id = page(sequence, block * kv.page_tokens);
    std::memset(kv.base + page_id * kv.page_stride, 0xff, static_cast<std::size_t>(kv.page_stride));
  }

  KvView kv;
  IndexView index;

 private:
  static std::int64_t round_up(std::int64_t bytes) { return (bytes + 4095) / 4096 * 4096; }

  void lay_out(std::uint64_t page_seed) {
    const auto blocks = [&](std::int64_t length) {
      return (length + kv.page_tokens - 1) / kv.page_tokens;
    };
    const auto sequences = std::ssize(lengths_);
    const std::int64_t longest = *std::max_element(lengths_.begin(), lengths_.end());
    const std::int64_t pages_max = blocks(longest) + 2;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(sequences * pages_max));
    std::iota(ids.begin(), ids.end(), 0);
    Random random(page_seed);
    for (std::size_t i = ids.size(); i > 1; --i)
      std::swap(ids[i - 1], ids[static_cast<std::size_t>(random.below(static_cast<long>(i)))]);

    kv_bytes_ = Buffer(std::ssize(ids) * kv.page_stride);
    index_bytes_ = Buffer(std::ssize(ids) * index.page_stride);
    std::memset(kv_bytes_.data(), 0xff, static_cast<std::size_t>(kv_bytes_.bytes()));
    std::memset(index_bytes_.data(), 0xff, static_cast<std::size_t>(index_bytes_.bytes()));
    kv.base = kv_bytes_.data();
    index.base = index_bytes_.data();

    page_table_ = Buffer(sequences * pages_max * 4);
    pages_ = page_table_.tensor(DType::kI32, {sequences, pages_max});
    for (std::int64_t s = 0; s < sequences; ++s)
      for (std::int64_t b = 0; b < pages_max; ++b)
        pages_.row<std::int32_t>(s)[b] = b < blocks(lengths_[static_cast<std::size_t>(s)])
                                             ? ids[static_cast<std::size_t>(s * pages_max + b)]
                                             : -1;
  }

  void write_token(std::int64_t sequence, std::int64_t slot) {
    Random random(static_cast<std::uint64_t>(sequence * 1000003 + slot + 17));
    for (std::int64_t i = 0; i < index.dim; ++i)
      set_index_key(sequence, slot, i, round_to_bf16(random.next()));
    for (std::int64_t head = 0; head < kv.kv_heads; ++head)
      for (std::int64_t i = 0; i < kv.head_dim; ++i) {
        set_key(sequence, slot, head, i, round_to_bf16(random.next()));
        set_value(sequence, slot, head, i, round_to_bf16(random.next()));
      }
  }

  std::int64_t page(std::int64_t sequence, std::int64_t slot) const {
    return pages_.row<std::int32_t>(sequence)[slot / kv.page_tokens];
  }

  std::vector<std::int64_t> lengths_;
  Buffer kv_bytes_, index_bytes_, page_table_;
  Tensor pages_;  // [sequences, pages_max] I32
};

}  // namespace m3
