#include "model/rewrite.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/file.h"
#include "model/quantisation.h"
#include "model/rewrite_directory.h"

namespace m3 {
namespace {

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

std::vector<FormattedWeight> formats_of(std::span<const RewriteWeight> weights) {
  std::vector<FormattedWeight> formats;
  for (const RewriteWeight& weight : weights) formats.push_back({weight.found->spec, weight.codec});
  return formats;
}

std::string config_text(const std::string& json, std::span<const FormattedWeight> weights,
                        Format main) {
  nlohmann::ordered_json quantization;
  if (std::any_of(weights.begin(), weights.end(),
                  [](const FormattedWeight& weight) { return is_quantised(weight.codec->format); }))
    quantization = quantization_config(weights, main);
  return with_quantization(json, quantization);
}

// The config of a model whose MTP modules are a chain.
std::string with_mtp_chain(const std::string& config_json) {
  auto json = nlohmann::ordered_json::parse(config_json);  // parse_config() has read it
  const bool nested = json.contains("text_config") && json["text_config"].is_object();
  json.erase(kMtpChainKey);
  (nested ? json["text_config"] : json)[kMtpChainKey] = "post_norm";
  return json.dump(2) + "\n";
}

// out += scale * B[row] A.
void add_row(const LowRank& addend, std::int64_t row, std::int64_t cols, float* out) {
  for (std::int64_t j = 0; j < addend.a.dim(0); ++j) {
    const float factor = addend.scale * addend.b.row<float>(row)[j];
    const float* a = addend.a.row<float>(j);
    for (std::int64_t c = 0; c < cols; ++c) out[c] += factor * a[c];
  }
}

// Rows of the source, decoded, and those that take their place.
class NewRows final : public RowSource {
 public:
  NewRows(const ModelSource& source, std::span<const RewriteWeight> weights, RewriteReport& report)
      : checkpoint_(*source.checkpoint), report_(report) {
    for (const RewriteWeight& weight : weights) {
      by_spec_[weight.found->spec] = &weight;
      report_.source_bytes += weight.found->matrix.bytes();
    }
  }
  Matrix stored(const WrittenWeight& written) override {
    const RewriteWeight& weight = weight_of(written);
    const bool same =
        !weight.values && weight.addend == nullptr && weight.found->matrix.codec == written.codec;
    return same ? weight.found->matrix : Matrix{};
  }
  void read_row(const WrittenWeight& written, std::int64_t row, float* out) override {
    const RewriteWeight& weight = weight_of(written);
    const Matrix& matrix = weight.found->matrix;
    if (weight.values) {
      std::copy_n(weight.values.as<float>() + row * matrix.cols, matrix.cols, out);
    } else {
      matrix.codec->decode(matrix, row, 0, matrix.cols, out);
    }
    if (weight.addend != nullptr) add_row(*weight.addend, row, matrix.cols, out);
  }
  bool measures_errors() const override { return true; }
  void written(const WrittenWeight& written, const RoundingError& error) override {
    const Matrix& matrix = weight_of(written).found->matrix;
    report_.weights.push_back({written.spec->name, written.spec->kind, matrix.codec, written.codec,
                               written.spec->elements(), written.bytes(), error});
    release(checkpoint_, matrix);
  }

 private:
  const RewriteWeight& weight_of(const WrittenWeight& written) const {
    return *by_spec_.at(written.spec);
  }
  std::unordered_map<const WeightSpec*, const RewriteWeight*> by_spec_;
  const Checkpoint& checkpoint_;
  RewriteReport& report_;
};

}  // namespace

Result<std::unique_ptr<ModelSource>> ModelSource::open(const std::string& directory, bool vision,
                                                       ThreadPool* pool) {
  auto source = std::make_unique<ModelSource>();  // the matches point into the table
  source->directory = directory;
  M3_TRY(source->config, load_config(directory));
  M3_TRY(source->checkpoint, Checkpoint::open(directory));
  M3_TRY(const std::int64_t mtp_modules, count_mtp_modules(*source->checkpoint));
  M3_TRY(source->table, weight_table(source->config, mtp_modules));
  if (!vision) leave_out_vision(source->table, *source->checkpoint);
  M3_TRY(source->matched, match_weights(source->table, source->config, *source->checkpoint));
  M3_TRY_STATUS(read_all_numbers(*source->checkpoint, source->matched.found, pool));
  return source;
}

Result<RewriteReport> rewrite_model(const ModelSource& source,
                                    std::span<const RewriteWeight> weights,
                                    const RewriteOptions& options) {
  M3_TRY_STATUS(expect_apart(source.directory, options.directory));
  const std::vector<FormattedWeight> formats = formats_of(weights);
  M3_TRY_STATUS(check_groups(formats));
  std::vector<WrittenWeight> written;
  for (const FormattedWeight& weight : formats)
    written.push_back(written_weight(*weight.spec, *weight.codec, source.config.flat));
  M3_TRY(const ModelFiles files,
         plan_files(std::move(written), source.config.flat, options.shard_bytes));

  RewriteReport report;
  report.bytes = files.bytes();
  report.warnings = source.checkpoint->warnings();
  M3_TRY(const std::string json, read_text_file(source.directory + "/config.json"));
  std::string text = config_text(json, formats, options.main);
  if (options.mtp_chain) text = with_mtp_chain(text);
  M3_TRY_STATUS(claim_output(
      {options.directory, text, files.names, files.indexed, options.note.c_str()}, report.bytes));
  M3_TRY_STATUS(write_text_file(options.directory + "/config.json", text));
  M3_TRY(report.left_out, copy_small_files(source.directory, options.directory));
  NewRows rows(source, weights, report);
  M3_TRY_STATUS(write_model_files(
      files, rows, {options.directory, options.metadata, options.progress, options.pool}));
  return report;
}

}  // namespace m3
