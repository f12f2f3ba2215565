#include <cmath>

#include "base/file.h"
#include "model/eagle3_checkpoint.h"
#include "model/eagle3_table.h"
#include "model/presets.h"
#include "model/random_values.h"
#include "model/synth_directory.h"
#include "tensor/numeric.h"

namespace m3 {
namespace {

constexpr const char* kNanoConfig = R"({
  "architectures": ["LlamaForCausalLMEagle3"],
  "model_type": "llama",
  "hidden_size": 128,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 32,
  "intermediate_size": 192,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "vocab_size": 4096,
  "draft_vocab_size": 1024,
  "max_position_embeddings": 4096,
  "tie_word_embeddings": false,
  "eagle_config": { "eagle_aux_hidden_state_layer_ids": [1, 2, 4] }
}
)";
constexpr std::int64_t kTokensBetween = 4;  // draft id i is token 4 i

// The tensors of the file, in memory of their own.
class Tensors {
 public:
  Tensor add(const std::string& name, DType type, std::span<const std::int64_t> shape) {
    std::int64_t bytes = dtype_size(type);
    for (const std::int64_t size : shape) bytes *= size;
    const Buffer& memory = memory_.emplace_back(bytes);
    named_.push_back({name, Tensor(memory.data(), type, shape)});
    return named_.back().tensor;
  }
  const std::vector<NamedTensor>& all() const { return named_; }

 private:
  std::vector<Buffer> memory_;
  std::vector<NamedTensor> named_;
};

// Norms about one, linears of gain one.
void draw(const Eagle3Weight& weight, std::uint64_t seed, Tensors& tensors) {
  const bool norm = weight.shape.size() == 1;
  const Init init = norm ? Init{.mean = 1, .std = 0.1}
                         : Init{.std = 1 / std::sqrt(static_cast<double>(weight.shape[1]))};
  const Tensor tensor = tensors.add(weight.name, DType::kBF16, weight.shape);
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  fill_random(random_key(seed, weight.name), 0, tensor.elements(), init, values.data());
  for (std::size_t i = 0; i < values.size(); ++i) tensor.as<BF16>()[i] = to_bf16(values[i]);
}

void add_vocabulary_maps(const Eagle3Config& config, Tensors& tensors) {
  const std::int64_t drafts[] = {config.layer.vocab}, tokens[] = {config.target_vocab};
  const Tensor distance = tensors.add(kDraftToTarget, DType::kI64, drafts);
  const Tensor marks = tensors.add(kTargetToDraft, DType::kBool, tokens);
  std::fill_n(static_cast<std::uint8_t*>(marks.data), config.target_vocab, std::uint8_t{0});
  for (std::int64_t i = 0; i < config.layer.vocab; ++i) {
    distance.as<std::int64_t>()[i] = (kTokensBetween - 1) * i;
    static_cast<std::uint8_t*>(marks.data)[kTokensBetween * i] = 1;
  }
}

}  // namespace

Status synth_eagle3_nano(const std::string& directory, std::uint64_t seed) {
  M3_TRY(const Config nano, parse_config(nano_config(), "the preset"));
  M3_TRY(const Eagle3Config config, parse_eagle3_config(kNanoConfig, "the preset", nano));
  Eagle3Weights weights;
  Tensors tensors;
  add_vocabulary_maps(config, tensors);
  for (const Eagle3Weight& weight : eagle3_table(config, weights))
    if (weight.name != "embed_tokens.weight") draw(weight, seed, tensors);
  const std::string name = "model.safetensors";
  M3_TRY_STATUS(claim_directory({directory, kNanoConfig, {name}}));
  M3_TRY_STATUS(write_text_file(directory + "/config.json", kNanoConfig));
  return write_safetensors(directory + "/" + name, tensors.all(), synthetic_note(seed));
}

}  // namespace m3
