// Where the packed weights of a model come from: the file beside it, or else memory.
#pragma once

#include <memory>
#include <string>

#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "model/config.h"
#include "model/weights.h"

namespace m3 {

// The weights of linear layers, at their places in a Weights that stays where it is.
struct Linears {
  PackableWeights own;         // of the checkpoint
  PackableWeights standalone;  // of MTP modules from elsewhere
};

// load_weights() without the packing.
Status load_stored(const Config& config, std::shared_ptr<const Checkpoint> checkpoint,
                   const Progress& progress, ThreadPool* pool, const LoadOptions& options,
                   Weights& weights, Linears& linears);

// Sets Matrix::packed of all that options.backend wants packed. A pack file that does not fit is
// written anew, with a warning; where that is impossible, and where there is none, weights are
// packed in memory. Errors: the system has not that much memory left.
Status provide_packed(const Config& config, const Linears& linears, ThreadPool* pool,
                      const LoadOptions& options, Weights& weights);

// What `m3 pack` did.
struct PackReport {
  std::string path;        // empty: there is nothing to pack
  std::int64_t bytes = 0;  // of the weights
  bool written = false;    // false: the file was there, whole and up to date
  std::string why;         // a sentence, where another file of this name was replaced
};

// Makes sure that the file is there and fits: all linear layers of the checkpoint, MTP modules
// included. Of `options`, backend, vision, packing and reading_pack count. Errors: those of
// load_weights(), or the file cannot be written.
Result<PackReport> update_pack(const Config& config, std::shared_ptr<const Checkpoint> checkpoint,
                               const Progress& progress, ThreadPool* pool,
                               const LoadOptions& options);

}  // namespace m3
