#include "train/save.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "base/file.h"
#include "model/quantisation.h"
#include "model/rewrite_directory.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;

// Entry in the metadata of the files: what made the weights.
constexpr const char* kTrainedKey = "trained";

std::string unfinished(const std::string& directory) {
  return fs::path(directory + "/").parent_path().string() + ".part";
}

}  // namespace

Status expect_savable(const SaveOptions& options, std::span<const WeightSpec> weights) {
  M3_TRY_STATUS(expect_apart(options.source, options.directory));
  std::error_code error;
  if (fs::exists(options.directory, error) && !fs::is_empty(options.directory, error))
    return fail("{} is there already; choose a new directory for the trained model",
                options.directory);
  const std::string part = unfinished(options.directory);
  if (fs::exists(part, error) && !fs::is_empty(part, error))
    return fail("{} is left of a run that was ended while it saved; remove it", part);
  M3_TRY_STATUS(make_directories(part));
  std::int64_t bytes = 0;
  for (const WeightSpec& spec : weights) bytes += spec.elements() * dtype_size(spec.stored);
  return expect_space(part, bytes);
}

Result<RewriteReport> save_trained(const SaveOptions& options, std::span<const WeightSpec> weights,
                                   std::span<const Tensor> values) {
  std::map<std::string_view, Tensor> by_name;
  std::set<Part> parts;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    by_name[weights[i].name] = values[i];
    parts.insert(weights[i].part);
  }
  M3_TRY(const auto source, ModelSource::open(options.source, options.vision, options.pool));
  std::vector<RewriteWeight> written;
  Format main = Format::kBF16;
  for (const FoundWeight& found : source->matched.found) {
    RewriteWeight weight{&found, found.matrix.codec};
    if (const auto trained = by_name.find(found.spec->name); trained != by_name.end())
      weight.values = trained->second;
    if (parts.contains(found.spec->part))
      weight.codec = codec_for(found.spec->stored, std::nullopt);
    else if (main == Format::kBF16 && is_quantised(weight.codec->format))
      main = weight.codec->format;
    written.push_back(weight);
  }
  const std::string part = unfinished(options.directory);
  M3_TRY(RewriteReport report, rewrite_model(*source, written,
                                             {.directory = part,
                                              .note = kTrainedKey,
                                              .metadata = {{kTrainedKey, "m3 train"}},
                                              .main = main,
                                              .mtp_chain = parts.contains(Part::kMtp),
                                              .progress = options.progress,
                                              .pool = options.pool}));
  std::error_code error;
  fs::remove(options.directory, error);  // empty, or not there
  fs::rename(part, options.directory, error);
  if (error) return fail("cannot rename {} to {}: {}", part, options.directory, error.message());
  return report;
}

}  // namespace m3
