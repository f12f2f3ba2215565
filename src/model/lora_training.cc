#include "model/lora_training.h"

#include <algorithm>
#include <set>

namespace m3 {
namespace {

// The module of an adapter that each weight belongs to.
using ModuleOfWeight = std::map<std::string_view, const LoraModule*>;

ModuleOfWeight modules_by_weight(const Lora& lora) {
  ModuleOfWeight modules;
  for (const LoraModule& module : lora.modules())
    for (const LoraModule::Target& target : module.targets) modules[target.weight] = &module;
  return modules;
}

Status expect_trained(const WeightSpec& spec) {
  if (spec.part == Part::kText && lora_group(spec.kind)) return {};
  return fail(
      "the adapter changes {}, which m3 train does not adapt: attn, dense, shared and "
      "experts are",
      spec.name);
}

bool same_values(const Tensor& a, const Tensor& b) {
  return a.elements() == b.elements() &&
         std::equal(a.as<float>(), a.as<float>() + a.elements(), b.as<float>());
}

// Whether all weights of the site are adapted, and alike, those of an expert by one A.
bool fits(const Lora& lora, const LoraSite& site) {
  std::vector<const LowRank*> of_expert(static_cast<std::size_t>(site.experts));
  const LowRank* any = nullptr;
  for (const LoraPart& part : site.parts) {
    const LowRank* addend = lora.addend_of(part.spec->name);
    if (addend == nullptr) return false;
    if (any == nullptr) any = addend;
    if (addend->a.dim(0) != any->a.dim(0) || addend->scale != any->scale) return false;
    const LowRank*& first = of_expert[static_cast<std::size_t>(part.expert)];
    if (first == nullptr) first = addend;
    if (!same_values(first->a, addend->a)) return false;
  }
  return true;
}

void copy_values(const Tensor& from, float* to) {
  std::copy_n(from.as<float>(), from.elements(), to);
}

void fill(const Lora& lora, const LoraSite& site, const LoraModule& module) {
  for (const LoraPart& part : site.parts) {
    const LowRank& addend = *lora.addend_of(part.spec->name);
    copy_values(addend.a, module.a.row<float>(part.expert));
    copy_values(addend.b, module.b.row<float>(part.expert) + part.first_row * module.size.rank);
  }
}

// With alpha / rank for its scale.
LoraSize size_of(const LoraModule& module) {
  const auto rank = static_cast<double>(module.size.rank);
  if (static_cast<float>(module.size.alpha / rank) == module.scale) return module.size;
  return {module.size.rank, rank * double{module.scale}};
}

}  // namespace

std::optional<LoraGroup> lora_group(Kind kind) {
  switch (kind) {
    case Kind::kAttention:
      return LoraGroup::kAttention;
    case Kind::kDenseMlp:
      return LoraGroup::kDense;
    case Kind::kSharedExpert:
      return LoraGroup::kShared;
    case Kind::kExpert:
      return LoraGroup::kExperts;
    default:
      return std::nullopt;
  }
}

LoraGroup group_of(const LoraModule& module) {
  return *lora_group(module.targets.front().kind);
}

Result<Lora> lora_to_train(const Lora& lora, const Config& config,
                           std::span<const WeightSpec> table) {
  const LoraSites sites = lora_sites(table);
  const ModuleOfWeight modules = modules_by_weight(lora);
  Lora trained;
  std::set<std::string_view> done;
  for (const WeightSpec& spec : table) {
    const auto module = modules.find(spec.name);
    if (module == modules.end()) continue;
    M3_TRY_STATUS(expect_trained(spec));
    const LoraSite& whole = sites.find(transformers_site(spec, config.flat))->second;
    const LoraSite& site = fits(lora, whole) ? whole : sites.find(released_site(spec))->second;
    if (!done.insert(site.name).second) continue;
    M3_TRY(const LoraModule* added,
           trained.add(site, size_of(*module->second), module->second->scale));
    fill(lora, site, *added);
  }
  return trained;
}

bool fits_transformers(const Lora& lora, const Config& config, std::span<const WeightSpec> table) {
  const ModuleOfWeight modules = modules_by_weight(lora);
  return std::ranges::all_of(table, [&](const WeightSpec& spec) {
    const auto module = modules.find(spec.name);
    return module == modules.end() || module->second->name == transformers_site(spec, config.flat);
  });
}

}  // namespace m3
