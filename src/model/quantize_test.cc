#include "model/quantize.h"

#include <cmath>
#include <filesystem>

#include "base/file.h"
#include "model/inspect.h"
#include "model/test_model.h"

namespace m3 {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

// A model to be quantised, and a place for what comes out.
struct Work {
  explicit Work(const Json& config = tiny_config(), Format format = Format::kBF16) {
    synthesise(config, format, source());
  }
  std::string source() const { return directory / "source"; }
  std::string out() const { return directory / "out"; }
  QuantizeOptions options(Format format) const {
    QuantizeOptions options;
    options.source = source();
    options.directory = out();
    options.format = format;
    return options;
  }
  Result<RewriteReport> run(Format format, std::vector<FormatRule> keep = {}) const {
    QuantizeOptions options = this->options(format);
    options.keep = std::move(keep);
    return quantize_checkpoint(options);
  }
  TestDirectory directory;
};

Result<Weights> load_directory(const std::string& directory) {
  M3_TRY(const Config config, load_config(directory));
  M3_TRY(auto checkpoint, Checkpoint::open(directory));
  return load_weights(config, std::move(checkpoint));
}

void expect_same_model(const StoredModel& actual, const StoredModel& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_TRUE(actual.contains(name)) << name;
    EXPECT_EQ(actual.at(name).dtype, tensor.dtype) << name;
    EXPECT_EQ(actual.at(name).shape, tensor.shape) << name;
    EXPECT_TRUE(actual.at(name).bytes == tensor.bytes) << name;
  }
}

std::string text_of(const std::string& path) {
  return read_text_file(path).value_or("there is no " + path);
}

// m3 synth writes in a format what it would write in bfloat16, quantised.
TEST(Quantize, GivesWhatSynthWrites) {
  Json config = tiny_config();
  config["text_config"]["num_mtp_modules"] = 1;
  const Work work(config);
  ThreadPool pool(3);
  for (const Format format : {Format::kMxfp8, Format::kMxfp4, Format::kNvfp4, Format::kInt8}) {
    SCOPED_TRACE(codec_of(format).name);
    QuantizeOptions options = work.options(format);
    options.directory += codec_of(format).name;
    options.shard_bytes = 60000;
    options.pool = &pool;
    std::int64_t last = 0;
    options.progress = [&](std::int64_t done, std::int64_t) { last = done; };
    const auto report = quantize_checkpoint(options);
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_EQ(last, report->bytes);
    const TestDirectory expected;
    synthesise(config, format, expected.path());
    expect_same_model(read_model(options.directory), read_model(expected.path()));
    EXPECT_EQ(Json::parse(text_of(options.directory + "/config.json")),
              Json::parse(text_of(expected / "config.json")));
    const auto weights = load_directory(options.directory);
    ASSERT_TRUE(weights) << weights.error().message;
    EXPECT_TRUE(weights->warnings.empty()) << weights->warnings[0];
    EXPECT_EQ(weights->mtp_modules, 1);
    EXPECT_FALSE(weights->checkpoint->synthetic().empty());
  }
}

TEST(Quantize, ReportsErrors) {
  const Work work;
  const auto report = work.run(Format::kMxfp4);
  ASSERT_TRUE(report) << report.error().message;
  const auto before = load_directory(work.source()), after = load_directory(work.out());
  ASSERT_TRUE(before && after);
  std::vector<float> x, y;
  append(before->layers[1].moe->down[2].weight, x);
  append(after->layers[1].moe->down[2].weight, y);
  double squares = 0, errors = 0, largest = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double error = double{y[i]} - x[i];
    squares += double{x[i]} * x[i];
    errors += error * error;
    largest = std::max(largest, std::abs(error));
  }
  int found = 0;
  for (const RewrittenWeight& weight : report->weights) {
    EXPECT_EQ(weight.from == weight.to, weight.error.squares == 0) << weight.name;
    if (!weight.name.ends_with("layers.1.block_sparse_moe.experts.2.w2.weight")) continue;
    ++found;
    EXPECT_EQ(weight.kind, Kind::kExpert);
    EXPECT_EQ(weight.to->format, Format::kMxfp4);
    EXPECT_EQ(weight.bytes, 40 * 12 + 40);
    EXPECT_NEAR(weight.error.squares, squares, 1e-9 * squares);
    EXPECT_NEAR(weight.error.error_squares, errors, 1e-9 * errors);
    EXPECT_EQ(weight.error.error_max, largest);
  }
  EXPECT_EQ(found, 1);
  EXPECT_LT(report->bytes, report->source_bytes);
}

TEST(Quantize, RulesDecideInTheirOrder) {
  const Work work;
  const auto report = work.run(Format::kMxfp4, {{"*layers.0.mlp.*", Format::kInt8},
                                                {"*layers.0.*", Format::kNvfp4},
                                                {"*lm_head*", Format::kMxfp8},
                                                {"*embed_tokens*", Format::kMxfp8},
                                                {"*shared_experts*", Format::kBF16}});
  ASSERT_TRUE(report) << report.error().message;
  const auto weights = load_directory(work.out());
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_TRUE(weights->warnings.empty()) << weights->warnings[0];
  EXPECT_EQ(weights->layers[0].mlp->down.weight.codec->format, Format::kInt8);
  EXPECT_EQ(weights->layers[0].attention.v.weight.codec->format, Format::kNvfp4);
  EXPECT_EQ(weights->layers[1].attention.v.weight.codec->format, Format::kMxfp4);
  EXPECT_EQ(weights->layers[1].moe->shared->gate.weight.codec->format, Format::kBF16);
  EXPECT_EQ(weights->head.weight.codec->format, Format::kMxfp8);
  EXPECT_EQ(weights->embedding.codec->format, Format::kMxfp8);
}

TEST(Quantize, Nvfp4BesideMxfp8IsMixedPrecision) {
  const Work work(tiny_config(), Format::kMxfp8);
  ASSERT_TRUE(work.run(Format::kNvfp4, {{"*self_attn*", Format::kMxfp8}}));
  const Json config = Json::parse(text_of(work.out() + "/config.json"))["quantization_config"];
  EXPECT_EQ(config["quant_method"], "modelopt");
  EXPECT_EQ(config["quant_algo"], "MIXED_PRECISION");
  EXPECT_EQ(config["quantized_layers"]["language_model.model.layers.1.self_attn.q_proj"],
            Json({{"quant_algo", "MXFP8"}}));
  const auto weights = load_directory(work.out());
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_TRUE(weights->warnings.empty()) << weights->warnings[0];
  // Kept bytes are the source's.
  const StoredModel before = read_model(work.source()), after = read_model(work.out());
  const std::string name = "language_model.model.layers.1.self_attn.index_q_proj.weight_scale_inv";
  EXPECT_EQ(before.at(name).bytes, after.at(name).bytes);
}

TEST(Quantize, TakesOtherFilesAlong) {
  const Work work;
  const auto write = [&](const char* name, const char* text) {
    work.directory.write(std::string("source/") + name, text);
  };
  write("tokenizer.json", "{}");
  write("chat_template.jinja", "hi");
  write("hf_quant_config.json", "{}");
  write(".hidden", "x");
  fs::create_directory(work.source() + "/original");
  fs::create_symlink(work.source() + "/tokenizer.json", work.source() + "/linked.json");
  ASSERT_TRUE(work.run(Format::kInt8));
  EXPECT_EQ(text_of(work.out() + "/tokenizer.json"), "{}");
  EXPECT_EQ(text_of(work.out() + "/linked.json"), "{}");
  EXPECT_EQ(text_of(work.out() + "/chat_template.jinja"), "hi");
  EXPECT_TRUE(fs::exists(work.out() + "/generation_config.json"));
  for (const char* name : {"hf_quant_config.json", ".hidden", "original"})
    EXPECT_FALSE(fs::exists(work.out() + "/" + name)) << name;
}

TEST(Quantize, WritesOverNothingButItsOwn) {
  const Work work;
  ASSERT_TRUE(work.run(Format::kInt8));
  EXPECT_TRUE(work.run(Format::kInt8));
  expect_error(work.run(Format::kMxfp4), {work.out(), "config.json"});
  const auto into = [&](const std::string& directory) {
    QuantizeOptions options = work.options(Format::kMxfp4);
    options.directory = directory;
    return quantize_checkpoint(options);
  };
  expect_error(into(work.source()), {work.source(), "the model itself"});
  expect_error(into(work.source() + "/../source/./"), {"the model itself"});
  expect_error(into(work.source() + "/inside"), {"inside its directory"});
  fs::create_directory_symlink(work.source(), work.directory / "link");
  expect_error(into(work.directory / "link"), {"the model itself"});
  EXPECT_EQ(read_model(work.source()).size(), tiny_model(tiny_config(), Format::kBF16).size());
  fs::create_directory(work.directory / "used");
  work.directory.write("used/letter.txt", "x");
  expect_error(into(work.directory / "used"), {"used is not empty"});
  // The random model of the same config is no output of this command, though its config agrees.
  const std::string random = work.directory / "random";
  synthesise(tiny_config(), Format::kMxfp4, random);
  expect_error(into(random), {"random", "already holds"});
}

TEST(Quantize, RefusesRulesThatMeanNothing) {
  const Work work;
  expect_error(work.run(Format::kMxfp4, {{"*q_porj*", Format::kBF16}}), {"*q_porj*", "no weight"});
  expect_error(work.run(Format::kMxfp4, {{"*norm*", Format::kMxfp8}}), {"*norm*", "stay"});
  expect_error(work.run(Format::kMxfp4, {{"*block_sparse_moe.gate.*", Format::kMxfp8}}),
               {"gate", "router"});
  expect_error(work.run(Format::kMxfp4, {{"*q_proj*", Format::kInt8}}), {"share a format"});
  expect_error(work.run(Format::kMxfp4, {{"*experts.2.w2*", Format::kInt8}}),
               {"experts.2.w2", "share a format"});
  expect_error(work.run(Format::kMxfp8, {{"*index_*", Format::kBF16}}), {"index_", "share"});
  EXPECT_FALSE(fs::exists(work.out()));
}

TEST(Quantize, RefusesNumbersAndShapesThatDoNotGo) {
  for (const Format format : {Format::kMxfp8, Format::kMxfp4, Format::kNvfp4, Format::kInt8}) {
    const Work work;
    StoredModel model = read_model(work.source());
    const std::string name = "language_model.model.layers.0.self_attn.o_proj.weight";
    model.at(name).bytes.replace(96 * 2 * 3, 2, format == Format::kInt8 ? "\x80\x7f" : "\xc0\xff");
    fs::remove_all(work.source() + "/model.safetensors.index.json");
    for (const auto& entry : fs::directory_iterator(work.source()))
      if (entry.path().extension() == ".safetensors") fs::remove(entry.path());
    write_model(model, work.source() + "/model.safetensors");
    expect_error(work.run(format), {name, "row 3", "not finite"});
  }
  Json odd = tiny_config();
  odd["text_config"]["intermediate_size"] = 23;
  const Work work(odd);
  expect_error(work.run(Format::kMxfp4), {"w2.weight", "23 columns"});
  EXPECT_TRUE(work.run(Format::kMxfp4, {{"*.w2.weight", Format::kInt8}}));
}

}  // namespace
}  // namespace m3
