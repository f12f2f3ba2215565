// A trained model as a checkpoint that everything loads.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "model/rewrite.h"
#include "train/trained_weights.h"

namespace m3 {

struct SaveOptions {
  std::string source;     // the model's directory, as it was loaded
  std::string directory;  // where the trained one goes
  bool vision = true;     // the source must have its vision tower, if its config has one
  Progress progress;      // counts bytes
  ThreadPool* pool = nullptr;
};

// To be asked before hours of training. Errors: the directory is the source or inside it, exists
// and is not empty, cannot be made, or is on a disk without room for the trained weights.
Status expect_savable(const SaveOptions& options, std::span<const WeightSpec> weights);

// The source with `values`, float32, in place of `weights`. Parts of the model that were trained
// are written in the types of the released checkpoint (bfloat16, nearest even; float32 what is
// float32 there), frozen weights among them too; other parts as they are stored. Trained MTP
// modules are a chain, and the config says so (MtpChain::kPostNorm). The directory appears when all
// of it is written: before, it is DIRECTORY.part. Errors: as expect_savable() and rewrite_model().
Result<RewriteReport> save_trained(const SaveOptions& options, std::span<const WeightSpec> weights,
                                   std::span<const Tensor> values);

}  // namespace m3
