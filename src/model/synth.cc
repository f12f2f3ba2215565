#include "model/synth.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "model/config.h"
#include "model/random_values.h"
#include "model/synth_directory.h"
#include "model/weight_table.h"
#include "tensor/numeric.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kPrefix = "language_model.";
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kQuantization = "quantization_config";
constexpr const char* kScaleSuffix = "_scale_inv";
constexpr std::int64_t kAddedTokens = 64;  // the last ids of a vocabulary

// One weight, and how it is written.
struct Entry {
  const WeightSpec* spec;
  const Codec* codec;
  std::string name;  // in the file
  std::int64_t rows;
  std::int64_t cols;

  std::int64_t value_bytes() const { return rows * cols * dtype_size(codec->values_dtype); }
  std::int64_t scale_bytes() const { return rows * scale_cols(*codec, cols); }
  std::int64_t bytes() const { return value_bytes() + scale_bytes(); }
};

using Shard = std::vector<Entry>;

Entry entry_of(const WeightSpec& spec, Format format, bool flat) {
  const bool mxfp8 = format == Format::kMxfp8 && spec.quantised;
  const Codec* codec = mxfp8 ? &codec_of(Format::kMxfp8) : codec_for(spec.stored, false);
  const std::string name =
      flat && spec.name.starts_with(kPrefix) ? spec.name.substr(kPrefix.size()) : spec.name;
  const std::int64_t rows = spec.shape.size() == 1 ? 1 : spec.shape.front();
  return {&spec, codec, name, rows, spec.elements() / rows};
}

// Wide types first, so that each tensor lies at a multiple of its element size.
void align(Shard& shard) {
  std::stable_sort(shard.begin(), shard.end(), [](const Entry& a, const Entry& b) {
    return dtype_size(a.codec->values_dtype) > dtype_size(b.codec->values_dtype);
  });
}

std::vector<Shard> cut_into_shards(const std::vector<WeightSpec>& table, Format format, bool flat,
                                   std::int64_t shard_bytes) {
  std::vector<Shard> shards(1);
  std::int64_t bytes = 0;
  for (const WeightSpec& spec : table) {
    Entry entry = entry_of(spec, format, flat);
    if (!flat && bytes > 0 && bytes + entry.bytes() > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += entry.bytes();
    shards.back().push_back(std::move(entry));
  }
  for (Shard& shard : shards) align(shard);
  return shards;
}

std::vector<std::string> file_names(std::size_t shards, bool flat) {
  if (flat) return {"model.safetensors"};
  std::vector<std::string> names;
  for (std::size_t i = 1; i <= shards; ++i)
    names.push_back(fmt::format("model-{:05}-of-{:05}.safetensors", i, shards));
  return names;
}

// The tensors of a shard in the order of their data: a scale follows its values.
std::vector<TensorInfo> infos_of(const Shard& shard) {
  std::vector<TensorInfo> infos;
  for (const Entry& entry : shard) {
    infos.push_back({entry.name, entry.codec->values_dtype, entry.spec->shape});
    if (entry.scale_bytes() > 0)
      infos.push_back({entry.name + kScaleSuffix,
                       DType::kU8,
                       {entry.rows, scale_cols(*entry.codec, entry.cols)}});
  }
  return infos;
}

// What is quantised is the bfloat16 model, not the numbers that it was rounded from.
void round_to_bf16(std::vector<float>& values) {
  for (float& x : values) x = m3::round_to_bf16(x);
}

// Draws and writes weights, a few megabytes at a time.
class WeightWriter {
 public:
  WeightWriter(const SynthOptions& options, std::int64_t total)
      : options_(options), total_(total) {}

  Status write(const std::string& path, const Shard& shard) {
    M3_TRY(auto file,
           SafetensorsWriter::create(path, infos_of(shard), synthetic_note(options_.seed)));
    for (const Entry& entry : shard) M3_TRY_STATUS(write(entry, file));
    return file.finish();
  }

 private:
  Status write(const Entry& entry, SafetensorsWriter& file) {
    constexpr std::int64_t kPieceBytes = 16 << 20;
    const std::int64_t row_bytes = entry.value_bytes() / entry.rows;
    const std::int64_t piece = std::max<std::int64_t>(1, kPieceBytes / row_bytes);
    std::vector<std::uint8_t> scales(static_cast<std::size_t>(entry.scale_bytes()));
    std::vector<std::byte> values(
        static_cast<std::size_t>(std::min(piece, entry.rows) * row_bytes));
    for (std::int64_t row = 0; row < entry.rows; row += piece) {
      const std::int64_t rows = std::min(piece, entry.rows - row);
      draw(entry, row, rows, values.data(), scales.data());
      M3_TRY_STATUS(file.write({values.data(), static_cast<std::size_t>(rows * row_bytes)}));
      report(rows * row_bytes);
    }
    M3_TRY_STATUS(file.write(std::as_bytes(std::span(scales))));
    report(entry.scale_bytes());
    return {};
  }

  // Rows [first, first + rows): values of these rows, and scales at their place among all.
  void draw(const Entry& entry, std::int64_t first, std::int64_t rows, std::byte* values,
            std::uint8_t* scales) const {
    constexpr std::int64_t kGrainElements = 1 << 16;
    const std::uint64_t key = random_key(options_.seed, entry.spec->name);
    const std::int64_t row_bytes = entry.value_bytes() / entry.rows;
    const std::int64_t row_scales = entry.scale_bytes() / entry.rows;
    const bool scaled = row_scales > 0;
    const auto body = [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> row(static_cast<std::size_t>(entry.cols));
      for (std::int64_t r = begin; r < end; ++r) {
        fill_random(key, (first + r) * entry.cols, entry.cols, entry.spec->init, row.data());
        if (scaled) round_to_bf16(row);
        entry.codec->encode(row.data(), entry.cols, values + r * row_bytes,
                            scales + (first + r) * row_scales);
      }
    };
    const std::int64_t grain = std::max<std::int64_t>(1, kGrainElements / entry.cols);
    if (options_.pool != nullptr)
      options_.pool->parallel_for(rows, grain, body);
    else
      body(0, rows);
  }

  void report(std::int64_t bytes) {
    done_ += bytes;
    if (options_.progress) options_.progress(done_, total_);
  }

  const SynthOptions& options_;
  std::int64_t total_;
  std::int64_t done_ = 0;
};

Status write_text(const fs::path& path, const std::string& text) {
  M3_TRY(auto file, FileWriter::create(path.string()));
  M3_TRY_STATUS(file.write(text));
  return file.commit();
}

// The quantization_config of the released MXFP8 repository (spec: text-model §1.5).
Json quantization(const Config& config) {
  Json ignored = {"lm_head", "model.embed_tokens", "vision_tower", "multi_modal_projector",
                  "patch_merge_mlp"};
  for (std::size_t l = 0; l < config.moe_layers.size(); ++l)
    if (config.moe_layers[l])
      ignored.push_back(fmt::format("language_model.model.layers.{}.block_sparse_moe.gate", l));
  Json json;
  json["quant_method"] = "mxfp8";
  json["activation_scheme"] = "dynamic";
  json["weight_block_size"] = {1, 32};
  json["ignored_layers"] = std::move(ignored);
  return json;
}

// The given text, word for word unless the format differs from what it says.
std::string config_text(const SynthOptions& options, const Config& config, Format format) {
  const bool mxfp8 = format == Format::kMxfp8;
  if (mxfp8 == config.mxfp8) return options.config_json;
  Json json = Json::parse(options.config_json);  // parse_config() has read it: it cannot fail
  json.erase(kQuantization);
  if (json.contains("text_config") && json["text_config"].is_object())
    json["text_config"].erase(kQuantization);
  if (mxfp8) json[kQuantization] = quantization(config);
  return json.dump(2) + "\n";
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

std::string index_text(const std::vector<Shard>& shards, const std::vector<std::string>& names,
                       std::int64_t total) {
  Json map = Json::object();
  for (std::size_t i = 0; i < shards.size(); ++i)
    for (const TensorInfo& info : infos_of(shards[i])) map[info.name] = names[i];
  Json json;
  json["metadata"]["total_size"] = total;
  json["weight_map"] = std::move(map);
  return json.dump(1) + "\n";
}

Result<Format> format_of(const SynthOptions& options, const Config& config) {
  const Format format = options.format.value_or(config.mxfp8 ? Format::kMxfp8 : Format::kBF16);
  if (format != Format::kBF16 && format != Format::kMxfp8)
    return fail("random models are written as bf16 or mxfp8, not as {}", codec_of(format).name);
  return format;
}

// The files of a directory, whose weights are those of the table.
Status write_model(const SynthOptions& options, const Config& config, Format format,
                   const std::vector<WeightSpec>& table) {
  const auto shards = cut_into_shards(table, format, config.flat, options.shard_bytes);
  const auto names = file_names(shards.size(), config.flat);
  std::int64_t total = 0;
  for (const Shard& shard : shards)
    for (const Entry& entry : shard) total += entry.bytes();

  const fs::path directory = options.directory;
  const std::string text = config_text(options, config, format);
  M3_TRY_STATUS(claim_directory(options.directory, text, names, /*indexed=*/!config.flat));
  M3_TRY_STATUS(write_text(directory / "config.json", text));
  if (!options.mtp_only)
    M3_TRY_STATUS(write_text(directory / "generation_config.json", generation_text(config)));
  WeightWriter writer(options, total);
  for (std::size_t i = 0; i < shards.size(); ++i)
    M3_TRY_STATUS(writer.write((directory / names[i]).string(), shards[i]));
  if (!config.flat)
    M3_TRY_STATUS(write_text(directory / kIndexName, index_text(shards, names, total)));
  return {};
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
  M3_TRY(const Format format, format_of(options, config));
  M3_TRY(const auto table, mtp_weight_table(config, config.mtp_modules));
  return write_model(options, config, format, table);
}

}  // namespace

Status synth_checkpoint(const SynthOptions& options) {
  if (options.mtp_only) return synth_mtp(options);
  M3_TRY(const Config config, parse_config(options.config_json, "the config"));
  M3_TRY(const Format format, format_of(options, config));
  M3_TRY(const auto table, weight_table(config, config.mtp_modules));
  return write_model(options, config, format, table);
}

}  // namespace m3
