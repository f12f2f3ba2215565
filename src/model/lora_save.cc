#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "model/lora_files.h"
#include "model/lora_names.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// What is written of a module under one name.
struct Entry {
  std::string name;  // peft's, without prefix and suffix
  LoraSize size;
  Tensor a, b;
};

std::string without(std::string name, std::string_view suffix) {
  if (name.ends_with(suffix)) name.resize(name.size() - suffix.size());
  return name;
}

std::string owner_of(const std::string& parameter) {
  return parameter.substr(0, parameter.rfind('.'));
}

// One walk over an adapter.
class Writer {
 public:
  explicit Writer(const LoraNames names) : names_(names) {}

  Result<std::vector<Entry>> entries(const Lora& lora) {
    std::vector<Entry> entries;
    const std::span<const LoraModule> modules = lora.modules();
    for (std::size_t m = 0; m < modules.size(); ++m) {
      if (names_ == LoraNames::kReleased) {
        for (const LoraModule::Target& target : modules[m].targets)
          entries.push_back(released(modules[m], target));
      } else if (modules[m].parameter) {
        // The last one of a module is its outermost wrapper.
        const std::string owner = owner_of(modules[m].name);
        std::string name = owner;
        for (std::size_t later = m + 1; later < modules.size(); ++later)
          if (modules[later].parameter && owner_of(modules[later].name) == owner)
            name += kLoraInner;
        M3_TRY(entries.emplace_back(), parameter(name, modules[m]));
      } else {
        const LoraModule& module = modules[m];
        entries.push_back({module.name, module.size,
                           module.a.reshape({module.size.rank, module.a.dim(2)}),
                           module.b.reshape({module.b.dim(1), module.size.rank})});
      }
    }
    return entries;
  }

 private:
  static Entry released(const LoraModule& module, const LoraModule::Target& target) {
    const std::int64_t e = target.expert, rank = module.size.rank;
    const Tensor b = module.b.rows(e, e + 1).reshape({module.b.dim(1), rank});
    return {without(target.weight, ".weight"), module.size,
            module.a.rows(e, e + 1).reshape({rank, module.a.dim(2)}),
            b.rows(target.first_row, target.first_row + target.rows)};
  }

  Result<Entry> parameter(const std::string& name, const LoraModule& module) {
    const std::int64_t experts = module.b.dim(0), rows = module.b.dim(1), rank = module.size.rank;
    M3_TRY(Buffer buffer, Buffer::allocate(module.b.bytes()));
    const Tensor b = buffer.tensor(DType::kF32, {rows, rank * experts});
    float* to = b.as<float>();
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t j = 0; j < rank; ++j)
        for (std::int64_t e = 0; e < experts; ++e) *to++ = module.b.row<float>(e)[row * rank + j];
    buffers_.push_back(std::move(buffer));
    return Entry{name, module.size, module.a.reshape({experts * rank, module.a.dim(2)}), b};
  }

  LoraNames names_;
  std::vector<Buffer> buffers_;
};

json config_of(const Lora& lora, const LoraSaving& saving) {
  const LoraSize size = lora.modules().front().size;
  // peft refuses to load parameters with dropout. To those who answer with the adapter the number
  // says nothing.
  const bool droppable = saving.names == LoraNames::kReleased ||
                         std::ranges::none_of(lora.modules(), &LoraModule::parameter);
  json config = {{"peft_type", "LORA"},
                 {"task_type", "CAUSAL_LM"},
                 {"base_model_name_or_path", saving.model},
                 {"inference_mode", true},
                 {"bias", "none"},
                 {"fan_in_fan_out", false},
                 {"use_dora", false},
                 {"use_rslora", false},
                 {"lora_dropout", droppable ? saving.dropout : 0},
                 {"r", size.rank},
                 {"lora_alpha", size.alpha},
                 {"rank_pattern", json::object()},
                 {"alpha_pattern", json::object()},
                 {"target_modules", json::array()},
                 {"target_parameters", json::array()}};
  const auto add = [&](const std::string& name, const LoraModule& module) {
    config[module.parameter && saving.names == LoraNames::kTransformers ? "target_parameters"
                                                                        : "target_modules"]
        .push_back(name);
    if (module.size.rank != size.rank) config["rank_pattern"][name] = module.size.rank;
    if (module.size.alpha != size.alpha) config["alpha_pattern"][name] = module.size.alpha;
  };
  for (const LoraModule& module : lora.modules()) {
    if (saving.names == LoraNames::kTransformers) {
      add(module.name, module);
      continue;
    }
    for (const LoraModule::Target& target : module.targets)
      add(without(target.weight, ".weight"), module);
  }
  return config;
}

}  // namespace

Status expect_room_for(const Lora& lora, const std::string& directory) {
  std::error_code error;
  if (fs::exists(directory, error) && !fs::is_empty(directory, error))
    return fail("{} is there already; choose a new directory for the adapter", directory);
  M3_TRY_STATUS(make_directories(directory));
  return expect_space(directory, lora.values() * dtype_size(DType::kF32));
}

Status save_lora(const Lora& lora, const LoraSaving& saving) {
  M3_TRY_STATUS(expect_room_for(lora, saving.directory));
  Writer writer(saving.names);
  M3_TRY(const std::vector<Entry> entries, writer.entries(lora));
  std::vector<NamedTensor> tensors;
  for (const Entry& entry : entries) {
    tensors.push_back({fmt::format("{}{}{}", kLoraPrefix, entry.name, kLoraA), entry.a});
    tensors.push_back({fmt::format("{}{}{}", kLoraPrefix, entry.name, kLoraB), entry.b});
  }
  M3_TRY_STATUS(write_safetensors(saving.directory + kLoraTensorFile, tensors));
  return write_text_file(saving.directory + kLoraConfigFile,
                         config_of(lora, saving).dump(2) + "\n");
}

}  // namespace m3
