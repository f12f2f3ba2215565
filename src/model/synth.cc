#include "model/synth.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "model/config.h"
#include "model/initial_values.h"
#include "model/model_writer.h"
#include "model/quantisation.h"
#include "model/random_values.h"
#include "model/synth_directory.h"
#include "model/weight_table.h"
#include "tensor/numeric.h"

namespace m3 {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kQuantization = "quantization_config";
constexpr std::int64_t kAddedTokens = 64;  // the last ids of a vocabulary

// The format of each weight of the table.
std::vector<FormattedWeight> formats_of(const std::vector<WeightSpec>& table,
                                        const SynthOptions& options, const Config& config) {
  std::vector<FormattedWeight> weights;
  for (const WeightSpec& spec : table) {
    Format format = said_format(config.quantisation, spec);
    if (options.format)
      format = takes_format(spec, *options.format) ? *options.format : Format::kBF16;
    weights.push_back(
        {&spec, is_quantised(format) ? &codec_of(format) : codec_for(spec.stored, std::nullopt)});
  }
  return weights;
}

// Draws rows. What is quantised is the bfloat16 model, not the numbers that it was rounded from.
class RandomRows final : public RowSource {
 public:
  // `initial`: what to draw instead, or null.
  RandomRows(std::uint64_t seed, const InitialValues* initial) : seed_(seed), initial_(initial) {}

  void read_row(const WrittenWeight& weight, std::int64_t row, float* out) override {
    const WeightSpec& spec = *weight.spec;
    const std::int64_t first = row * weight.cols;
    if (initial_ != nullptr)
      initial_->draw(spec, first, weight.cols, out);
    else
      fill_random(random_key(seed_, spec.name), first, weight.cols, spec.init, out);
    if (is_quantised(weight.codec->format))
      std::transform(out, out + weight.cols, out, round_to_bf16);
  }

 private:
  std::uint64_t seed_;
  const InitialValues* initial_;
};

// The given text, word for word unless the format differs from what it says.
std::string config_text(const SynthOptions& options, const Config& config,
                        std::span<const FormattedWeight> weights) {
  const auto as_said = [&](const FormattedWeight& weight) {
    const Format format = weight.codec->format;
    return said_format(config.quantisation, *weight.spec) ==
           (is_quantised(format) ? format : Format::kBF16);
  };
  if (!options.format || std::all_of(weights.begin(), weights.end(), as_said))
    return options.config_json;
  Json quantization;
  if (is_quantised(*options.format)) quantization = quantization_config(weights, *options.format);
  return with_quantization(options.config_json, quantization);
}

// What a server samples with, and which of the added tokens begin and end a text.
std::string generation_text(const Config& config) {
  const std::int64_t first_added = config.vocab - kAddedTokens;
  Json json;
  if (first_added >= 0) json["bos_token_id"] = first_added + 19;
  json["do_sample"] = true;
  if (first_added >= 0) json["eos_token_id"] = first_added + 20;
  json["temperature"] = 1.0;
  json["top_p"] = 0.95;
  return json.dump(2) + "\n";
}

Status check_format(const SynthOptions& options) {
  if (!options.format || *options.format == Format::kBF16 || is_quantised(*options.format))
    return {};
  return fail("random models are written as bf16, mxfp8, mxfp4, nvfp4 or int8, not as {}",
              codec_of(*options.format).name);
}

// The files of a directory, whose weights are those of the table.
Status write_model(const SynthOptions& options, const Config& config,
                   const std::vector<WeightSpec>& table) {
  M3_TRY_STATUS(check_format(options));
  const auto weights = formats_of(table, options, config);
  M3_TRY_STATUS(check_groups(weights));
  std::vector<WrittenWeight> written;
  for (const FormattedWeight& weight : weights)
    written.push_back(written_weight(*weight.spec, *weight.codec, config.flat));
  M3_TRY(const ModelFiles files, plan_files(std::move(written), config.flat, options.shard_bytes));

  const std::string text = config_text(options, config, weights);
  M3_TRY_STATUS(claim_directory({options.directory, text, files.names, files.indexed}));
  M3_TRY_STATUS(write_text_file(options.directory + "/config.json", text));
  if (!options.mtp_only)
    M3_TRY_STATUS(
        write_text_file(options.directory + "/generation_config.json", generation_text(config)));
  const InitialValues initial(config, table, options.seed);
  RandomRows rows(options.seed, options.draw == SynthDraw::kForTraining ? &initial : nullptr);
  return write_model_files(
      files, rows,
      {options.directory, synthetic_note(options.seed), options.progress, options.pool});
}

// The text model's config, flat, under the name of the modules.
std::string mtp_config_text(const std::string& model_config) {
  const Json whole = Json::parse(model_config);  // parse_config() has read it: it cannot fail
  const bool flat = !whole.contains("text_config") || !whole["text_config"].is_object();
  Json text = flat ? whole : whole["text_config"];
  if (whole.contains(kQuantization) && !text.contains(kQuantization))
    text[kQuantization] = whole[kQuantization];
  text["architectures"] = Json::array({"MiniMaxM3MTP"});
  text["model_type"] = "minimax_m3_mtp";
  return text.dump(2) + "\n";
}

Status synth_mtp(SynthOptions options) {
  M3_TRY(const Config model, parse_config(options.config_json, "the config"));
  if (model.mtp_modules == 0)
    return fail("the config declares no MTP modules: expected num_mtp_modules to be 1 or more");
  options.config_json = mtp_config_text(options.config_json);
  M3_TRY(const Config config, parse_config(options.config_json, "the config of the MTP modules"));
  M3_TRY(const auto table, mtp_weight_table(config, config.mtp_modules));
  return write_model(options, config, table);
}

}  // namespace

Status synth_checkpoint(const SynthOptions& options) {
  if (options.mtp_only) return synth_mtp(options);
  M3_TRY(const Config config, parse_config(options.config_json, "the config"));
  M3_TRY(const auto table, weight_table(config, config.mtp_modules));
  return write_model(options, config, table);
}

}  // namespace m3
