// Writes a model again with other number formats.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "model/rewrite.h"

namespace m3 {

// Weights whose released name fits the pattern (base/glob.h) get this format, whatever the rest
// gets.
struct FormatRule {
  std::string pattern;
  Format format = Format::kBF16;
};

struct QuantizeOptions {
  std::string source;              // a model's directory, in any formats and spelling that load
  std::string directory;           // where the new one goes
  Format format = Format::kMxfp4;  // for the weights that takes_format() (quantisation.h) names
  std::vector<FormatRule> keep;    // the first that fits a weight decides
  bool vision = true;              // the source must have its vision tower, if its config has one
  std::int64_t shard_bytes = 5'000'000'000;
  Progress progress;           // counts bytes
  ThreadPool* pool = nullptr;  // null: this thread alone
};

// As rewrite_model(); MTP modules and vision tower come along. A rule only concerns weights that
// are multiplied (linears of text and vision, embedding, head): router, norms and vectors stay as
// they are. Errors: also a source that does not load; a rule that no such weight fits.
Result<RewriteReport> quantize_checkpoint(const QuantizeOptions& options);

}  // namespace m3
