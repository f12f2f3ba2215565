#include "model/inspect.h"

#include <chrono>

#include "base/file.h"
#include "model/test_model.h"
#include "model/weight_table.h"
#include "tensor/codecs.h"

namespace m3 {
namespace {

using Json = nlohmann::json;

Config released(bool mxfp8) {
  auto config = load_config(std::string(M3_SOURCE_DIR) + "/tests/data/models/released");
  EXPECT_TRUE(config) << config.error().message;
  if (mxfp8) config->quantisation.linears = Format::kMxfp8;
  return config.value();
}

// The release declares 7 modules and ships none.
Config without_mtp(Config config) {
  config.mtp_modules = 0;
  return config;
}

// Writes the files of a model of any size without their data: the headers, and then a hole.
void write_hollow(const Config& config, const TestDirectory& directory, int shards) {
  const auto table = weight_table(config, 0);
  ASSERT_TRUE(table);
  std::vector<std::vector<TensorInfo>> files(static_cast<std::size_t>(shards));
  for (std::size_t i = 0; i < table->size(); ++i) {
    const WeightSpec& spec = (*table)[i];
    auto& file = files[i * files.size() / table->size()];
    const bool quantised = config.quantisation.linears == Format::kMxfp8 && spec.quantised;
    file.push_back({spec.name, quantised ? DType::kF8E4M3 : spec.stored, spec.shape});
    if (quantised)
      file.push_back({spec.name + "_scale_inv",
                      DType::kU8,
                      {spec.shape[0], scale_cols(kMxfp8Codec, spec.shape[1])}});
  }
  for (std::size_t i = 0; i < files.size(); ++i) {
    const auto header = safetensors_header(files[i]);
    ASSERT_TRUE(header) << header.error().message;
    const std::string path = directory.write(fmt::format("model-{}.safetensors", i), *header);
    const auto bytes = static_cast<std::int64_t>(header->size()) + files[i].back().end;
    ASSERT_EQ(::truncate(path.c_str(), bytes), 0) << "no room for a hole of " << bytes << " bytes";
  }
}

ModelSummary summary_of(const Config& config, const Checkpoint* checkpoint,
                        std::int64_t tokens = 0) {
  auto summary = summarise(config, checkpoint, {.tokens = tokens});
  EXPECT_TRUE(summary) << summary.error().message;
  return summary ? *summary : ModelSummary{};
}

void expect_same(const ModelSummary& a, const ModelSummary& b) {
  EXPECT_EQ(a.tensors, b.tensors);
  EXPECT_EQ(a.bytes, b.bytes);
  EXPECT_EQ(a.values, b.values);
  EXPECT_EQ(a.values_active, b.values_active);
  EXPECT_EQ(a.scales, b.scales);
  ASSERT_EQ(a.types.size(), b.types.size());
  for (const auto& [name, type] : a.types) {
    EXPECT_EQ(type.tensors, b.types.at(name).tensors) << name;
    EXPECT_EQ(type.bytes, b.types.at(name).bytes) << name;
  }
  for (std::size_t l = 0; l < a.layers.size(); ++l)
    EXPECT_EQ(a.layers[l].bytes, b.layers[l].bytes) << l;
}

// spec: text-model §1.7, §2.1.
TEST(Inspect, TheReleasedModelInBfloat16) {
  const Config config = released(false);
  const TestDirectory directory;
  write_hollow(config, directory, 7);
  const auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const ModelSummary s = summary_of(config, checkpoint.value().get());
  EXPECT_EQ(s.tensors, 23416);
  EXPECT_EQ(s.values, 427'040'140'160);
  EXPECT_EQ(s.values_text, 426'174'572'928);
  EXPECT_EQ(s.values_vision, 865'567'232);
  EXPECT_EQ(s.values_active, 25'962'473'856);
  EXPECT_EQ(s.bytes, 854'172'958'720);
  EXPECT_EQ(s.scales, 0);
  EXPECT_EQ(s.mtp_modules, 0);
  EXPECT_EQ(s.types.at("F32").elements, 46'339'200);
  EXPECT_EQ(s.layers[0].values, 333'459'712);
  EXPECT_EQ(s.layers[3].values, 7'416'066'688);
  EXPECT_EQ(s.layers[3].values_active, 394'801'792);
  expect_same(s, summary_of(without_mtp(config), nullptr));
}

// spec: text-model §2.4.
TEST(Inspect, TheReleasedModelInMxfp8) {
  const Config config = released(true);
  const TestDirectory directory;
  write_hollow(config, directory, 5);
  const auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const auto begin = std::chrono::steady_clock::now();
  const ModelSummary s = summary_of(config, checkpoint.value().get());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  EXPECT_EQ(s.tensors, 45838);
  EXPECT_EQ(s.values, 427'040'140'160);
  EXPECT_EQ(s.scales, 13'239'705'600);
  EXPECT_EQ(s.bytes, 443'742'085'120);
  EXPECT_EQ(s.types.at("F8_E4M3").elements, 423'670'579'200);
  EXPECT_EQ(s.types.at("U8").tensors, 22422);
  EXPECT_TRUE(s.warnings.empty()) << s.warnings[0];
  expect_same(s, summary_of(without_mtp(config), nullptr));
}

// spec: text-model §4.
TEST(Inspect, MemoryOfTheReleasedModel) {
  const ModelSummary s = summary_of(without_mtp(released(false)), nullptr, 131072);
  EXPECT_EQ(s.memory.kv_per_token, 122'880);
  EXPECT_EQ(s.memory.index_per_token, 14'592);
  EXPECT_EQ(s.memory.kv, 15LL << 30);
  EXPECT_EQ(s.memory.index, 131072LL * 14592);
  EXPECT_EQ(s.memory.total, s.bytes + s.memory.kv + s.memory.index);
  EXPECT_EQ(summary_of(released(false), nullptr, 1).memory.kv, 128 * 122'880);  // a whole page
  EXPECT_EQ(summary_of(released(false), nullptr).memory.tokens, 1048576);
  EXPECT_EQ(s.memory.mtp, 0);
  const auto fp8 = summarise(released(false), nullptr, {.cache = {DType::kF8E4M3, {}}});
  ASSERT_TRUE(fp8);
  EXPECT_EQ(fp8->memory.kv_per_token, 61'440);
  EXPECT_EQ(fp8->memory.index_per_token, 14'592);
  const ModelSummary with_mtp = summary_of(released(false), nullptr, 131072);
  EXPECT_EQ(with_mtp.memory.mtp_per_token, 7 * 2304);
  EXPECT_EQ(with_mtp.memory.mtp, 131072LL * 7 * 2304);
  EXPECT_EQ(with_mtp.memory.total,
            with_mtp.bytes + s.memory.kv + s.memory.index + 131072LL * 7 * 2304);
}

TEST(Inspect, RefusesWhatDoesNotFit) {
  expect_error(summarise(released(false), nullptr, {.tokens = 1048577}), {"1048577", "1048576"});
  const TestDirectory directory;
  StoredModel model = tiny_model(tiny_config(), Format::kBF16);
  model.erase("language_model.model.norm.weight");
  write_model(model, directory / "model.safetensors");
  const auto config = parse_config(tiny_config().dump(), "config.json");
  const auto checkpoint = Checkpoint::open(directory.path());
  expect_error(summarise(config.value(), checkpoint.value().get()),
               {"language_model.model.norm.weight"});
}

TEST(Inspect, CountsMtpModulesApart) {
  Json json = tiny_config();
  json["text_config"]["num_mtp_modules"] = 2;
  const TestDirectory directory;
  synthesise(json, Format::kMxfp8, directory.path());
  const auto config = load_config(directory.path());
  const auto checkpoint = Checkpoint::open(directory.path());
  const ModelSummary s = summary_of(config.value(), checkpoint.value().get());
  EXPECT_EQ(s.mtp_modules, 2);
  EXPECT_GT(s.values_mtp, 0);
  EXPECT_EQ(s.values, s.values_text + s.values_vision + s.values_mtp);
  expect_same(s, summary_of(config.value(), nullptr));
}

TEST(Inspect, WritesJsonAndText) {
  const Config config = without_mtp(released(true));
  const ModelSummary s = summary_of(config, nullptr, 1000);
  const Json json = Json::parse(summary_json(config, s));
  EXPECT_EQ(json["values"], 427'040'140'160);
  EXPECT_EQ(json["values_active"], 25'962'473'856);
  EXPECT_EQ(json["tensors"], 45838);
  EXPECT_EQ(json["bytes"], 443'742'085'120);
  EXPECT_EQ(json["memory"]["bytes_per_token"], 137'472);
  EXPECT_EQ(json["memory"]["tokens"], 1000);
  ASSERT_EQ(json["layers"].size(), 60u);
  EXPECT_EQ(json["layers"][2]["attention"], "full");
  EXPECT_EQ(json["layers"][3]["feed_forward"], "moe");
  const std::string text = summary_text(config, s);
  for (const char* part : {"427,040,140,160", "25,962,473,856", "413.27 GiB", "0-2", "3-59"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
}

}  // namespace
}  // namespace m3
