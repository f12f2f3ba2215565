#include "model/synth.h"

#include <csignal>
#include <sstream>

#include "base/file.h"
#include "model/random_values.h"
#include "model/test_model.h"

namespace m3 {
namespace {

using Json = nlohmann::json;

std::string model_file(std::string_view model, std::string_view file) {
  return fmt::format("{}/tests/data/models/{}/{}", M3_SOURCE_DIR, model, file);
}

std::string text_of(const std::string& path) {
  auto text = read_text_file(path);
  EXPECT_TRUE(text) << text.error().message;
  return text.value_or("");
}

std::uint64_t fnv1a(std::string_view bytes) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001B3u;
  return hash;
}

// "BF16 4096x128 98572f518ba1aec5".
std::string describe(const StoredTensor& tensor) {
  std::string shape;
  for (std::int64_t axis : tensor.shape)
    shape += fmt::format("{}{}", shape.empty() ? "" : "x", axis);
  return fmt::format("{} {} {:016x}", dtype_name(tensor.dtype), shape, fnv1a(tensor.bytes));
}

class Goldens : public testing::TestWithParam<const char*> {};

TEST_P(Goldens, ComeOutBitForBit) {
  const TestDirectory directory;
  std::istringstream lines(text_of(model_file(GetParam(), "tensors.txt")));
  std::string word;
  SynthOptions options;
  ASSERT_TRUE(lines >> word >> options.seed);
  ThreadPool pool(3);
  options.config_json = text_of(model_file(GetParam(), "config.json"));
  options.directory = directory.path();
  options.shard_bytes = 1'000'000;
  options.pool = &pool;
  const Status written = synth_checkpoint(options);
  ASSERT_TRUE(written) << written.error().message;

  const StoredModel model = read_model(directory.path());
  int compared = 0;
  for (std::string name, rest; lines >> name && std::getline(lines >> std::ws, rest); ++compared) {
    ASSERT_TRUE(model.contains(name)) << name;
    EXPECT_EQ(describe(model.at(name)), rest) << name;
  }
  EXPECT_GT(compared, 20);
  EXPECT_EQ(text_of(directory / "config.json"), options.config_json);
}

INSTANTIATE_TEST_SUITE_P(Models, Goldens,
                         testing::Values("nano", "nano-mxfp8", "smooth", "heads", "lists", "yarn",
                                         "flat", "nano-mtp", "train", "train-smooth"),
                         [](const auto& model) {
                           std::string name = model.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(RandomValues, FollowTheRule) {
  // From an independent program in exact integers: key, then elements 0 and 1 with std 1/sqrt(3).
  EXPECT_EQ(random_key(0, ""), 0xCBF29CE484222325u);
  EXPECT_EQ(random_key(1, "a"), 0xaf63dc4c8601ec8cu ^ 0x9E3779B97F4A7C15u);
  // SplitMix64 from state 0 begins with e220a8397b1dcdaf, 6e789e6aa1b965f4.
  float values[2];
  fill_random(0, 0, 2, {0, 1 / std::sqrt(3.0)}, values);
  EXPECT_NEAR(values[0], 0xe220a8 * 0x1p-23 - 1, 1e-7);
  EXPECT_NEAR(values[1], 0x6e789e * 0x1p-23 - 1, 1e-7);
  float second;
  fill_random(0, 1, 1, {0, 1 / std::sqrt(3.0)}, &second);
  EXPECT_EQ(second, values[1]);
}

TEST(Presets, NanoIsTheModelOfTheGoldens) {
  EXPECT_EQ(Json::parse(nano_config()), Json::parse(text_of(model_file("nano", "config.json"))));
}

TEST(Presets, SlicesHaveTheReleasedWidths) {
  const auto text = slice_config({.dense_layers = 2, .moe_layers = 1, .experts = 8, .vocab = 512});
  ASSERT_TRUE(text) << text.error().message;
  const auto config = parse_config(*text, "slice");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_TRUE(config->flat);
  EXPECT_EQ(config->hidden, 6144);
  EXPECT_EQ(config->moe_layers, (std::vector<bool>{false, false, true}));
  EXPECT_EQ(config->sparse_layers, config->moe_layers);
  EXPECT_EQ(config->experts, 8);
  EXPECT_EQ(config->vocab, 512);
  EXPECT_EQ(config->positions_max, 1048576);
  expect_error(slice_config({.experts = 3}), {"num_experts_per_tok"});
  expect_error(slice_config({.dense_layers = 0, .moe_layers = 0}), {"num_hidden_layers"});
  expect_error(slice_config({.dense_layers = -1}), {"-1"});
}

TEST(Synth, WritesAnIndexAndSaysThatTheWeightsAreRandom) {
  const TestDirectory directory;
  synthesise(tiny_config(), Format::kBF16, directory.path(), 100000);
  const Json index = Json::parse(text_of(directory / "model.safetensors.index.json"));
  const auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(index["weight_map"].size(), checkpoint.value()->tensors().size());
  for (const auto& [name, tensor] : checkpoint.value()->tensors())
    EXPECT_EQ(directory / index["weight_map"][name].get<std::string>(), tensor.file->path());
  EXPECT_NE(checkpoint.value()->synthetic().find("seed 5"), std::string::npos);
  const Json generation = Json::parse(text_of(directory / "generation_config.json"));
  EXPECT_EQ(generation["eos_token_id"], 99 - 64 + 20);
}

TEST(Synth, TheConfigFollowsTheFormat) {
  const TestDirectory directory;
  synthesise(tiny_config(), Format::kMxfp8, directory.path());
  const auto config = load_config(directory.path());
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->quantisation.linears, Format::kMxfp8);
  auto checkpoint = Checkpoint::open(directory.path());
  const auto weights = load_weights(config.value(), checkpoint.value());
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_TRUE(weights->warnings.empty()) << weights->warnings[0];

  const TestDirectory plain;
  synthesise(Json::parse(text_of(directory / "config.json")), Format::kBF16, plain.path());
  EXPECT_EQ(Json::parse(text_of(plain / "config.json")), tiny_config());
}

TEST(Synth, RefusesToMixWithAnotherModel) {
  const TestDirectory directory;
  SynthOptions options;
  options.config_json = tiny_config().dump();
  options.directory = directory.path();
  directory.write("model.safetensors", "foreign");
  expect_error(synth_checkpoint(options), {directory.path(), "model.safetensors"});
  std::filesystem::remove(directory / "model.safetensors");
  EXPECT_TRUE(synth_checkpoint(options));
  EXPECT_TRUE(synth_checkpoint(options));  // the same again replaces
  options.format = Format::kMxfp8;
  expect_error(synth_checkpoint(options), {directory.path(), "already holds config.json"});
}

TEST(Synth, RefusesBadOptions) {
  const TestDirectory directory;
  SynthOptions options;
  options.directory = directory / "new";
  options.config_json = "{}";
  expect_error(synth_checkpoint(options), {"the config"});
  options.config_json = tiny_config().dump();
  options.format = Format::kF32;
  expect_error(synth_checkpoint(options), {"f32", "bf16"});
  EXPECT_FALSE(std::filesystem::exists(options.directory));
  options.format = std::nullopt;
  options.directory = directory.write("file", "") + "/inside";
  expect_error(synth_checkpoint(options), {"file/inside"});
}

TEST(Synth, ProgressEndsWithAllBytes) {
  const TestDirectory directory;
  SynthOptions options;
  options.config_json = tiny_config().dump();
  options.directory = directory.path();
  std::int64_t last = 0;
  std::int64_t all = -1;
  options.progress = [&](std::int64_t done, std::int64_t total) {
    last = done;
    all = total;
  };
  ASSERT_TRUE(synth_checkpoint(options));
  EXPECT_EQ(last, all);
  const Json index = Json::parse(text_of(directory / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], all);
}

}  // namespace
}  // namespace m3
