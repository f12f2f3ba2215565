// A model with an adapter added to its weights.
#pragma once

#include <optional>
#include <string>

#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "model/rewrite.h"

namespace m3 {

struct MergeOptions {
  std::string source;
  std::string adapter;    // its directory
  std::string directory;  // where the model goes
  // Of the weights that the adapter changes, and of those that one product reads with them; empty:
  // each as it is stored, quantised again where it was. All others stay as they are stored.
  std::optional<Format> format = Format::kBF16;
  bool vision = true;  // the source must have its vision tower, if its config has one
  Progress progress;   // counts bytes
  ThreadPool* pool = nullptr;
};

// Writes W + scale * B A, computed in float32 and rounded once, in the released layout.
// Errors: those of load_lora() and rewrite_model().
Result<RewriteReport> merge_lora(const MergeOptions& options);

}  // namespace m3
