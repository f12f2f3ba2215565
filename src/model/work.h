// What one step has to do at least: the yardstick of `m3 bench`.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/batch.h"
#include "model/config.h"
#include "model/vision.h"
#include "model/weights.h"
#include "ops/cache.h"

namespace m3 {

// Bytes that must be read and floating-point operations that must be done; a multiply and an add
// are two. Counts only work that is needed: the last layer's feed-forward and the head run on the
// rows whose logits are wanted, and sparse layers read at most `topk` blocks a row and K/V head.
struct Work {
  std::int64_t weight_bytes = 0;  // each weight once, of experts only those that were picked
  std::int64_t kv_bytes = 0;      // each sequence's, once a row
  std::int64_t index_bytes = 0;
  std::int64_t matrix_flops = 0;  // linears, router and head
  std::int64_t attention_flops = 0;
  std::int64_t index_flops = 0;

  Work& operator+=(const Work& other);
  std::int64_t bytes() const { return weight_bytes + kv_bytes + index_bytes; }
  std::int64_t flops() const { return matrix_flops + attention_flops + index_flops; }
};

// `distinct_experts` [layers]: how many experts of a layer the rows of this step picked between
// them.
Work count_work(const Config& config, const Weights& weights, const Batch& batch,
                const std::vector<std::int64_t>& distinct_experts, const CacheFormat& cache);

// Floating-point operations that encoding takes: every product of spec: vision §6, attention inside
// segments.
std::int64_t count_vision_flops(const Config& config, std::span<const MediaGrid> grids);

}  // namespace m3
