#include "model/eagle3_checkpoint.h"

#include <cstring>
#include <set>

#include "base/file.h"
#include "model/eagle3_table.h"
#include "model/packing.h"
#include "tensor/layout.h"

namespace m3 {
namespace {

Status expect_shape(const CheckpointTensor& tensor, const std::vector<std::int64_t>& shape) {
  if (tensor.info->shape == shape) return {};
  return fail("{} in {} has shape {}; expected {}", tensor.info->name, tensor.file->path(),
              describe_shape(tensor.info->shape), describe_shape(shape));
}

Status expect_type(const CheckpointTensor& tensor, DType type) {
  if (tensor.info->dtype == type) return {};
  return fail("{} in {} is {}; expected {}", tensor.info->name, tensor.file->path(),
              dtype_name(tensor.info->dtype), dtype_name(type));
}

Result<Matrix> matrix_of(const CheckpointTensor& tensor) {
  Matrix matrix;
  matrix.codec = codec_for(tensor.info->dtype, /*scales=*/std::nullopt);
  if (matrix.codec == nullptr)
    return fail("{} in {} is {}; expected BF16, F16 or F32", tensor.info->name, tensor.file->path(),
                dtype_name(tensor.info->dtype));
  const auto& shape = tensor.info->shape;
  matrix.rows = shape.size() == 1 ? 1 : shape[0];
  matrix.cols = shape.back();
  matrix.values = tensor.tensor().reshape({matrix.rows, matrix.cols});
  return matrix;
}

// A norm's weight, less one.
Buffer converted(const Matrix& weight, Tensor& place) {
  Buffer memory(weight.cols * dtype_size(DType::kF32));
  place = memory.tensor(DType::kF32, {weight.cols});
  auto* out = place.as<float>();
  weight.codec->decode(weight, 0, 0, weight.cols, out);
  for (std::int64_t i = 0; i < weight.cols; ++i) out[i] -= 1;
  return memory;
}

Status place(const Eagle3Weight& weight, const CheckpointTensor& tensor, Eagle3Weights& weights) {
  M3_TRY_STATUS(expect_shape(tensor, weight.shape));
  M3_TRY(const Matrix matrix, matrix_of(tensor));
  if (auto* const* norm = std::get_if<Tensor*>(&weight.place))
    weights.converted.push_back(converted(matrix, **norm));
  else if (auto* const* linear = std::get_if<Linear*>(&weight.place))
    (*linear)->weight = matrix;
  else
    *std::get<Matrix*>(weight.place) = matrix;
  return {};
}

// Element i, wherever the tensor lies.
template <typename T>
T element(const Tensor& t, std::int64_t i) {
  T value;
  std::memcpy(&value,
              static_cast<const std::byte*>(t.data) + i * static_cast<std::int64_t>(sizeof(T)),
              sizeof(T));
  return value;
}

// The token of every draft id, from d2t; the identity where a draft model covers the vocabulary.
Status read_target_ids(const Eagle3Config& config, const Checkpoint& checkpoint,
                       Eagle3Weights& weights) {
  const CheckpointTensor* map = checkpoint.find(kDraftToTarget);
  if (map == nullptr && config.layer.vocab != config.target_vocab)
    return fail("{} lacks d2t, the tokens of its {} draft ids", checkpoint.directory(),
                config.layer.vocab);
  if (map != nullptr) {
    M3_TRY_STATUS(expect_shape(*map, {config.layer.vocab}));
    M3_TRY_STATUS(expect_type(*map, DType::kI64));
  }
  for (std::int64_t i = 0; i < config.layer.vocab; ++i) {
    const std::int64_t distance = map == nullptr ? 0 : element<std::int64_t>(map->tensor(), i);
    if (distance < -i || distance >= config.target_vocab - i)
      return fail("d2t in {} sends draft id {} by {}, out of the vocabulary of {}",
                  map->file->path(), i, distance, config.target_vocab);
    weights.target_ids.push_back(static_cast<std::int32_t>(i + distance));
  }
  return {};
}

// t2d follows from d2t; where it does not, one of them is damaged.
Status check_target_marks(const Eagle3Config& config, const Checkpoint& checkpoint,
                          const Eagle3Weights& weights) {
  const CheckpointTensor* marks = checkpoint.find(kTargetToDraft);
  if (marks == nullptr) return {};
  M3_TRY_STATUS(expect_shape(*marks, {config.target_vocab}));
  M3_TRY_STATUS(expect_type(*marks, DType::kBool));
  const std::set<std::int32_t> drafted(weights.target_ids.begin(), weights.target_ids.end());
  for (std::int64_t token = 0; token < config.target_vocab; ++token)
    if ((element<std::uint8_t>(marks->tensor(), token) != 0) !=
        drafted.contains(static_cast<std::int32_t>(token)))
      return fail("t2d and d2t in {} disagree on token {}", marks->file->path(), token);
  return {};
}

Status nothing_extra(const std::vector<Eagle3Weight>& table, const Checkpoint& checkpoint) {
  std::set<std::string, std::less<>> known = {kDraftToTarget, kTargetToDraft};
  for (const Eagle3Weight& weight : table) known.insert(weight.name);
  for (const auto& [name, tensor] : checkpoint.tensors())
    if (!known.contains(name) && !name.ends_with("rotary_emb.inv_freq"))
      return fail("{} in {} is no weight of an EAGLE3 draft model of one layer", name,
                  tensor.file->path());
  return {};
}

// What the draft model leaves to the model.
Status borrow(const Eagle3Config& config, const std::string& directory, const Weights& target,
              Eagle3Weights& weights) {
  const bool same_width = config.layer.hidden == config.target_hidden;
  if (!weights.head.weight) {
    if (!same_width || config.layer.vocab != config.target_vocab)
      return fail("{} lacks lm_head.weight, and the model's does not fit its {} ids and width {}",
                  directory, config.layer.vocab, config.layer.hidden);
    weights.head = target.head;
  }
  if (!weights.embedding) {
    if (!same_width)
      return fail("{} lacks embed_tokens.weight, and the model's does not fit its width {}",
                  directory, config.layer.hidden);
    weights.embedding = target.embedding;
  }
  return {};
}

}  // namespace

std::vector<Eagle3Weight> eagle3_table(const Eagle3Config& config, Eagle3Weights& w) {
  const Config& c = config.layer;
  const std::int64_t taps = std::ssize(config.taps) * config.target_hidden;
  const std::int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const std::string layer = "midlayer.", attention = layer + "self_attn.", mlp = layer + "mlp.";
  return {{"embed_tokens.weight", {config.target_vocab, c.hidden}, &w.embedding, true},
          {"fc.weight", {c.hidden, taps}, &w.fuse},
          {layer + "input_layernorm.weight", {c.hidden}, &w.embedding_norm},
          {layer + "hidden_norm.weight", {c.hidden}, &w.hidden_norm},
          {attention + "q_proj.weight", {q, 2 * c.hidden}, &w.q},
          {attention + "k_proj.weight", {kv, 2 * c.hidden}, &w.k},
          {attention + "v_proj.weight", {kv, 2 * c.hidden}, &w.v},
          {attention + "o_proj.weight", {c.hidden, q}, &w.o},
          {layer + "post_attention_layernorm.weight", {c.hidden}, &w.ffn_norm},
          {mlp + "gate_proj.weight", {c.dense_inner, c.hidden}, &w.gate},
          {mlp + "up_proj.weight", {c.dense_inner, c.hidden}, &w.up},
          {mlp + "down_proj.weight", {c.hidden, c.dense_inner}, &w.down},
          {"norm.weight", {c.hidden}, &w.final_norm},
          {"lm_head.weight", {c.vocab, c.hidden}, &w.head, true}};
}

Result<std::unique_ptr<Eagle3>> load_eagle3(const std::string& directory, const Config& target,
                                            const Weights& target_weights, Backend& backend) {
  constexpr std::int64_t kConfigBytesMax = 16 << 20;
  const std::string path = directory + "/config.json";
  M3_TRY(const std::string text, read_text_file(path, kConfigBytesMax));
  M3_TRY(Eagle3Config config, parse_eagle3_config(text, path, target));
  Eagle3Weights weights;
  M3_TRY(weights.checkpoint, Checkpoint::open(directory));
  const Checkpoint& checkpoint = *weights.checkpoint;
  const auto table = eagle3_table(config, weights);
  PackableWeights linears;
  for (const Eagle3Weight& weight : table) {
    const CheckpointTensor* tensor = checkpoint.find(weight.name);
    if (tensor == nullptr) {
      if (weight.optional) continue;
      return fail("{} lacks {}, which every EAGLE3 draft model has", directory, weight.name);
    }
    M3_TRY_STATUS(place(weight, *tensor, weights));
    if (auto* const* linear = std::get_if<Linear*>(&weight.place))
      linears.push_back({weight.name, &(*linear)->weight});
  }
  M3_TRY_STATUS(nothing_extra(table, checkpoint));
  M3_TRY_STATUS(read_target_ids(config, checkpoint, weights));
  M3_TRY_STATUS(check_target_marks(config, checkpoint, weights));
  M3_TRY_STATUS(pack_into(weights.converted, backend, linears, checkpoint, /*progress=*/{}));
  M3_TRY_STATUS(borrow(config, directory, target_weights, weights));
  return std::make_unique<Eagle3>(std::move(config), std::move(weights), backend);
}

}  // namespace m3
