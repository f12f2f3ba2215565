#include "model/quantize.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/file.h"
#include "base/glob.h"
#include "checkpoint/checkpoint.h"
#include "model/quantisation.h"
#include "model/quantize_directory.h"
#include "model/weight_match.h"

namespace m3 {
namespace {

// The model that is read.
struct Source {
  Config config;
  std::shared_ptr<const Checkpoint> checkpoint;
  std::vector<WeightSpec> table;
  MatchedWeights matched;
};

void release(const Checkpoint& checkpoint, const Matrix& matrix) {
  checkpoint.release(matrix.values);
  if (matrix.scales) checkpoint.release(matrix.scales);
}

// A NaN in the last scale should not be found after an hour of writing.
Status read_all_numbers(const Checkpoint& checkpoint, std::vector<FoundWeight>& weights,
                        ThreadPool* pool) {
  std::vector<Status> results(weights.size());
  const auto read = [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      results[i] = read_numbers(weights[i]);
      if (weights[i].matrix.scales) checkpoint.release(weights[i].matrix.scales);
    }
  };
  const auto count = static_cast<std::int64_t>(weights.size());
  if (pool != nullptr)
    pool->parallel_for(count, 1, read);
  else
    read(0, count);
  for (Status& status : results)
    if (!status) return std::move(status);
  return {};
}

Result<std::unique_ptr<Source>> open_source(const QuantizeOptions& options) {
  auto source = std::make_unique<Source>();  // the matches point into the table
  M3_TRY(source->config, load_config(options.source));
  M3_TRY(source->checkpoint, Checkpoint::open(options.source));
  M3_TRY(const std::int64_t mtp_modules, count_mtp_modules(*source->checkpoint));
  M3_TRY(source->table, weight_table(source->config, mtp_modules));
  if (!options.vision) leave_out_vision(source->table, *source->checkpoint);
  M3_TRY(source->matched, match_weights(source->table, source->config, *source->checkpoint));
  M3_TRY_STATUS(read_all_numbers(*source->checkpoint, source->matched.found, options.pool));
  return source;
}

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

std::vector<FormattedWeight> choose_formats(const Source& source, const QuantizeOptions& options) {
  std::vector<FormattedWeight> weights;
  for (const FoundWeight& found : source.matched.found) {
    const WeightSpec& spec = *found.spec;
    const Codec* codec = found.matrix.codec;
    const FormatRule* rule = is_multiplied(spec) ? rule_for(options.keep, spec) : nullptr;
    if (rule != nullptr)
      codec = &codec_of(rule->format);
    else if (takes_format(spec, options.format))
      codec = &codec_of(options.format);
    weights.push_back({&spec, codec});
  }
  return weights;
}

std::string config_text(const std::string& json, std::span<const FormattedWeight> weights,
                        Format main) {
  nlohmann::ordered_json quantization;
  if (std::any_of(weights.begin(), weights.end(),
                  [](const FormattedWeight& weight) { return is_quantised(weight.codec->format); }))
    quantization = quantization_config(weights, main);
  return with_quantization(json, quantization);
}

// Rows of the source, decoded.
class SourceRows final : public RowSource {
 public:
  SourceRows(const Source& source, QuantizeReport& report)
      : checkpoint_(*source.checkpoint), report_(report) {
    for (const FoundWeight& found : source.matched.found) {
      by_spec_[found.spec] = &found.matrix;
      report_.source_bytes += found.matrix.bytes();
    }
  }
  Matrix stored(const WrittenWeight& weight) override {
    const Matrix& matrix = matrix_of(weight);
    return matrix.codec == weight.codec ? matrix : Matrix{};
  }
  void read_row(const WrittenWeight& weight, std::int64_t row, float* out) override {
    const Matrix& matrix = matrix_of(weight);
    matrix.codec->decode(matrix, row, 0, matrix.cols, out);
  }
  bool measures_errors() const override { return true; }
  void written(const WrittenWeight& weight, const RoundingError& error) override {
    const Matrix& matrix = matrix_of(weight);
    report_.weights.push_back({weight.spec->name, weight.spec->kind, matrix.codec, weight.codec,
                               weight.spec->elements(), weight.bytes(), error});
    release(checkpoint_, matrix);
  }

 private:
  const Matrix& matrix_of(const WrittenWeight& weight) const { return *by_spec_.at(weight.spec); }
  std::unordered_map<const WeightSpec*, const Matrix*> by_spec_;
  const Checkpoint& checkpoint_;
  QuantizeReport& report_;
};

// What the files say of themselves.
Metadata notes(const Checkpoint& source, Format format) {
  Metadata notes{{kQuantizedKey, std::string(codec_of(format).name)}};
  if (const std::string random = source.synthetic(); !random.empty()) notes[kSyntheticKey] = random;
  return notes;
}

}  // namespace

Result<QuantizeReport> quantize_checkpoint(const QuantizeOptions& options) {
  M3_TRY_STATUS(expect_apart(options.source, options.directory));
  M3_TRY(const auto source, open_source(options));
  M3_TRY_STATUS(check_rules(options.keep, source->table));
  const auto weights = choose_formats(*source, options);
  M3_TRY_STATUS(check_groups(weights));
  std::vector<WrittenWeight> written;
  for (const FormattedWeight& weight : weights)
    written.push_back(written_weight(*weight.spec, *weight.codec, source->config.flat));
  M3_TRY(const ModelFiles files,
         plan_files(std::move(written), source->config.flat, options.shard_bytes));

  QuantizeReport report;
  report.bytes = files.bytes();
  report.warnings = source->checkpoint->warnings();
  M3_TRY(const std::string json, read_text_file(options.source + "/config.json"));
  const std::string text = config_text(json, weights, options.format);
  M3_TRY_STATUS(claim_output({options.directory, text, files.names, files.indexed, kQuantizedKey},
                             report.bytes));
  M3_TRY_STATUS(write_text_file(options.directory + "/config.json", text));
  M3_TRY(report.left_out, copy_small_files(options.source, options.directory));
  SourceRows rows(*source, report);
  M3_TRY_STATUS(write_model_files(files, rows,
                                  {options.directory, notes(*source->checkpoint, options.format),
                                   options.progress, options.pool}));
  return report;
}

}  // namespace m3
