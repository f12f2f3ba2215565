// Low-rank adapters of the model's linears (arXiv 2106.09685; spec: training §7).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/model.h"
#include "model/weight_table.h"
#include "ops/linear.h"
#include "tensor/tensor.h"

namespace m3 {

// What people adapt by name: q, k, v, o; gate, up, down of dense layers; of shared experts; of
// routed ones.
enum class LoraGroup : std::uint8_t { kAttention, kDense, kShared, kExperts };
inline constexpr std::array<std::string_view, 4> kLoraGroupNames = {"attn", "dense", "shared",
                                                                    "experts"};

struct LoraSize {
  std::int64_t rank = 0;
  double alpha = 0;  // addends count alpha / rank
};

struct LoraOptions {
  std::array<LoraSize, kLoraGroupNames.size()> groups;  // of rank 0: not adapted
  std::uint64_t seed = 0;
};

// A weight among those that a site adapts together.
struct LoraPart {
  const WeightSpec* spec = nullptr;
  std::int64_t expert = 0;     // of the site's
  std::int64_t first_row = 0;  // of its outputs
};

// A matrix of some spelling of the checkpoint, or one of each expert, as an adapter sees it.
// transformers keeps a gate and its up in one, which so read one A.
struct LoraSite {
  std::string name;        // without ".weight"
  bool parameter = false;  // of a module of many, as transformers keeps experts: no module itself
  std::int64_t experts = 1;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<LoraPart> parts;
};

// The sites of a weight table, which outlives them, in all spellings, by name.
using LoraSites = std::map<std::string, LoraSite, std::less<>>;
LoraSites lora_sites(std::span<const WeightSpec> table);

// The name of a linear's site in the release: it alone.
std::string released_site(const WeightSpec& spec);
// The name of a weight's site in transformers; `flat`: in its class of the text model alone.
std::string transformers_site(const WeightSpec& spec, bool flat);

// A site that an adapter is made for.
struct LoraChoice {
  LoraSite site;
  LoraSize size;
};
// What Lora::create() adapts, in its order. Errors: a group that the model has no weights of.
Result<std::vector<LoraChoice>> choose_sites(const Config& config,
                                             std::span<const WeightSpec> table,
                                             const LoraOptions& options);

struct LoraModule {
  // One part of it; the weight's name is the released one.
  struct Target {
    std::string weight;
    Kind kind = Kind::kNorm;
    std::int64_t expert = 0;
    std::int64_t first_row = 0;
    std::int64_t rows = 0;
  };
  std::string name;  // of its site
  bool parameter = false;
  std::int64_t layer = -1;  // of the text model; -1: none
  LoraSize size;
  float scale = 1;
  Tensor a;  // [experts, rank, cols] F32
  Tensor b;  // [experts, rows, rank] F32
  std::vector<Target> targets;
};

// An adapter in memory.
class Lora {
 public:
  // A is Xavier-normal by the fans of its own matrix, an expert's too: Automodel's, by the fans of
  // the three-dimensional tensor of all experts, are a third of that and mean nothing (spec:
  // training §7.3). B is zero. Names are those of transformers. A function of seed and names.
  // Errors: a group that the model has no weights of; the system has not the memory.
  static Result<Lora> create(const Config& config, std::span<const WeightSpec> table,
                             const LoraOptions& options);

  // Adds a module for a site; A and B zero. Errors: a weight of it has one already; the system has
  // not the memory.
  Result<LoraModule*> add(const LoraSite& site, const LoraSize& size, float scale);

  // Lets what the A of every module but experts read go through dropout, at random by key and
  // module; experts have none, in peft neither. Of rate 0: no more.
  void set_dropout(float rate, std::uint64_t key);

  std::span<const LoraModule> modules() const { return modules_; }
  // Of a weight by its released name; null: it has none. Stays where it is if the adapter is moved.
  const LowRank* addend_of(std::string_view weight) const;
  std::int64_t values() const;  // of all A and B

 private:
  std::vector<LoraModule> modules_;
  std::vector<Buffer> buffers_;
  std::vector<Dropout> dropouts_;  // of each module
  std::map<std::string, LowRank, std::less<>> addends_;
};

// The model's linears, those that were loaded.
Status for_each_linear(Model& model, const std::function<void(const WeightSpec&, Linear&)>& visit);

// Lets the model's linears add the adapter, which outlives it. Weights that the model was loaded
// without are left out. The backend reads A and B at every step, so they may change.
Status attach(const Lora& lora, Model& model);

}  // namespace m3
