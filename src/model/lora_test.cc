#include "model/lora.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "model/lora_files.h"
#include "model/random_values.h"
#include "model/test_model.h"

namespace m3 {
namespace {

using nlohmann::json;

struct TinyTable {
  Config config;
  std::vector<WeightSpec> table;

  explicit TinyTable(const json& text = tiny_config()) {
    auto parsed = parse_config(text.dump(), "config.json");
    EXPECT_TRUE(parsed) << parsed.error().message;
    config = std::move(*parsed);
    table = *weight_table(config, 0);
  }
};

// Ranks and alphas of their own, so that patterns are written.
constexpr LoraOptions kAll{.groups = {{{4, 8}, {3, 8}, {4, 2}, {2, 8}}}, .seed = 3};

// Everything filled, as after training.
Lora trained(const TinyTable& tiny, const LoraOptions& options = kAll) {
  auto lora = Lora::create(tiny.config, tiny.table, options);
  EXPECT_TRUE(lora) << lora.error().message;
  std::uint64_t key = 7;
  for (const LoraModule& module : lora->modules())
    fill_random(++key, 0, module.b.elements(), {0, 1}, module.b.as<float>());
  return std::move(*lora);
}

std::vector<float> values_of(const Tensor& x) {
  return {x.as<float>(), x.as<float>() + x.elements()};
}

void expect_same(const Lora& a, const Lora& b, const TinyTable& tiny) {
  for (const WeightSpec& spec : tiny.table) {
    const LowRank *left = a.addend_of(spec.name), *right = b.addend_of(spec.name);
    ASSERT_EQ(left == nullptr, right == nullptr) << spec.name;
    if (left == nullptr) continue;
    EXPECT_EQ(values_of(left->a), values_of(right->a)) << spec.name;
    EXPECT_EQ(values_of(left->b), values_of(right->b)) << spec.name;
    EXPECT_EQ(left->scale, right->scale) << spec.name;
  }
}

TEST(Lora, BeginsAsNothingDrawnByXavier) {
  const TinyTable tiny;
  const auto lora = Lora::create(tiny.config, tiny.table, kAll);
  ASSERT_TRUE(lora) << lora.error().message;
  double squares = 0, expected = 0;
  for (const LoraModule& module : lora->modules()) {
    for (const float b : values_of(module.b)) EXPECT_EQ(b, 0);
    for (const float a : values_of(module.a)) squares += double{a} * a;
    expected += static_cast<double>(module.a.elements()) * 2 /
                static_cast<double>(module.a.dim(1) + module.a.dim(2));
  }
  EXPECT_NEAR(squares / expected, 1, 0.05);
  // q, k, v, o of three layers; gate with up, and down, of one dense MLP, two shared ones and two
  // layers of experts.
  EXPECT_EQ(lora->modules().size(), 12u + 2 + 4 + 4);
  expect_same(*lora, *Lora::create(tiny.config, tiny.table, kAll), tiny);
}

TEST(Lora, GateAndUpShareOneA) {
  const TinyTable tiny;
  const Lora lora = trained(tiny);
  const std::string layer = "language_model.model.layers.1.block_sparse_moe.";
  for (const auto& [gate, up, rows] :
       {std::tuple{"experts.3.w1", "experts.3.w3", tiny.config.expert_inner},
        std::tuple{"shared_experts.gate_proj", "shared_experts.up_proj",
                   tiny.config.shared_inner}}) {
    const LowRank* g = lora.addend_of(layer + gate + ".weight");
    const LowRank* u = lora.addend_of(layer + up + ".weight");
    ASSERT_TRUE(g != nullptr && u != nullptr);
    EXPECT_EQ(g->a.data, u->a.data);
    EXPECT_EQ(g->b.as<float>() + g->b.elements(), u->b.as<float>());
    EXPECT_EQ(g->b.dim(0), rows);
  }
  EXPECT_NE(lora.addend_of(layer + "experts.3.w1.weight")->a.data,
            lora.addend_of(layer + "experts.2.w1.weight")->a.data);
  EXPECT_EQ(lora.addend_of(layer + "gate.weight"), nullptr);
}

TEST(Lora, AGroupThatMatchesNothingIsAnError) {
  json config = tiny_config();
  config["text_config"]["moe_layer_freq"] = {1, 1, 1};
  const TinyTable tiny(config);
  LoraOptions options;
  options.groups[static_cast<std::size_t>(LoraGroup::kDense)] = {4, 8};
  const auto lora = Lora::create(tiny.config, tiny.table, options);
  ASSERT_FALSE(lora);
  EXPECT_NE(lora.error().message.find("dense matches nothing"), std::string::npos);
}

TEST(LoraFiles, ComeBackUnderBothNames) {
  const TinyTable tiny;
  const Lora lora = trained(tiny);
  for (const LoraNames names : {LoraNames::kTransformers, LoraNames::kReleased}) {
    const TestDirectory directory;
    const LoraSaving saving{directory / "adapter", "model", names};
    const Status saved = save_lora(lora, saving);
    ASSERT_TRUE(saved) << saved.error().message;
    const auto loaded = load_lora(saving.directory, tiny.table);
    ASSERT_TRUE(loaded) << loaded.error().message;
    expect_same(lora, *loaded, tiny);
    EXPECT_FALSE(save_lora(lora, saving));  // there is something already
  }
}

TEST(LoraFiles, AreNamedAsPeftNamesThem) {
  const TinyTable tiny;
  const Lora lora = trained(tiny);
  const TestDirectory directory;
  ASSERT_TRUE(save_lora(lora, {directory / "adapter", "model"}));
  const StoredModel tensors = read_model(directory / "adapter");
  const std::string layer = "base_model.model.model.language_model.layers.1.";
  const auto shape = [&](const std::string& name) { return tensors.at(layer + name).shape; };
  using Shape = std::vector<std::int64_t>;
  const Config& c = tiny.config;
  EXPECT_EQ(shape("self_attn.q_proj.lora_A.weight"), (Shape{4, c.hidden}));
  EXPECT_EQ(shape("mlp.shared_experts.gate_up_proj.lora_B.weight"), (Shape{2 * c.shared_inner, 4}));
  // gate_up_proj is wrapped first.
  EXPECT_EQ(shape("mlp.experts.base_layer.lora_A.weight"), (Shape{c.experts * 2, c.hidden}));
  EXPECT_EQ(shape("mlp.experts.base_layer.lora_B.weight"),
            (Shape{2 * c.expert_inner, 2 * c.experts}));
  EXPECT_EQ(shape("mlp.experts.lora_A.weight"), (Shape{c.experts * 2, c.expert_inner}));
  // B has experts innermost.
  const StoredTensor& b = tensors.at(layer + "mlp.experts.lora_B.weight");
  const LowRank* addend =
      lora.addend_of("language_model.model.layers.1.block_sparse_moe.experts.3.w2.weight");
  EXPECT_EQ(reinterpret_cast<const float*>(b.bytes.data())[(7 * 2 + 1) * c.experts + 3],
            addend->b.row<float>(7)[1]);

  const json config = json::parse(*read_text_file(directory / "adapter/adapter_config.json"));
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["r"], 4);
  const std::string experts = "model.language_model.layers.1.mlp.experts.down_proj";
  EXPECT_EQ(config["rank_pattern"][experts], 2);
  EXPECT_EQ(config["target_parameters"].size(), 4u);
  EXPECT_EQ(config["target_modules"].size(), 12u + 2 + 4);
}

// What others write: bfloat16, the indexer, the vision tower, the head; another scale; Automodel's
// prefix.
TEST(LoraFiles, OfOthersAreRead) {
  const TinyTable tiny;
  const TestDirectory directory;
  const Config& c = tiny.config;
  StoredModel tensors;
  const auto add = [&](const std::string& name, std::int64_t rows, std::int64_t cols) {
    const std::int64_t rank = 4;
    const auto stored = [](std::int64_t r, std::int64_t k) {
      return StoredTensor{
          DType::kBF16, {r, k}, std::string(static_cast<std::size_t>(2 * r * k), '\x3f')};
    };
    tensors[name + ".lora_A.weight"] = stored(rank, cols);
    tensors[name + ".lora_B.weight"] = stored(rows, rank);
  };
  const std::string peft = "base_model.model.";
  add(peft + "model.language_model.layers.1.self_attn.indexer.k_proj", c.index_dim, c.hidden);
  add(peft + "model.vision_tower.layers.0.mlp.fc1", c.vision->inner, c.vision->hidden);
  add(peft + "lm_head", c.vocab, c.hidden);
  add(peft + "language_model.model.layers.0.self_attn.o_proj", c.hidden, c.heads * c.head_dim);
  add("language_model." + peft + "model.layers.0.self_attn.q_proj", c.heads * c.head_dim, c.hidden);
  write_model(tensors, directory / "adapter_model.safetensors");
  std::ofstream(directory / "adapter_config.json")
      << R"({"peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_rslora": true, "arrow_config": null,
             "alpha_pattern": {"^model\\.vision_tower.layers.0.mlp.fc1": 2}, "lora_dropout": 0.1})";
  const auto lora = load_lora(directory.path(), tiny.table);
  ASSERT_TRUE(lora) << lora.error().message;
  EXPECT_EQ(lora->modules().size(), 5u);
  const LowRank* indexer =
      lora->addend_of("language_model.model.layers.1.self_attn.index_k_proj.weight");
  ASSERT_NE(indexer, nullptr);
  EXPECT_EQ(indexer->scale, 8);
  EXPECT_EQ(indexer->b.row<float>(3)[1], 0.74609375f);
  const LowRank* vision =
      lora->addend_of("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight");
  ASSERT_NE(vision, nullptr);
  EXPECT_EQ(vision->scale, 1);
  for (const char* name :
       {"language_model.lm_head.weight", "language_model.model.layers.0.self_attn.o_proj.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight"})
    EXPECT_NE(lora->addend_of(name), nullptr) << name;
}

// An adapter's files, to be damaged.
class DamagedLora {
 public:
  DamagedLora() : lora_(trained(tiny_)) {
    EXPECT_TRUE(save_lora(lora_, {directory_ / "adapter", "model"}));
    tensors = read_model(path());
    config = json::parse(*read_text_file(path() + "/adapter_config.json"));
  }
  std::string path() const { return directory_ / "adapter"; }

  // Loads what it has become; the sentence has all of `words`.
  void expect_refused(const std::vector<std::string>& words) {
    write_model(tensors, path() + "/adapter_model.safetensors");
    std::ofstream(path() + "/adapter_config.json") << config.dump();
    expect_refused_as_it_lies(words);
  }
  void expect_refused_as_it_lies(const std::vector<std::string>& words) const {
    const auto loaded = load_lora(path(), tiny_.table);
    ASSERT_FALSE(loaded) << words[0];
    for (const std::string& word : words)
      EXPECT_NE(loaded.error().message.find(word), std::string::npos) << loaded.error().message;
  }

  StoredModel tensors;
  json config;

 private:
  TinyTable tiny_;
  TestDirectory directory_;
  Lora lora_;
};

const std::string kQ = "base_model.model.model.language_model.layers.0.self_attn.q_proj";

TEST(LoraFiles, DamagedTensorsAreRefused) {
  DamagedLora damaged;
  const StoredModel good = damaged.tensors;
  const auto refused = [&](const std::vector<std::string>& words, const auto& damage) {
    damaged.tensors = good;
    damage(damaged.tensors);
    damaged.expect_refused(words);
  };
  const std::string a = kQ + ".lora_A.weight", b = kQ + ".lora_B.weight";
  refused({a, "without its lora_B"}, [&](StoredModel& t) { t.erase(b); });
  refused({"q_proj.weight is no part"}, [&](StoredModel& t) { t[kQ + ".weight"] = t[a]; });
  refused({"base_model.model.lora_A.weight is no part"},
          [&](StoredModel& t) { t["base_model.model.lora_A.weight"] = t[a]; });
  refused({"layers.9.self_attn.q_proj", "another model"}, [&](StoredModel& t) {
    for (const char* suffix : {".lora_A.weight", ".lora_B.weight"})
      t["base_model.model.model.language_model.layers.9.self_attn.q_proj" + std::string(suffix)] =
          t[kQ + suffix];
  });
  refused({"mlp.gate.", "no such linear"}, [&](StoredModel& t) {
    for (const char* suffix : {".lora_A.weight", ".lora_B.weight"})
      t["base_model.model.model.language_model.layers.1.mlp.gate" + std::string(suffix)] =
          t[kQ + suffix];
  });
  refused({"q_proj.lora_A.weight are the same"}, [&](StoredModel& t) {
    for (const char* suffix : {".lora_A.weight", ".lora_B.weight"})
      t["base_model.model.language_model.model.layers.0.self_attn.q_proj" + std::string(suffix)] =
          t["language_model.base_model.model.model.layers.0.self_attn.q_proj" +
            std::string(suffix)] = t[kQ + suffix];
  });
  refused({"adapted twice"}, [&](StoredModel& t) {
    for (const char* suffix : {".lora_A.weight", ".lora_B.weight"})
      t["base_model.model.language_model.model.layers.0.self_attn.q_proj" + std::string(suffix)] =
          t[kQ + suffix];
  });
  refused({"rank 3", "says 4"}, [&](StoredModel& t) {
    t[a].shape[0] = 3, t[a].bytes.resize(t[a].bytes.size() / 4 * 3);
    t[b].shape[1] = 3, t[b].bytes.resize(t[b].bytes.size() / 4 * 3);
  });
  refused({a, "[4, 40]", "another model"},
          [&](StoredModel& t) { t[b].shape[0] -= 1, t[b].bytes.resize(t[b].bytes.size() - 16); });
  refused({a, "[0, 40]"}, [&](StoredModel& t) {
    t[a].shape[0] = 0, t[a].bytes.clear();
    t[b].shape[1] = 0, t[b].bytes.clear();
  });
  refused({a, "I32"}, [&](StoredModel& t) { t[a].dtype = DType::kI32; });
  refused({b, "not finite", "element 1"},
          [&](StoredModel& t) { t[b].bytes.replace(4, 4, "\xff\xff\xff\xff"); });
  refused({"experts.lora_A", "fit no parameter"}, [&](StoredModel& t) {
    StoredTensor& e = t["base_model.model.model.language_model.layers.1.mlp.experts.lora_A.weight"];
    e.shape = {e.shape[0] * e.shape[1], 1};
  });
  refused({"holds no tensor"}, [&](StoredModel& t) { t.clear(); });

  damaged.tensors = good;
  write_model(good, damaged.path() + "/adapter_model.safetensors");
  std::filesystem::resize_file(damaged.path() + "/adapter_model.safetensors", 5000);
  damaged.expect_refused_as_it_lies({"adapter_model.safetensors"});
  std::filesystem::remove(damaged.path() + "/adapter_model.safetensors");
  damaged.expect_refused_as_it_lies({"adapter_model.safetensors"});
  std::filesystem::remove(damaged.path() + "/adapter_config.json");
  damaged.expect_refused_as_it_lies({"is no adapter", "adapter_config.json"});
}

TEST(LoraFiles, SettingsThatAreNotComputedAreRefused) {
  DamagedLora damaged;
  const json good = damaged.config;
  const std::vector<std::pair<json, std::string>> changes = {
      {{{"peft_type", "IA3"}}, "\"LORA\""},
      {{{"r", 0}}, "r is 0"},
      {{{"r", "four"}}, "r is \"four\""},
      {{{"lora_alpha", nullptr}}, "lora_alpha is missing"},
      {{{"lora_alpha", 1e300}}, "lora_alpha"},
      {{{"use_dora", true}}, "use_dora is true"},
      {{{"bias", "all"}}, "bias is \"all\""},
      {{{"modules_to_save", {"lm_head"}}}, "modules_to_save"},
      {{{"init_lora_weights", "pissa"}}, "changes the base model"},
      {{{"something_new", 3}}, "something_new is 3"},
      {{{"rank_pattern", {{"layers.*q_proj", 3}}}}, "is an expression"},
      {{{"rank_pattern", {{"q_proj", -3}}}}, "rank_pattern of q_proj is -3"},
      {{{"rank_pattern", 7}}, "rank_pattern is 7"},
      {{{"use_rslora", "yes"}}, "use_rslora"}};
  for (const auto& [change, words] : changes) {
    damaged.config = good;
    damaged.config.update(change);
    damaged.expect_refused({"adapter_config.json", words});
  }
  damaged.config = json::array();
  damaged.expect_refused({"no JSON object"});
  std::ofstream(damaged.path() + "/adapter_config.json") << "{\"r\": ";
  damaged.expect_refused_as_it_lies({"adapter_config.json"});
}

}  // namespace
}  // namespace m3
