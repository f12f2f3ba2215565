// Quantised checkpoints as others write them: the values that come out are computed here by hand.
#include <cmath>

#include "model/inspect.h"
#include "model/test_model.h"

namespace m3 {
namespace {

using Json = nlohmann::json;

const std::string kLayer1 = "language_model.model.layers.1.";
const std::string kExperts = kLayer1 + "block_sparse_moe.experts.";

const StoredModel& bf16() {
  static const StoredModel model = tiny_model(tiny_config(), Format::kBF16);
  return model;
}

// The weights of the given parts of both MoE layers.
std::vector<std::string> weights_of(const StoredModel& model,
                                    std::initializer_list<std::string_view> parts) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : model)
    for (std::string_view part : parts)
      if (name.starts_with("language_model.model.layers") && tensor.shape.size() == 2 &&
          name.find(part) != std::string::npos)
        names.push_back(name);
  return names;
}

// Bytes that differ from weight to weight; none is NaN as e4m3, nor large as an exponent.
char byte_at(std::size_t i, std::size_t seed) {
  return static_cast<char>((i * 37 + seed * 11) % 0x7E);
}

std::string bytes(std::size_t count, std::size_t seed) {
  std::string text(count, '\0');
  for (std::size_t i = 0; i < count; ++i) text[i] = byte_at(i, seed);
  return text;
}

std::string float_bytes(float x) {
  return {reinterpret_cast<const char*>(&x), sizeof x};
}

StoredTensor packed(const StoredTensor& plain, std::size_t seed) {
  const std::int64_t cols = plain.shape[1] / 2;
  return {DType::kU8, {plain.rows(), cols}, bytes(plain.bytes.size() / 4, seed)};
}

StoredTensor block_scales(const StoredTensor& plain, DType type, std::int64_t block,
                          std::size_t seed) {
  const std::int64_t cols = (plain.shape[1] + block - 1) / block;
  return {type, {plain.rows(), cols}, bytes(static_cast<std::size_t>(plain.rows() * cols), seed)};
}

// As ModelOpt names the parts.
void make_nvfp4(StoredModel& model, const std::string& name, std::size_t seed) {
  const StoredTensor plain = model.at(name);
  const std::string module = name.substr(0, name.rfind('.'));
  model[name] = packed(plain, seed);
  model[name + "_scale"] = block_scales(plain, DType::kF8E4M3, 16, seed + 1);
  model[name + "_scale_2"] = {
      DType::kF32, {}, float_bytes(0.01f + 0.001f * static_cast<float>(seed))};
  model[module + ".input_scale"] = {DType::kF32, {}, float_bytes(0.5f)};
}

void make_mxfp4(StoredModel& model, const std::string& name, std::size_t seed) {
  const StoredTensor plain = model.at(name);
  model[name] = packed(plain, seed);
  model[name + "_scale"] = block_scales(plain, DType::kU8, 32, seed + 1);
}

void make_mxfp8(StoredModel& model, const std::string& name, std::size_t seed) {
  const StoredTensor plain = model.at(name);
  model[name] = {DType::kF8E4M3, plain.shape, bytes(plain.bytes.size() / 2, seed)};
  model[name + "_scale"] = block_scales(plain, DType::kU8, 32, seed + 1);
}

// The format's own tables, written down once more.
double e2m1(int nibble) {
  const double sizes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return (nibble & 8 ? -1 : 1) * sizes[nibble & 7];
}
double e4m3(int byte) {
  const int exponent = byte >> 3 & 15, mantissa = byte & 7;
  const double size =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return byte & 0x80 ? -size : size;
}
int stored_byte(const StoredModel& model, const std::string& name, std::int64_t row,
                std::int64_t col) {
  const StoredTensor& tensor = model.at(name);
  return static_cast<unsigned char>(
      tensor.bytes[static_cast<std::size_t>(row * tensor.shape[1] + col)]);
}
int nibble(const StoredModel& model, const std::string& name, std::int64_t row, std::int64_t col) {
  const int byte = stored_byte(model, name, row, col / 2);
  return col % 2 == 0 ? byte & 15 : byte >> 4;
}
double nvfp4_value(const StoredModel& model, const std::string& name, std::int64_t row,
                   std::int64_t col) {
  float factor;
  std::memcpy(&factor, model.at(name + "_scale_2").bytes.data(), sizeof factor);
  return e2m1(nibble(model, name, row, col)) *
         e4m3(stored_byte(model, name + "_scale", row, col / 16)) * factor;
}
double mxfp4_value(const StoredModel& model, const std::string& name, std::int64_t row,
                   std::int64_t col) {
  return std::ldexp(e2m1(nibble(model, name, row, col)),
                    stored_byte(model, name + "_scale", row, col / 32) - 127);
}
double mxfp8_value(const StoredModel& model, const std::string& name, std::int64_t row,
                   std::int64_t col) {
  return std::ldexp(e4m3(stored_byte(model, name, row, col)),
                    stored_byte(model, name + "_scale", row, col / 32) - 127);
}

template <typename Value>
void expect_values(const Matrix& w, const StoredModel& model, const std::string& name,
                   Value value) {
  std::vector<float> row(static_cast<std::size_t>(w.cols));
  for (std::int64_t r = 0; r < w.rows; ++r) {
    w.codec->decode(w, r, 0, w.cols, row.data());
    for (std::int64_t c = 0; c < w.cols; ++c)
      ASSERT_EQ(row[static_cast<std::size_t>(c)], static_cast<float>(value(model, name, r, c)))
          << name << " [" << r << ", " << c << "]";
  }
}

// nvidia/MiniMax-M3-NVFP4 in small: routed experts NVFP4, other linears MXFP8.
StoredModel modelopt_model() {
  StoredModel model = bf16();
  std::size_t seed = 0;
  for (const auto& name : weights_of(bf16(), {".experts."})) make_nvfp4(model, name, ++seed);
  for (const auto& name : weights_of(bf16(), {".self_attn.", ".mlp.", ".shared_experts."}))
    make_mxfp8(model, name, ++seed);
  return model;
}

Json modelopt_layers(const StoredModel& model) {
  Json layers = Json::object();
  for (const auto& [name, tensor] : model) {
    if (!model.contains(name + "_scale")) continue;
    const bool nvfp4 = model.contains(name + "_scale_2");
    layers[name.substr(0, name.rfind('.'))] = {{"quant_algo", nvfp4 ? "NVFP4" : "MXFP8"}};
  }
  return layers;
}

Result<Weights> load_directory(const TestDirectory& directory) {
  M3_TRY(const Config config, load_config(directory.path()));
  M3_TRY(auto checkpoint, Checkpoint::open(directory.path()));
  return load_weights(config, std::move(checkpoint));
}

TEST(Formats, AModelOptDirectoryOfTwoFormats) {
  const StoredModel model = modelopt_model();
  const TestDirectory directory;
  write_model(model, directory / "model.safetensors");
  Json config = tiny_config();
  config["quantization_config"] = {{"quant_method", "modelopt"}};
  directory.write("config.json", config.dump());
  const Json quantization = {{"quant_algo", "MIXED_PRECISION"},
                             {"kv_cache_quant_algo", nullptr},
                             {"quantized_layers", modelopt_layers(model)}};
  directory.write("hf_quant_config.json", Json{{"quantization", quantization}}.dump());
  const auto weights = load_directory(directory);
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_TRUE(weights->warnings.empty()) << weights->warnings[0];
  const LayerWeights& layer = weights->layers[1];
  for (std::size_t e = 0; e < 5; ++e) {
    const std::string expert = fmt::format("{}{}.", kExperts, e);
    expect_values(layer.moe->gate[e].weight, model, expert + "w1.weight", nvfp4_value);
    expect_values(layer.moe->up[e].weight, model, expert + "w3.weight", nvfp4_value);
    expect_values(layer.moe->down[e].weight, model, expert + "w2.weight", nvfp4_value);
  }
  expect_values(layer.attention.q.weight, model, kLayer1 + "self_attn.q_proj.weight", mxfp8_value);
  expect_values(layer.indexer->k.weight, model, kLayer1 + "self_attn.index_k_proj.weight",
                mxfp8_value);

  const auto checkpoint = Checkpoint::open(directory.path());
  const auto summary = summarise(*load_config(directory.path()), checkpoint->get());
  ASSERT_TRUE(summary) << summary.error().message;
  EXPECT_EQ(summary->formats.at("nvfp4").weights, 2 * 5 * 3);
  EXPECT_EQ(summary->formats.at("nvfp4").values, 2 * 5 * 3 * 40 * 24);
  EXPECT_EQ(summary->tensors, static_cast<std::int64_t>(model.size()));
  std::int64_t total = 0;
  for (const auto& [name, tensor] : model) total += static_cast<std::int64_t>(tensor.bytes.size());
  EXPECT_EQ(summary->bytes, total);
}

// olka-fi/MiniMax-M3-MXFP4 in small, and the mixed successor's words for experts.
TEST(Formats, Mxfp4ExpertsBesideMxfp8) {
  StoredModel model = modelopt_model();
  std::size_t seed = 0;
  for (const auto& name : weights_of(bf16(), {".experts."})) {
    model.erase(name + "_scale_2");
    model.erase(name.substr(0, name.rfind('.')) + ".input_scale");
    model.at(name) = bf16().at(name);
    make_mxfp4(model, name, ++seed);
  }
  model.at(kExperts + "0.w1.weight_scale").dtype = DType::kF8E8M0;  // another name of the type
  const TestDirectory directory;
  write_model(model, directory / "model.safetensors");
  Json config = tiny_config();
  config["quantization_config"] = {{"quant_method", "mxfp8"}, {"moe_quant_algo", "MXFP4"}};
  directory.write("config.json", config.dump());
  const auto weights = load_directory(directory);
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_TRUE(weights->warnings.empty()) << weights->warnings[0];
  for (std::size_t e = 0; e < 5; ++e)
    expect_values(weights->layers[1].moe->down[e].weight, model,
                  fmt::format("{}{}.w2.weight", kExperts, e), mxfp4_value);
}

// brandonmusic/MiniMax-M3-NVFP4 in small: down projections alone, the rest plain.
TEST(Formats, Nvfp4DownProjectionsBesideBfloat16) {
  StoredModel model = bf16();
  std::size_t seed = 0;
  for (const auto& name : weights_of(bf16(), {"down_proj.", ".w2."}))
    make_nvfp4(model, name, ++seed);
  const auto weights = load(tiny_config(), model);
  ASSERT_TRUE(weights) << weights.error().message;
  const std::string name = kLayer1 + "block_sparse_moe.shared_experts.down_proj.weight";
  expect_values(weights->layers[1].moe->shared->down.weight, model, name, nvfp4_value);
  ASSERT_EQ(weights->warnings.size(), 1u);  // the config says nothing of it
}

void expect_refused(const StoredModel& model, std::initializer_list<std::string_view> parts) {
  expect_error(load(tiny_config(), model), parts);
}

// Of a model in which one expert's w2 could be anything, as long as all are.
StoredModel nvfp4_experts() {
  StoredModel model = bf16();
  std::size_t seed = 0;
  for (const auto& name : weights_of(bf16(), {".experts."})) make_nvfp4(model, name, ++seed);
  return model;
}

TEST(BadFormats, Parts) {
  const std::string name = kExperts + "3.w2.weight";
  StoredModel model = nvfp4_experts();
  model.erase(name + "_scale_2");
  expect_refused(model, {name + "_scale_2", "F32"});
  model = nvfp4_experts();
  model.at(name + "_scale_2") = {DType::kF32, {2}, float_bytes(1) + float_bytes(1)};
  expect_refused(model, {name + "_scale_2 in", "F32 [2]"});
  model = nvfp4_experts();
  model.erase(name + "_scale");
  expect_refused(model, {name + " in", "U8", "no scale"});
  model = nvfp4_experts();
  model.erase(name);
  model[name] = bf16().at(name);
  expect_refused(model, {name + " in", "has a scale", "BF16"});
  model = nvfp4_experts();
  model.at(name + "_scale").dtype = DType::kI8;
  expect_refused(model, {name + " in", "U8", name + "_scale in", "I8", "NVFP4"});
  model = bf16();
  model[name + "_scale_2"] = {DType::kF32, {}, float_bytes(1)};
  expect_refused(model, {name + "_scale_2", "without a weight"});
  model = bf16();
  model[kExperts + "3.w2.input_scale"] = {DType::kF32, {}, float_bytes(1)};
  expect_refused(model, {"3.w2.input_scale"});
}

TEST(BadFormats, Shapes) {
  const std::string name = kExperts + "3.w2.weight";
  StoredModel model = nvfp4_experts();
  model.at(name).shape = {20, 24};
  expect_refused(model, {name + " in", "[20, 24]", "[40, 12]", "two columns"});
  model = nvfp4_experts();
  model.at(name + "_scale").shape = {80, 1};
  expect_refused(model, {name + "_scale in", "[80, 1]", "[40, 2]", "16 columns"});
  Json config = tiny_config();
  config["text_config"]["intermediate_size"] = 23;
  StoredModel odd = tiny_model(config, Format::kBF16);
  odd.at(name) = {DType::kU8, {40, 12}, std::string(480, '\0')};
  odd[name + "_scale"] = {DType::kU8, {40, 1}, std::string(40, '\x70')};
  expect_error(load(config, odd), {name + " in", "mxfp4", "23 columns"});
}

TEST(BadFormats, Numbers) {
  const std::string name = kExperts + "3.w2.weight";
  StoredModel model = nvfp4_experts();
  model.at(name + "_scale").bytes[5] = '\x7f';
  expect_refused(model, {name + " in", "[2, 1]", "NaN"});
  for (const float factor : {0.0f, -1.0f, std::nanf(""), INFINITY}) {
    model = nvfp4_experts();
    model.at(name + "_scale_2").bytes = float_bytes(factor);
    expect_refused(model, {name + " in", "factor", "positive"});
  }
  model = tiny_model(tiny_config(), Format::kMxfp4);
  model.at(name + "_scale").bytes[5] = '\xff';
  expect_refused(model, {name + " in", "[5, 0]", "NaN"});
  model = tiny_model(tiny_config(), Format::kInt8);
  model.at(name + "_scale").bytes[11] = '\x7c';
  expect_refused(model, {name + " in", "[5, 0]", "not finite"});
}

// What one product reads shares a format; the indexer may be finer than what stands beside it.
TEST(BadFormats, MixedParts) {
  const std::string w2 = kExperts + "3.w2.weight", w1 = kExperts + "4.w1.weight";
  for (const std::string& name : {w2, w1}) {
    StoredModel model = bf16();
    make_nvfp4(model, name, 1);
    expect_refused(model, {name, "nvfp4", "bf16", "share a format", "all experts of a layer"});
  }
  const StoredModel fine = tiny_model(tiny_config(), Format::kMxfp4);
  EXPECT_EQ(fine.at(kLayer1 + "self_attn.index_q_proj.weight").dtype, DType::kBF16);
  EXPECT_EQ(fine.at(kLayer1 + "self_attn.q_proj.weight").dtype, DType::kU8);
  EXPECT_TRUE(load(tiny_config(), fine));
  StoredModel half = fine;
  make_mxfp8(half, kLayer1 + "self_attn.index_q_proj.weight", 1);
  expect_refused(half, {"index_q_proj", "index_k_proj", "mxfp8", "bf16"});
  make_mxfp8(half, kLayer1 + "self_attn.index_k_proj.weight", 1);
  EXPECT_TRUE(load(tiny_config(), half));
}

TEST(Synth, EveryFormatLoadsWithoutAWarning) {
  for (const Format format : {Format::kMxfp4, Format::kNvfp4, Format::kInt8}) {
    SCOPED_TRACE(codec_of(format).name);
    const TestDirectory directory;
    synthesise(tiny_config(), format, directory.path(), 50000);
    const auto weights = load_directory(directory);
    ASSERT_TRUE(weights) << weights.error().message;
    EXPECT_TRUE(weights->warnings.empty()) << weights->warnings[0];
    const LayerWeights& layer = weights->layers[1];
    for (const Linear* linear : {&layer.attention.q, &layer.attention.o, &layer.moe->gate[4],
                                 &layer.moe->down[0], &layer.moe->shared->up})
      EXPECT_EQ(linear->weight.codec->format, format);
    for (const Linear* linear : {&layer.indexer->q, &weights->head})
      EXPECT_EQ(linear->weight.codec->format, Format::kBF16);
    EXPECT_EQ(weights->embedding.codec->format, Format::kBF16);
    const auto checkpoint = Checkpoint::open(directory.path());
    const Config config = *load_config(directory.path());
    const auto files = summarise(config, checkpoint->get()), table = summarise(config, nullptr);
    ASSERT_TRUE(files && table);
    EXPECT_EQ(files->bytes, table->bytes);
    EXPECT_EQ(files->tensors, table->tensors);
    EXPECT_EQ(files->scales, table->scales);
  }
}

}  // namespace
}  // namespace m3
