#include "model/merge.h"

#include <set>
#include <tuple>

#include "model/lora_files.h"
#include "model/quantisation.h"

namespace m3 {
namespace {

// Entry in the metadata of the files: the adapter's directory.
constexpr const char* kMergedKey = "merged";

// Weights that are written in one format (check_groups()); the indexer's go with the attention's.
using ProductKey = std::tuple<Part, std::int64_t, Fusion>;

ProductKey product_of(const WeightSpec& spec) {
  const Fusion fusion = spec.fusion == Fusion::kIndexer ? Fusion::kAttention : spec.fusion;
  return {spec.part, spec.layer, fusion};
}

std::vector<RewriteWeight> with_addends(const ModelSource& source, const Lora& lora,
                                        const std::optional<Format>& format) {
  std::set<ProductKey> changed;
  for (const WeightSpec& spec : source.table)
    if (spec.fusion != Fusion::kNone && lora.addend_of(spec.name) != nullptr)
      changed.insert(product_of(spec));
  std::vector<RewriteWeight> weights;
  for (const FoundWeight& found : source.matched.found) {
    RewriteWeight weight{&found, found.matrix.codec};
    weight.addend = lora.addend_of(found.spec->name);
    if (format && (weight.addend != nullptr || changed.contains(product_of(*found.spec))))
      weight.codec = &codec_of(*format);
    weights.push_back(weight);
  }
  return weights;
}

// What most of the quantised weights still have.
Format main_format(const std::vector<RewriteWeight>& weights) {
  for (const RewriteWeight& weight : weights)
    if (is_quantised(weight.codec->format)) return weight.codec->format;
  return Format::kBF16;
}

}  // namespace

Result<RewriteReport> merge_lora(const MergeOptions& options) {
  M3_TRY(const auto source, ModelSource::open(options.source, options.vision, options.pool));
  M3_TRY(const Lora lora, load_lora(options.adapter, source->table));
  const std::vector<RewriteWeight> weights = with_addends(*source, lora, options.format);
  Metadata metadata{{kMergedKey, options.adapter}};
  if (const std::string random = source->checkpoint->synthetic(); !random.empty())
    metadata[kSyntheticKey] = random;
  return rewrite_model(*source, weights,
                       {.directory = options.directory,
                        .note = kMergedKey,
                        .metadata = metadata,
                        .main = main_format(weights),
                        .progress = options.progress,
                        .pool = options.pool});
}

}  // namespace m3
