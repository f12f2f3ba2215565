#include "model/quantize.h"

#include <algorithm>

#include "base/glob.h"
#include "model/quantisation.h"

namespace m3 {
namespace {

// Entry in the metadata of the files that were written: the format.
constexpr const char* kQuantizedKey = "quantized";

// Weights that rules may concern: those that products read as they are stored, and the embedding.
bool is_multiplied(const WeightSpec& spec) {
  return spec.shape.size() == 2 && spec.kind != Kind::kRouter && spec.kind != Kind::kNorm;
}

const FormatRule* rule_for(const std::vector<FormatRule>& rules, const WeightSpec& spec) {
  const auto at = std::find_if(rules.begin(), rules.end(), [&](const FormatRule& rule) {
    return glob_matches(rule.pattern, spec.name);
  });
  return at == rules.end() ? nullptr : &*at;
}

// Every rule must fit something, or its author was mistaken about names.
Status check_rules(const std::vector<FormatRule>& rules, const std::vector<WeightSpec>& table) {
  for (const FormatRule& rule : rules) {
    const WeightSpec* other = nullptr;
    const bool fits = std::any_of(table.begin(), table.end(), [&](const WeightSpec& spec) {
      if (!glob_matches(rule.pattern, spec.name)) return false;
      if (!is_multiplied(spec)) other = &spec;
      return is_multiplied(spec);
    });
    if (fits) continue;
    if (other != nullptr)
      return fail(
          "the pattern {} fits {} and nothing that could be {}: router, norms and vectors "
          "stay as they are",
          rule.pattern, other->name, codec_of(rule.format).name);
    return fail("no weight fits the pattern {}; names are like {}", rule.pattern,
                table[table.size() / 2].name);
  }
  return {};
}

std::vector<RewriteWeight> choose_formats(const ModelSource& source,
                                          const QuantizeOptions& options) {
  std::vector<RewriteWeight> weights;
  for (const FoundWeight& found : source.matched.found) {
    const WeightSpec& spec = *found.spec;
    const Codec* codec = found.matrix.codec;
    const FormatRule* rule = is_multiplied(spec) ? rule_for(options.keep, spec) : nullptr;
    if (rule != nullptr)
      codec = &codec_of(rule->format);
    else if (takes_format(spec, options.format))
      codec = &codec_of(options.format);
    weights.push_back({&found, codec});
  }
  return weights;
}

// What the files say of themselves.
Metadata notes(const Checkpoint& source, Format format) {
  Metadata notes{{kQuantizedKey, std::string(codec_of(format).name)}};
  if (const std::string random = source.synthetic(); !random.empty()) notes[kSyntheticKey] = random;
  return notes;
}

}  // namespace

Result<RewriteReport> quantize_checkpoint(const QuantizeOptions& options) {
  M3_TRY(const auto source, ModelSource::open(options.source, options.vision, options.pool));
  M3_TRY_STATUS(check_rules(options.keep, source->table));
  return rewrite_model(*source, choose_formats(*source, options),
                       {.directory = options.directory,
                        .note = kQuantizedKey,
                        .metadata = notes(*source->checkpoint, options.format),
                        .main = options.format,
                        .shard_bytes = options.shard_bytes,
                        .progress = options.progress,
                        .pool = options.pool});
}

}  // namespace m3
