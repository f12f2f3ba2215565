#include "model/lora.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/random.h"
#include "model/random_values.h"

namespace m3 {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kTransformers = "model.language_model.";

// Linears, but not the router, whose derivative goes another way, nor the patches' convolution.
bool is_adaptable(const WeightSpec& spec) {
  return spec.shape.size() == 2 && spec.kind != Kind::kRouter && spec.kind != Kind::kEmbedding;
}

void add_part(LoraSites& sites, const WeightSpec& spec, const Source& source) {
  std::string name = source.name;
  const bool parameter = !name.ends_with(kWeight);
  if (!parameter) name.resize(name.size() - kWeight.size());
  const std::size_t rank = source.shape.size();
  const std::int64_t rows = source.shape[rank - 2];
  LoraSite& site = sites[name];
  site.name = std::move(name);
  site.parameter = parameter;
  site.experts = rank == 3 ? source.shape[0] : 1;
  site.rows = rows;
  site.cols = source.shape[rank - 1];
  const bool known = std::any_of(site.parts.begin(), site.parts.end(),
                                 [&](const LoraPart& part) { return part.spec == &spec; });
  if (!known) site.parts.push_back({&spec, source.first_row / rows, source.first_row % rows});
}

Kind kind_of(LoraGroup group) {
  constexpr Kind kKinds[] = {Kind::kAttention, Kind::kDenseMlp, Kind::kSharedExpert, Kind::kExpert};
  return kKinds[static_cast<std::size_t>(group)];
}

void draw_xavier(std::uint64_t seed, const LoraModule& module) {
  const std::int64_t rank = module.a.dim(1), cols = module.a.dim(2);
  const double std = std::sqrt(2 / static_cast<double>(rank + cols));
  const std::uint64_t key = random_key(seed, module.name + ".lora_A");
  for (std::int64_t i = 0; i < module.a.elements(); ++i)
    module.a.as<float>()[i] =
        static_cast<float>(std * normal_at(key, static_cast<std::uint64_t>(i), 0));
}

}  // namespace

LoraSites lora_sites(std::span<const WeightSpec> table) {
  LoraSites sites;
  for (const WeightSpec& spec : table) {
    if (!is_adaptable(spec)) continue;
    add_part(sites, spec, {spec.name, spec.shape});
    for (const Source& source : spec.others) add_part(sites, spec, source);
  }
  return sites;
}

std::string released_site(const WeightSpec& spec) {
  return spec.name.substr(0, spec.name.size() - kWeight.size());
}

std::string transformers_site(const WeightSpec& spec, bool flat) {
  for (const Source& source : spec.others) {
    if (!source.name.starts_with(kTransformers)) continue;
    std::string name = source.name;
    if (name.ends_with(kWeight)) name.resize(name.size() - kWeight.size());
    return flat ? "model." + name.substr(kTransformers.size()) : name;
  }
  return spec.name;
}

Result<std::vector<LoraChoice>> choose_sites(const Config& config,
                                             std::span<const WeightSpec> table,
                                             const LoraOptions& options) {
  std::vector<LoraChoice> choices;
  const LoraSites sites = lora_sites(table);
  for (std::size_t g = 0; g < options.groups.size(); ++g) {
    if (options.groups[g].rank == 0) continue;
    const Kind kind = kind_of(static_cast<LoraGroup>(g));
    std::set<std::string> done;
    for (const WeightSpec& spec : table) {
      if (spec.kind != kind || spec.part != Part::kText) continue;
      const LoraSite& site = sites.find(transformers_site(spec, config.flat))->second;
      if (done.insert(site.name).second) choices.push_back({site, options.groups[g]});
    }
    if (done.empty())
      return fail("the group {} matches nothing: this model has no {}", kLoraGroupNames[g],
                  kind_name(kind));
  }
  return choices;
}

Result<Lora> Lora::create(const Config& config, std::span<const WeightSpec> table,
                          const LoraOptions& options) {
  Lora lora;
  M3_TRY(const std::vector<LoraChoice> choices, choose_sites(config, table, options));
  for (const auto& [site, size] : choices) {
    const auto scale = static_cast<float>(size.alpha / static_cast<double>(size.rank));
    M3_TRY(const LoraModule* module, lora.add(site, size, scale));
    draw_xavier(options.seed, *module);
  }
  return lora;
}

Result<LoraModule*> Lora::add(const LoraSite& site, const LoraSize& size, float scale) {
  const WeightSpec& first = *site.parts.front().spec;
  LoraModule module{.name = site.name, .parameter = site.parameter, .size = size, .scale = scale};
  if (first.part == Part::kText) module.layer = first.layer;
  const std::int64_t a_values = site.experts * size.rank * site.cols;
  const std::int64_t b_values = site.experts * site.rows * size.rank;
  M3_TRY(Buffer buffer, Buffer::allocate((a_values + b_values) * dtype_size(DType::kF32)));
  auto* values = reinterpret_cast<float*>(buffer.data());
  module.a = Tensor(values, DType::kF32, {site.experts, size.rank, site.cols});
  module.b = Tensor(values + a_values, DType::kF32, {site.experts, site.rows, size.rank});
  for (const LoraPart& part : site.parts) {
    const std::int64_t rows = part.spec->shape[0], e = part.expert;
    const Tensor b = module.b.rows(e, e + 1).reshape({site.rows, size.rank});
    const LowRank addend{module.a.rows(e, e + 1).reshape({size.rank, site.cols}),
                         b.rows(part.first_row, part.first_row + rows), scale};
    if (!addends_.emplace(part.spec->name, addend).second)
      return fail("{} is adapted twice, the second time as {}", part.spec->name, site.name);
    module.targets.push_back({part.spec->name, part.spec->kind, e, part.first_row, rows});
  }
  buffers_.push_back(std::move(buffer));
  return &modules_.emplace_back(std::move(module));
}

void Lora::set_dropout(float rate, std::uint64_t key) {
  dropouts_.resize(modules_.size());
  for (std::size_t m = 0; m < modules_.size(); ++m) {
    dropouts_[m] = {rate, mix64(key + m * kGolden)};
    const bool drops = rate > 0 && modules_[m].targets.front().kind != Kind::kExpert;
    for (const LoraModule::Target& target : modules_[m].targets)
      addends_.find(target.weight)->second.dropout = drops ? &dropouts_[m] : nullptr;
  }
}

const LowRank* Lora::addend_of(std::string_view weight) const {
  const auto found = addends_.find(weight);
  return found == addends_.end() ? nullptr : &found->second;
}

std::int64_t Lora::values() const {
  std::int64_t values = 0;
  for (const LoraModule& module : modules_) values += module.a.elements() + module.b.elements();
  return values;
}

Status for_each_linear(Model& model, const std::function<void(const WeightSpec&, Linear&)>& visit) {
  M3_TRY(const auto table, weight_table(model.config(), model.mtp_modules(), &model.weights()));
  for (const WeightSpec& spec : table)
    if (Linear* const* linear = std::get_if<Linear*>(&spec.place); linear && *linear)
      visit(spec, **linear);
  return {};
}

Status attach(const Lora& lora, Model& model) {
  return for_each_linear(model, [&](const WeightSpec& spec, Linear& linear) {
    linear.addend = lora.addend_of(spec.name);
  });
}

}  // namespace m3
