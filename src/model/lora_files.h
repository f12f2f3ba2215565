// Adapters on disk, as `peft` writes them: adapter_config.json and adapter_model.safetensors.
//
// A module NAME of the official classes of transformers has base_model.model.NAME.lora_A.weight
// [rank, cols] and ….lora_B.weight [rows, rank]. The experts of a layer are two parameters of one
// module, gate_up_proj and down_proj (`target_parameters`): the one adapted last is
// ….mlp.experts.lora_A.weight [experts * rank, cols], experts outermost, and ….lora_B.weight
// [rows, rank * experts], experts innermost; the one before it ….mlp.experts.base_layer.lora_A….
// Released names have an entry of the first form for every weight, so that what gate and up share
// is written twice (spec: training §7.5).
#pragma once

#include <span>
#include <string>

#include "base/result.h"
#include "model/lora.h"

namespace m3 {

enum class LoraNames : std::uint8_t { kTransformers, kReleased };

// The adapter of a directory, for the model of this weight table, under either names or both.
// Entries for indexer, head and vision tower are taken, too.
// Errors: those of parse_lora_config(), and of safetensors files; tensors for no linear of the
// model, of other shapes or types, without their counterpart, with numbers that are not finite.
Result<Lora> load_lora(const std::string& directory, std::span<const WeightSpec> table);

struct LoraSaving {
  std::string directory;  // new or empty
  std::string model;      // the directory of the base model
  LoraNames names = LoraNames::kTransformers;
  double dropout = 0;  // with which it was trained; written unless peft would not read it so
};

// To be asked before hours of training. Errors: the directory is not empty, cannot be made, or is
// on a disk without room for the adapter.
Status expect_room_for(const Lora& lora, const std::string& directory);

// Writes what load_lora() and peft read, in float32; the config last. An adapter of create(), or
// loaded under the names under which it is saved. Errors: those of expect_room_for() and of
// writing files.
Status save_lora(const Lora& lora, const LoraSaving& saving);

}  // namespace m3
