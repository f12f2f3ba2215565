// MTP modules on disk: bundled with a model, in a directory of their own, or not there.
#include "model/mtp_checkpoint.h"

#include "model/test_model.h"

namespace m3 {
namespace {

using Json = nlohmann::json;

const std::string kSecond = "language_model.model.mtp.layers.1.";

Json with_mtp(int modules) {
  Json config = tiny_config();
  config["text_config"]["num_mtp_modules"] = modules;
  return config;
}

const StoredModel& two_modules() {
  static const StoredModel model = tiny_model(with_mtp(2), Format::kBF16);
  return model;
}

StoredModel without_mtp(StoredModel model) {
  std::erase_if(model, [](const auto& entry) {
    return entry.first.find("mtp.layers.") != std::string::npos;
  });
  return model;
}

StoredModel renamed(const StoredModel& model, const std::string& from, const std::string& to) {
  StoredModel other;
  for (const auto& [name, tensor] : model) {
    const auto at = name.find(from);
    other[at == std::string::npos ? name : std::string(name).replace(at, from.size(), to)] = tensor;
  }
  return other;
}

Result<Weights> load_mtp(const Json& config, const StoredModel& model) {
  const TestDirectory directory;
  write_model(model, directory / "model.safetensors");
  M3_TRY(const Config parsed, parse_config(config.dump(), "config.json"));
  M3_TRY(auto checkpoint, Checkpoint::open(directory.path()));
  return load_weights(parsed, std::move(checkpoint), {}, nullptr, {.mtp = true});
}

// A standalone directory of `modules`, as synth writes it.
void synthesise_alone(int modules, Format format, const std::string& directory) {
  SynthOptions options;
  options.config_json = with_mtp(modules).dump();
  options.directory = directory;
  options.seed = 5;
  options.format = format;
  options.mtp_only = true;
  const Status written = synth_checkpoint(options);
  ASSERT_TRUE(written) << written.error().message;
}

// Loads two_modules() without its modules and with those of the directory.
Result<Weights> load_alone(const std::string& directory, const Json& config = with_mtp(0)) {
  const TestDirectory model;
  write_model(without_mtp(two_modules()), model / "model.safetensors");
  M3_TRY(const Config parsed, parse_config(config.dump(), "config.json"));
  M3_TRY(auto checkpoint, Checkpoint::open(model.path()));
  LoadOptions options{.mtp = true};
  M3_TRY(options.standalone_mtp, open_mtp(directory, parsed));
  return load_weights(parsed, std::move(checkpoint), {}, nullptr, options);
}

TEST(Mtp, ModulesAreCheckedAndLoadedOnlyWhenAskedFor) {
  const auto unasked = load(with_mtp(2), two_modules());
  ASSERT_TRUE(unasked) << unasked.error().message;
  EXPECT_EQ(unasked->mtp_modules, 2);
  EXPECT_TRUE(unasked->mtp.empty());
  EXPECT_TRUE(unasked->warnings.empty());
  const auto asked = load_mtp(with_mtp(2), two_modules());
  ASSERT_TRUE(asked) << asked.error().message;
  ASSERT_EQ(asked->mtp.size(), 2u);
  EXPECT_EQ(text_values(*asked), text_values(*unasked));
  const MtpWeights& second = asked->mtp[1];
  EXPECT_EQ(second.join.weight.rows, 40);
  EXPECT_EQ(second.join.weight.cols, 80);
  EXPECT_EQ(second.layer.moe->gate.size(), 5u);
  EXPECT_TRUE(second.layer.indexer);
  // A view into the file, not a copy.
  const CheckpointTensor* stored = asked->checkpoint->find(kSecond + "eh_proj.weight");
  EXPECT_EQ(second.join.weight.values.data, stored->tensor().data);
  std::vector<float> join, expected(40 * 80);
  append(second.join.weight, join);
  const auto* bytes =
      reinterpret_cast<const BF16*>(two_modules().at(kSecond + "eh_proj.weight").bytes.data());
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = to_float(bytes[i]);
  EXPECT_EQ(join, expected);
}

TEST(Mtp, FilesDecideHowMany) {
  const auto none = load(with_mtp(7), without_mtp(two_modules()));
  ASSERT_TRUE(none) << none.error().message;
  EXPECT_EQ(none->mtp_modules, 0);
  ASSERT_EQ(none->warnings.size(), 1u);
  EXPECT_NE(none->warnings[0].find("declares 7 MTP modules, but the files hold none"),
            std::string::npos);
  const auto more = load_mtp(with_mtp(1), two_modules());
  ASSERT_TRUE(more) << more.error().message;
  EXPECT_EQ(more->mtp.size(), 2u);
  ASSERT_EQ(more->warnings.size(), 1u);
  EXPECT_NE(more->warnings[0].find("declares 1"), std::string::npos);
  expect_error(load_mtp(with_mtp(7), without_mtp(two_modules())),
               {"holds no MTP module", "declares 7"});
}

TEST(Mtp, ModulesAreWholeAndNumberedFromZero) {
  for (const bool asked : {false, true}) {
    const auto load_it = [&](const StoredModel& model) {
      return asked ? load_mtp(with_mtp(2), model) : load(with_mtp(2), model);
    };
    StoredModel partial = two_modules();
    partial.erase(kSecond + "eh_proj.weight");
    expect_error(load_it(partial), {"lacks 1", kSecond + "eh_proj.weight"});
    partial = two_modules();
    partial.erase(kSecond + "transformer_layer.self_attn.index_k_proj.weight");
    expect_error(load_it(partial), {"index_k_proj"});
    StoredModel narrow = two_modules();
    narrow[kSecond + "eh_proj.weight"].shape = {80, 40};
    expect_error(load_it(narrow), {kSecond + "eh_proj.weight", "[80, 40]", "[40, 80]"});
    expect_error(load_it(renamed(two_modules(), "mtp.layers.1.", "mtp.layers.3.")),
                 {"0, 3", "0 to 1"});
    StoredModel extra = two_modules();
    extra[kSecond + "transformer_layer.mlp.gate_proj.weight"] = {DType::kU8, {1}, "x"};
    expect_error(load_it(extra), {"mlp.gate_proj"});
  }
}

TEST(Mtp, AloneIsLikeBundled) {
  for (const Format format : {Format::kBF16, Format::kMxfp8}) {
    const auto bundled = load_mtp(with_mtp(3), tiny_model(with_mtp(3), format));
    ASSERT_TRUE(bundled) << bundled.error().message;
    const TestDirectory directory;
    synthesise_alone(3, format, directory.path());
    const auto config = load_config(directory.path());
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_TRUE(config->flat);
    EXPECT_TRUE(config->warnings.empty()) << config->warnings[0];
    const auto alone = load_alone(directory.path());
    ASSERT_TRUE(alone) << alone.error().message;
    EXPECT_TRUE(alone->warnings.empty()) << alone->warnings[0];
    EXPECT_EQ(mtp_values(*alone), mtp_values(*bundled));
    EXPECT_EQ(alone->mtp[0].join.weight.codec->format, format);
  }
}

TEST(Mtp, AloneUnderEveryName) {
  const TestDirectory directory;
  synthesise_alone(2, Format::kMxfp8, directory.path());
  const auto plain = load_alone(directory.path());
  ASSERT_TRUE(plain) << plain.error().message;
  const StoredModel stored = read_model(directory.path());
  EXPECT_TRUE(stored.contains("model.mtp.layers.1.eh_proj.weight_scale_inv"));
  for (const auto& [from, to] :
       {std::pair{"model.", "language_model.model."}, {"_scale_inv", "_scale"}}) {
    write_model(renamed(stored, from, to), directory / "model.safetensors");
    const auto other = load_alone(directory.path());
    ASSERT_TRUE(other) << other.error().message;
    EXPECT_EQ(mtp_values(*other), mtp_values(*plain));
  }
}

TEST(Mtp, AloneButNotOfThisModel) {
  const TestDirectory directory;
  synthesise_alone(1, Format::kBF16, directory.path());
  Json wider = with_mtp(0);
  wider["text_config"]["num_experts_per_tok"] = 3;
  expect_error(load_alone(directory.path(), wider), {"num_experts_per_tok", "another model"});

  const StoredModel stored = read_model(directory.path());
  StoredModel model = stored;
  model["model.norm.weight"] = {DType::kBF16, {1}, "xx"};
  write_model(model, directory / "model.safetensors");
  expect_error(load_alone(directory.path()), {"model.norm.weight"});
  model = {{"other", {DType::kU8, {1}, "x"}}};
  write_model(model, directory / "model.safetensors");
  expect_error(load_alone(directory.path()), {directory.path(), "holds no MTP module"});
  expect_error(load_alone(directory / "absent"), {"absent"});
}

TEST(Mtp, NoneToWriteAlone) {
  SynthOptions options;
  options.config_json = with_mtp(0).dump();
  options.directory = "unused";
  options.mtp_only = true;
  expect_error(synth_checkpoint(options), {"num_mtp_modules"});
}

}  // namespace
}  // namespace m3
