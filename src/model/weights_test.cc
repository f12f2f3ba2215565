#include "model/weights.h"

#include <cmath>
#include <set>

#include "model/test_model.h"
#include "model/weight_match.h"
#include "model/weight_table.h"

namespace m3 {
namespace {

using Json = nlohmann::json;

const std::string kLayer0 = "language_model.model.layers.0.";
const std::string kLayer1 = "language_model.model.layers.1.";
const std::string kExpert = kLayer1 + "block_sparse_moe.experts.3.";

// The models of these tests, written once.
const StoredModel& bf16() {
  static const StoredModel model = tiny_model(tiny_config(), Format::kBF16);
  return model;
}

const StoredModel& mxfp8() {
  static const StoredModel model = tiny_model(tiny_config(), Format::kMxfp8);
  return model;
}

std::vector<float> values_of(const Json& config, const StoredModel& model) {
  const auto weights = load(config, model);
  EXPECT_TRUE(weights) << weights.error().message;
  return weights ? all_values(*weights) : std::vector<float>{};
}

void rename(StoredModel& model, const std::string& from, const std::string& to) {
  auto node = model.extract(from);
  ASSERT_FALSE(node.empty()) << from;
  node.key() = to;
  model.insert(std::move(node));
}

// The tensor of this name becomes what is stored for it in the other model.
void take_from(StoredModel& model, const StoredModel& other, const std::string& name) {
  model.at(name) = other.at(name);
  model.erase(name + "_scale_inv");
  if (other.contains(name + "_scale_inv"))
    model[name + "_scale_inv"] = other.at(name + "_scale_inv");
}

void expect_refused(const StoredModel& model, std::initializer_list<std::string_view> parts) {
  expect_error(load(tiny_config(), model), parts);
}

// ------------------------------------------------------------------------------------- the table

TEST(WeightTable, CountsTheReleasedModel) {
  const auto config = load_config(std::string(M3_SOURCE_DIR) + "/tests/data/models/released");
  ASSERT_TRUE(config) << config.error().message;
  const auto table = weight_table(config.value(), 0);
  ASSERT_TRUE(table);
  std::int64_t values = 0;
  std::int64_t wide = 0;
  for (const WeightSpec& spec : *table) {
    values += spec.elements();
    if (spec.stored == DType::kF32) wide += spec.elements();
  }
  EXPECT_EQ(table->size(), 23416u);
  EXPECT_EQ(values, 427'040'140'160);
  EXPECT_EQ(2 * values + 2 * wide, 854'172'958'720);
  const auto with_module = weight_table(config.value(), 1);
  std::int64_t module = 0;
  for (const WeightSpec& spec : *with_module)
    if (spec.part == Part::kMtp) module += spec.elements();
  EXPECT_EQ(module, 7'491'582'592);
}

TEST(WeightTable, SaysHowWeightsSplit) {
  const auto config = parse_config(tiny_config().dump(), "config.json");
  const auto table = weight_table(config.value(), 0);
  std::map<std::string, Split> splits;
  for (const WeightSpec& spec : *table) splits[spec.name] = spec.split;
  EXPECT_EQ(splits.at(kLayer1 + "self_attn.q_proj.weight"), Split::kRows);
  EXPECT_EQ(splits.at(kLayer1 + "self_attn.v_proj.weight"), Split::kKvRows);
  EXPECT_EQ(splits.at(kLayer1 + "self_attn.index_q_proj.weight"), Split::kKvRows);
  EXPECT_EQ(splits.at(kLayer1 + "self_attn.index_k_proj.weight"), Split::kReplicated);
  EXPECT_EQ(splits.at(kLayer1 + "self_attn.o_proj.weight"), Split::kColumns);
  EXPECT_EQ(splits.at(kLayer1 + "block_sparse_moe.gate.weight"), Split::kReplicated);
  EXPECT_EQ(splits.at(kExpert + "w1.weight"), Split::kRows);
  EXPECT_EQ(splits.at(kExpert + "w2.weight"), Split::kColumns);
  EXPECT_EQ(splits.at("language_model.lm_head.weight"), Split::kVocabRows);
}

TEST(WeightTable, RefusesMtpWithoutTheSizesOfAnMtpLayer) {
  Json json = tiny_config();
  json["text_config"].erase("sparse_attention_config");
  const auto config = parse_config(json.dump(), "config.json");
  ASSERT_TRUE(config) << config.error().message;
  expect_error(weight_table(config.value(), 1), {"MTP", "indexer"});
}

// The scales of these linears, each of which is the ending of a name.
std::set<std::string> scales_of(const std::string& layer, const std::vector<std::string>& linears) {
  std::set<std::string> names;
  for (const std::string& linear : linears) names.insert(layer + linear + ".weight_scale_inv");
  return names;
}

std::set<std::string> scales_in(const StoredModel& model) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : model)
    if (name.ends_with("_scale_inv")) names.insert(name);
  return names;
}

// Spec: text-model §2.4; training §14, row 8.
TEST(WeightTable, SaysWhatMxfp8Quantises) {
  const std::vector<std::string> attention = {"self_attn.q_proj", "self_attn.k_proj",
                                              "self_attn.v_proj", "self_attn.o_proj"};
  std::vector<std::string> dense = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
  std::vector<std::string> sparse = {"self_attn.index_q_proj", "self_attn.index_k_proj",
                                     "block_sparse_moe.shared_experts.gate_proj",
                                     "block_sparse_moe.shared_experts.up_proj",
                                     "block_sparse_moe.shared_experts.down_proj"};
  for (const char* expert : {"0", "1", "2", "3", "4"})
    for (const char* linear : {".w1", ".w2", ".w3"})
      sparse.push_back(std::string("block_sparse_moe.experts.") + expert + linear);
  for (auto* layer : {&dense, &sparse})
    layer->insert(layer->end(), attention.begin(), attention.end());
  std::set<std::string> expected = scales_of(kLayer0, dense);
  expected.merge(scales_of(kLayer1, sparse));
  expected.merge(scales_of("language_model.model.layers.2.", sparse));
  EXPECT_EQ(scales_in(mxfp8()), expected);

  Json config = tiny_config();
  config["text_config"]["num_mtp_modules"] = 1;
  const std::string module = "language_model.model.mtp.layers.0.";
  expected.merge(scales_of(module, {"eh_proj"}));
  expected.merge(scales_of(module + "transformer_layer.", sparse));
  EXPECT_EQ(scales_in(tiny_model(config, Format::kMxfp8)), expected);
}

// --------------------------------------------------------------------------------------- loading

TEST(LoadWeights, PutsEveryWeightInItsPlace) {
  const auto weights = load(tiny_config(), bf16());
  ASSERT_TRUE(weights) << weights.error().message;
  ASSERT_EQ(weights->layers.size(), 3u);
  EXPECT_EQ(weights->embedding.rows, 99);
  EXPECT_EQ(weights->embedding.cols, 40);
  const LayerWeights& dense = weights->layers[0];
  EXPECT_FALSE(dense.indexer);
  EXPECT_FALSE(dense.moe);
  EXPECT_EQ(dense.mlp->down.weight.rows, 40);
  EXPECT_EQ(dense.mlp->down.weight.cols, 36);
  const LayerWeights& moe = weights->layers[1];
  EXPECT_FALSE(moe.mlp);
  EXPECT_EQ(moe.indexer->q.weight.rows, 48);
  EXPECT_EQ(moe.moe->gate.size(), 5u);
  EXPECT_EQ(moe.moe->router.codec->format, Format::kF32);
  EXPECT_EQ(moe.moe->router_bias.describe(), "F32 [5]");
  EXPECT_EQ(moe.moe->shared->up.weight.rows, 20);
  EXPECT_EQ(moe.attention_norm.describe(), "F32 [40]");
  EXPECT_TRUE(weights->warnings.empty());

  // Which is which: up is not gate, expert 3 is not expert 2.
  const auto& up = bf16().at(kExpert + "w3.weight").bytes;
  EXPECT_EQ(std::memcmp(moe.moe->up[3].weight.values.data, up.data(), up.size()), 0);
  const auto& norm = bf16().at(kLayer1 + "self_attn.index_k_norm.weight").bytes;
  BF16 first;
  std::memcpy(&first, norm.data(), sizeof first);
  EXPECT_EQ(moe.indexer->k_norm.as<float>()[0], to_float(first));
}

TEST(LoadWeights, ReadsMxfp8WithShortBlocks) {
  const auto weights = load(tiny_config(), mxfp8());
  ASSERT_TRUE(weights) << weights.error().message;
  const Matrix& q = weights->layers[1].attention.q.weight;
  EXPECT_EQ(q.codec->format, Format::kMxfp8);
  EXPECT_EQ(q.scales.dim(1), 2);
  EXPECT_EQ(weights->head.weight.codec->format, Format::kBF16);
  const auto exact = values_of(tiny_config(), bf16());
  const auto rounded = all_values(*weights);
  ASSERT_EQ(exact.size(), rounded.size());
  // Half a unit in e4m3's last place is 1/16 of a value; tiny ones share their block's exponent.
  for (std::size_t i = 0; i < exact.size(); ++i)
    ASSERT_NEAR(exact[i], rounded[i], std::fabs(exact[i]) / 16 + 1e-4f) << i;
  // The config does not say so, and the tensors decide.
  ASSERT_EQ(weights->warnings.size(), 1u);
  EXPECT_NE(weights->warnings[0].find("quantization_config"), std::string::npos);
}

TEST(LoadWeights, ProgressEndsWithAllWeights) {
  const TestDirectory directory;
  write_model(mxfp8(), directory / "model.safetensors");
  const auto config = parse_config(tiny_config().dump(), "config.json");
  auto checkpoint = Checkpoint::open(directory.path());
  std::int64_t last = 0;
  std::int64_t all = 0;
  ThreadPool pool(3);
  const auto weights = load_weights(
      config.value(), checkpoint.value(),
      [&](std::int64_t done, std::int64_t total) {
        EXPECT_GE(done, last);
        last = done;
        all = total;
      },
      &pool);
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_EQ(last, all);
  EXPECT_EQ(all, static_cast<std::int64_t>(bf16().size()));
}

// ------------------------------------------------------------------------------- other spellings

StoredTensor stacked(const StoredModel& model, const std::vector<std::string>& names,
                     std::vector<std::int64_t> shape) {
  StoredTensor all{model.at(names[0]).dtype, std::move(shape), ""};
  for (const std::string& name : names) all.bytes += model.at(name).bytes;
  return all;
}

// Replaces tensors by one that holds their rows one after the other; scales likewise.
void fuse(StoredModel& model, const std::vector<std::string>& names, const std::string& to,
          std::vector<std::int64_t> shape) {
  if (model.contains(names[0] + "_scale_inv")) {
    std::vector<std::string> scales;
    for (const std::string& name : names) scales.push_back(name + "_scale_inv");
    auto scale_shape = shape;
    scale_shape.back() = (shape.back() + 31) / 32;
    model[to + "_scale_inv"] = stacked(model, scales, scale_shape);
    for (const std::string& name : scales) model.erase(name);
  }
  model[to] = stacked(model, names, std::move(shape));
  for (const std::string& name : names) model.erase(name);
}

void fuse_layer_natively(StoredModel& model, int layer) {
  const std::string p = fmt::format("language_model.model.layers.{}.", layer);
  if (layer == 0) {
    fuse(model, {p + "mlp.gate_proj.weight", p + "mlp.up_proj.weight"},
         p + "mlp.gate_up_proj.weight", {72, 40});
    return;
  }
  std::vector<std::string> in;
  std::vector<std::string> out;
  for (int e = 0; e < 5; ++e) {
    const std::string expert = fmt::format("{}block_sparse_moe.experts.{}.", p, e);
    in.push_back(expert + "w1.weight");
    in.push_back(expert + "w3.weight");
    out.push_back(expert + "w2.weight");
  }
  fuse(model, in, p + "mlp.experts.gate_up_proj", {5, 48, 40});
  fuse(model, out, p + "mlp.experts.down_proj", {5, 40, 24});
  const std::string shared = p + "block_sparse_moe.shared_experts.";
  fuse(model, {shared + "gate_proj.weight", shared + "up_proj.weight"},
       p + "mlp.shared_experts.gate_up_proj.weight", {40, 40});
  fuse(model, {shared + "down_proj.weight"}, p + "mlp.shared_experts.down_proj.weight", {40, 20});
  rename(model, p + "block_sparse_moe.gate.weight", p + "mlp.gate.weight");
  rename(model, p + "block_sparse_moe.e_score_correction_bias",
         p + "mlp.gate.e_score_correction_bias");
}

std::string replaced(std::string name, std::string_view from, std::string_view to) {
  const auto at = name.find(from);
  return at == std::string::npos ? name : name.replace(at, from.size(), to);
}

std::string native_name(std::string name) {
  name = replaced(name, "language_model.lm_head", "lm_head");
  name = replaced(name, "language_model.model.", "model.language_model.");
  name = replaced(name, "self_attn.index_", "self_attn.indexer.");
  name = replaced(name, "vision_tower.vision_model.embeddings.patch_embedding",
                  "model.vision_tower.embeddings.proj");
  name = replaced(name, "vision_tower.vision_model.encoder.layers", "model.vision_tower.layers");
  name = replaced(name, "vision_tower.vision_model.pre", "model.vision_tower.pre");
  if (name.starts_with("multi_modal")) name = "model." + name;
  return replaced(name, "patch_merge_mlp.linear", "model.multi_modal_projector.merge_linear");
}

// As transformers saves it.
StoredModel in_native_spelling(StoredModel model) {
  for (int layer = 0; layer < 3; ++layer) fuse_layer_natively(model, layer);
  StoredModel native;
  for (auto& [name, tensor] : model) native[native_name(name)] = tensor;
  return native;
}

TEST(Spellings, TransformersNamesLoadToTheSameWeights) {
  const StoredModel native = in_native_spelling(bf16());
  ASSERT_TRUE(native.contains("model.language_model.layers.2.mlp.experts.gate_up_proj"));
  ASSERT_TRUE(native.contains("model.language_model.layers.2.self_attn.indexer.q_proj.weight"));
  EXPECT_LT(native.size(), bf16().size());
  EXPECT_EQ(values_of(tiny_config(), native), values_of(tiny_config(), bf16()));
}

TEST(Spellings, TransformersNamesWithScales) {
  EXPECT_EQ(values_of(tiny_config(), in_native_spelling(mxfp8())),
            values_of(tiny_config(), mxfp8()));
}

TEST(Spellings, TheBiasOfOlderTransformers) {
  StoredModel native = in_native_spelling(bf16());
  for (int layer : {1, 2}) {
    const std::string p = fmt::format("model.language_model.layers.{}.mlp.", layer);
    rename(native, p + "gate.e_score_correction_bias", p + "e_score_correction_bias");
  }
  EXPECT_EQ(values_of(tiny_config(), native), values_of(tiny_config(), bf16()));
}

TEST(Spellings, TextOnlyNamesHaveNoPrefix) {
  Json config = tiny_config()["text_config"];
  StoredModel released;
  StoredModel native;
  for (const auto& [name, tensor] : bf16())
    if (name.starts_with("language_model.")) released[name.substr(15)] = tensor;
  for (const auto& [name, tensor] : in_native_spelling(bf16()))
    if (name.find("vision") == std::string::npos && name.find("projector") == std::string::npos)
      native[replaced(name, "model.language_model.", "model.")] = tensor;
  const auto whole = load(tiny_config(), bf16());
  ASSERT_TRUE(whole) << whole.error().message;
  const auto expected = text_values(*whole);
  EXPECT_EQ(values_of(config, released), expected);
  EXPECT_EQ(values_of(config, native), expected);
}

TEST(Spellings, AScaleMayBeCalledWeightScale) {
  StoredModel model;
  for (const auto& [name, tensor] : mxfp8()) model[replaced(name, "_scale_inv", "_scale")] = tensor;
  EXPECT_EQ(values_of(tiny_config(), model), values_of(tiny_config(), mxfp8()));
}

TEST(Spellings, ManyFilesAreOneModel) {
  const TestDirectory many;
  synthesise(tiny_config(), Format::kBF16, many.path(), 20000);
  const auto checkpoint = Checkpoint::open(many.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_GT(checkpoint.value()->files().size(), 5u);
  const auto weights = load_weights(load_config(many.path()).value(), checkpoint.value());
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_EQ(all_values(*weights), values_of(tiny_config(), bf16()));
}

TEST(Spellings, OddAddressesDoNotMatter) {
  StoredModel model = bf16();
  model["a.rotary_emb.inv_freq"] = {DType::kU8, {3}, "abc"};  // first, so that all others are odd
  EXPECT_EQ(values_of(tiny_config(), model), values_of(tiny_config(), bf16()));
}

// ------------------------------------------------------------------------------------- bad input

TEST(BadWeights, Missing) {
  StoredModel model = bf16();
  model.erase(kExpert + "w2.weight");
  expect_refused(model, {"lacks 1", kExpert + "w2.weight"});
  model.erase("vision_tower.vision_model.pre_layrnorm.bias");
  expect_refused(model, {"lacks 2", "pre_layrnorm.bias"});
}

TEST(BadWeights, Extra) {
  StoredModel model = bf16();
  model[kLayer1 + "self_attn.index_v_proj.weight"] = model.at(kLayer1 + "self_attn.k_proj.weight");
  expect_refused(model, {"index_v_proj", "model.safetensors"});
  StoredModel twice = bf16();
  twice["model.norm.weight"] = twice.at("language_model.model.norm.weight");
  expect_refused(twice, {"model.norm.weight"});
}

TEST(BadWeights, WrongShape) {
  StoredModel model = bf16();
  std::swap(model.at(kExpert + "w2.weight").shape[0], model.at(kExpert + "w2.weight").shape[1]);
  expect_refused(model, {kExpert + "w2.weight", "[24, 40]", "[40, 24]", "model.safetensors"});
  StoredModel flat = bf16();
  flat.at(kLayer0 + "input_layernorm.weight").shape = {40, 1};
  expect_refused(flat, {"input_layernorm", "[40, 1]"});
  StoredModel scale = mxfp8();
  const std::string name = kExpert + "w1.weight_scale_inv";
  std::swap(scale.at(name).shape[0], scale.at(name).shape[1]);
  expect_refused(scale, {name, "[2, 24]", "[24, 2]"});
}

TEST(BadWeights, WrongType) {
  StoredModel model = bf16();
  model.at(kLayer1 + "self_attn.q_norm.weight") = {DType::kI32, {16}, std::string(64, '\0')};
  expect_refused(model, {"q_norm.weight", "I32", "BF16"});
  StoredModel scale = mxfp8();
  scale.at(kExpert + "w1.weight_scale_inv").dtype = DType::kF8E4M3;
  expect_refused(scale, {"w1.weight_scale_inv", "F8_E4M3", "E8M0"});
}

TEST(BadWeights, AScaleAloneAndAnF8WeightAlone) {
  StoredModel lost = mxfp8();
  lost.erase(kExpert + "w1.weight_scale_inv");
  expect_refused(lost, {kExpert + "w1.weight", "no scale"});
  StoredModel plain = mxfp8();
  plain.at(kExpert + "w1.weight") = bf16().at(kExpert + "w1.weight");
  expect_refused(plain, {kExpert + "w1.weight", "has a scale", "BF16"});
  StoredModel stray = bf16();
  stray["language_model.model.norm.weight_scale_inv"] = {DType::kU8, {1}, "\x7f"};
  expect_refused(stray, {"norm.weight_scale_inv", "without a weight"});
  StoredModel orphan = mxfp8();
  orphan.erase(kExpert + "w1.weight");
  expect_refused(orphan, {kExpert + "w1.weight"});
}

TEST(BadWeights, NanScale) {
  StoredModel model = mxfp8();
  model.at(kExpert + "w1.weight_scale_inv").bytes[5] = '\xff';
  expect_refused(model, {kExpert + "w1.weight", "[2, 1]", "NaN"});
  ThreadPool pool(3);
  model.at(kLayer1 + "self_attn.q_proj.weight_scale_inv").bytes[0] = '\xff';
  expect_error(load(tiny_config(), model, &pool), {"q_proj", "NaN"});  // the first of the table
}

TEST(BadWeights, HalfQuantisedParts) {
  for (const char* part :
       {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.index_q_proj",
        "self_attn.index_k_proj", "block_sparse_moe.shared_experts.gate_proj",
        "block_sparse_moe.shared_experts.up_proj", "block_sparse_moe.experts.3.w1",
        "block_sparse_moe.experts.3.w3", "block_sparse_moe.experts.4.w2"}) {
    SCOPED_TRACE(part);
    StoredModel model = mxfp8();
    take_from(model, bf16(), kLayer1 + part + ".weight");
    expect_refused(model, {"share a format", "bf16", "mxfp8"});
  }
  StoredModel dense = mxfp8();
  take_from(dense, bf16(), kLayer0 + "mlp.gate_proj.weight");
  expect_refused(dense, {"share a format", "mlp.up_proj"});
}

TEST(BadWeights, WholePartsMayDiffer) {
  // A product of its own may have a format of its own.
  StoredModel model = mxfp8();
  take_from(model, bf16(), kLayer1 + "self_attn.o_proj.weight");
  EXPECT_TRUE(load(tiny_config(), model));
}

TEST(BadWeights, IgnorableTensorsAreIgnored) {
  StoredModel model = bf16();
  model[kLayer0 + "self_attn.rotary_emb.inv_freq"] = {DType::kF32, {1}, "abcd"};
  EXPECT_TRUE(load(tiny_config(), model));
}

TEST(SwitchedOff, TheIndexerMayStay) {
  Json config = tiny_config();
  config["text_config"]["sparse_attention_config"]["use_sparse_attention"] = false;
  const auto weights = load(config, bf16());
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_FALSE(weights->layers[1].indexer);
  ASSERT_EQ(weights->warnings.size(), 1u);
  EXPECT_NE(weights->warnings[0].find("8 tensors of the indexer"), std::string::npos);
}

}  // namespace
}  // namespace m3
