// One measurement of `m3 bench --vision`: a picture through the tower.
#pragma once

#include <memory>

#include "apps/bench_run.h"
#include "model/vision.h"

namespace m3 {

class VisionRun {
 public:
  // Errors: the model has no vision tower, or was loaded without.
  static Status check(const Model& model);
  // A square picture of the largest size that the preprocessor makes, 672 x 672 pixels for patches
  // of 14. Errors: those of check().
  static Result<std::unique_ptr<VisionRun>> create(const Model& model);

  // Encodes it once.
  BenchSample sample();
  std::int64_t tokens() const { return features_.dim(0); }

 private:
  VisionRun(const Model& model, const MediaGrid& grid);

  const Model& model_;
  VisionTower tower_;
  MediaGrid grid_;
  Buffer memory_;
  Tensor pixels_;
  Tensor features_;
};

}  // namespace m3
