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
#include "ops/stage.h"

namespace m3 {

// Bytes that must be read and floating-point operations that must be done; a multiply and an add
// are two.
struct StageWork {
  std::int64_t bytes = 0;
  std::int64_t flops = 0;

  StageWork& operator+=(const StageWork& other);
};

// Counts only work that is needed: each weight once, of experts only those that were picked; of
// each sequence the K, V and index keys that its last row sees, since the rows before it see no
// more (in sparse layers `topk` blocks: others may be read by other rows, but need not); the last
// layer's feed-forward and the head on the rows whose logits are wanted. Of the rest only the
// embedding's rows count: activations need not leave the caches.
struct Work : PerStage<StageWork> {
  Work& operator+=(const Work& other);
  std::int64_t bytes() const;
  std::int64_t flops() const;
};

// `distinct_experts` [layers]: how many experts of a layer the rows of this step picked between
// them.
Work count_work(const Config& config, const Weights& weights, const Batch& batch,
                const std::vector<std::int64_t>& distinct_experts, const CacheFormat& cache);

// What encoding takes: every product of spec: vision §6, attention inside segments. Counts no
// bytes: a picture has rows enough to be bound by multiplications.
Work count_vision_work(const Config& config, std::span<const MediaGrid> grids);

}  // namespace m3
