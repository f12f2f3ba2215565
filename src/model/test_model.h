// A very small model in memory, for tests that take checkpoints apart. Included by *_test.cc only.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/test_support.h"
#include "model/presets.h"
#include "model/synth.h"
#include "model/weights.h"

namespace m3 {

// A tensor that owns its bytes.
struct StoredTensor {
  DType dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;

  std::int64_t rows() const { return shape.front(); }
};

using StoredModel = std::map<std::string, StoredTensor>;

// Sizes that are no multiple of anything: rows of 40 columns have a whole and a short MXFP8 block.
inline nlohmann::json tiny_config() {
  auto json = nlohmann::json::parse(nano_config());
  json["text_config"].update({{"hidden_size", 40},
                              {"num_hidden_layers", 3},
                              {"num_attention_heads", 6},
                              {"head_dim", 16},
                              {"rotary_dim", 8},
                              {"vocab_size", 99},
                              {"intermediate_size", 24},
                              {"shared_intermediate_size", 20},
                              {"dense_intermediate_size", 36},
                              {"num_local_experts", 5},
                              {"moe_layer_freq", {0, 1, 1}}});
  json["text_config"]["sparse_attention_config"].update(
      {{"sparse_index_dim", 24},
       {"sparse_attention_freq", {0, 1, 1}},
       {"sparse_disable_index_value", {0, 1, 1}}});
  json["vision_config"].update(
      {{"hidden_size", 24}, {"intermediate_size", 28}, {"num_hidden_layers", 1}});
  json["projector_hidden_size"] = 32;
  json["image_token_index"] = 60;
  json["video_token_index"] = 61;
  return json;
}

inline void synthesise(const nlohmann::json& config, Format format, const std::string& directory,
                       std::int64_t shard_bytes = 1 << 30) {
  SynthOptions options;
  options.config_json = config.dump();
  options.directory = directory;
  options.seed = 5;
  options.format = format;
  options.shard_bytes = shard_bytes;
  const Status written = synth_checkpoint(options);
  ASSERT_TRUE(written) << written.error().message;
}

inline StoredModel read_model(const std::string& directory) {
  const auto checkpoint = Checkpoint::open(directory);
  EXPECT_TRUE(checkpoint) << checkpoint.error().message;
  StoredModel model;
  if (!checkpoint) return model;
  for (const auto& [name, tensor] : (*checkpoint)->tensors()) {
    const Tensor view = tensor.tensor();
    model[name] = {view.dtype,
                   tensor.info->shape,
                   {static_cast<const char*>(view.data), static_cast<std::size_t>(view.bytes())}};
  }
  return model;
}

inline StoredModel tiny_model(const nlohmann::json& config, Format format) {
  const TestDirectory directory;
  synthesise(config, format, directory.path());
  return read_model(directory.path());
}

inline void write_model(const StoredModel& model, const std::string& path) {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : model)
    tensors.push_back({name, Tensor(const_cast<char*>(tensor.bytes.data()), tensor.dtype,
                                    std::span<const std::int64_t>(tensor.shape))});
  const Status written = write_safetensors(path, tensors);
  ASSERT_TRUE(written) << written.error().message;
}

// Loads a model as if it lay in one file of a directory.
inline Result<Weights> load(const nlohmann::json& config, const StoredModel& model,
                            ThreadPool* pool = nullptr) {
  const TestDirectory directory;
  write_model(model, directory / "model.safetensors");
  M3_TRY(const Config parsed, parse_config(config.dump(), "config.json"));
  M3_TRY(auto checkpoint, Checkpoint::open(directory.path()));
  return load_weights(parsed, std::move(checkpoint), {}, pool);
}

inline void append(const Matrix& w, std::vector<float>& out) {
  std::vector<float> row(static_cast<std::size_t>(w.cols));
  for (std::int64_t r = 0; r < w.rows; ++r) {
    w.codec->decode(w, r, 0, w.cols, row.data());
    out.insert(out.end(), row.begin(), row.end());
  }
}

inline void append(const Tensor& x, std::vector<float>& out) {
  if (x) out.insert(out.end(), x.as<float>(), x.as<float>() + x.elements());
}

inline void append(const MlpWeights& w, std::vector<float>& out) {
  for (const Linear* linear : {&w.gate, &w.up, &w.down}) append(linear->weight, out);
}

inline void append(const MoeWeights& w, std::vector<float>& out) {
  append(w.router, out);
  append(w.router_bias, out);
  for (std::size_t e = 0; e < w.gate.size(); ++e)
    for (const auto* linears : {&w.gate, &w.up, &w.down}) append((*linears)[e].weight, out);
  if (w.shared) append(*w.shared, out);
}

inline void append(const LayerWeights& w, std::vector<float>& out) {
  const AttentionWeights& a = w.attention;
  for (const Tensor& norm : {w.attention_norm, w.ffn_norm, a.q_norm, a.k_norm}) append(norm, out);
  for (const Linear* linear : {&a.q, &a.k, &a.v, &a.o}) append(linear->weight, out);
  if (w.indexer) {
    append(w.indexer->q.weight, out);
    append(w.indexer->k.weight, out);
    append(w.indexer->q_norm, out);
    append(w.indexer->k_norm, out);
  }
  if (w.mlp) append(*w.mlp, out);
  if (w.moe) append(*w.moe, out);
}

inline void append(const BiasedLinear& w, std::vector<float>& out) {
  append(w.linear.weight, out);
  append(w.bias, out);
}

inline void append(const LayerNormWeights& w, std::vector<float>& out) {
  append(w.weight, out);
  append(w.bias, out);
}

inline void append(const VisionWeights& w, std::vector<float>& out) {
  append(w.patch_embedding.weight, out);
  append(w.pre_norm, out);
  for (const EncoderLayerWeights& layer : w.layers) {
    for (const LayerNormWeights* norm : {&layer.norm1, &layer.norm2}) append(*norm, out);
    for (const BiasedLinear* linear :
         {&layer.q, &layer.k, &layer.v, &layer.out, &layer.fc1, &layer.fc2})
      append(*linear, out);
  }
  for (const BiasedLinear* linear : {&w.projector_1, &w.projector_2, &w.merger_1, &w.merger_2})
    append(*linear, out);
}

// Every number of the text model, in a fixed order.
inline std::vector<float> text_values(const Weights& weights) {
  std::vector<float> values;
  append(weights.embedding, values);
  for (const LayerWeights& layer : weights.layers) append(layer, values);
  append(weights.final_norm, values);
  append(weights.head.weight, values);
  return values;
}

// The same of the MTP modules that were asked for.
inline std::vector<float> mtp_values(const Weights& weights) {
  std::vector<float> values;
  for (const MtpWeights& w : weights.mtp) {
    for (const Tensor& norm : {w.embedding_norm, w.hidden_norm, w.final_norm}) append(norm, values);
    append(w.join.weight, values);
    append(w.layer, values);
  }
  return values;
}

// Of all that is loaded.
inline std::vector<float> all_values(const Weights& weights) {
  std::vector<float> values = text_values(weights);
  if (weights.vision) append(*weights.vision, values);
  const std::vector<float> of_modules = mtp_values(weights);
  values.insert(values.end(), of_modules.begin(), of_modules.end());
  return values;
}

}  // namespace m3
