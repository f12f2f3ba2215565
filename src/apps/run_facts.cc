#include "apps/run_facts.h"

#include <fmt/ranges.h>

#include <set>

#include "apps/run_folder.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/checksum.h"
#include "checkpoint/pack_file.h"
#include "model/lora_training.h"

namespace m3 {
namespace {

std::string weights_fact(const Checkpoint& checkpoint) {
  std::int64_t bytes = 0;
  Checksum checksum;
  const std::vector<PackSource> files = pack_sources(checkpoint);
  for (const PackSource& file : files) {
    bytes += file.bytes;
    checksum.add(fmt::format("{} {} {:016x}\n", file.name, file.bytes, file.sample));
  }
  return fmt::format("{} files of {} bytes (xxh3 of samples {:016x})", files.size(), bytes,
                     checksum.value());
}

template <typename Number>
std::string text_of(Number number) {
  return fmt::format("{}", number);
}

std::string joined(std::span<const std::set<std::string>> of_groups) {
  std::vector<std::string> all;
  for (const auto& entries : of_groups) all.insert(all.end(), entries.begin(), entries.end());
  return fmt::format("{}", fmt::join(all, ","));
}

std::string numbers_fact(const Lora& lora) {
  Checksum checksum;
  for (const LoraModule& module : lora.modules()) {
    checksum.add(module.name);
    for (const Tensor& values : {module.a, module.b})
      checksum.add(std::as_bytes(
          std::span(values.as<float>(), static_cast<std::size_t>(values.elements()))));
  }
  return fmt::format("{} numbers of xxh3 {:016x}", lora.values(), checksum.value());
}

}  // namespace

Result<std::vector<RunFact>> model_facts(const ModelOptions& options, const LoadedModel& loaded) {
  M3_TRY(const std::string config, read_text_file(options.model + "/config.json"));
  M3_TRY(const auto checkpoint, Checkpoint::open(options.model));
  return std::vector<RunFact>{
      {"the model's config.json", fmt::format("of xxh3 {:016x}", checksum_of(config))},
      {"the model's weights", weights_fact(*checkpoint)},
      {"--language-model-only", options.language_model_only ? "given" : "not given"},
      {"--backend", options.backend},
      {kInstructionSet, std::string(loaded.backend->isa())}};
}

std::vector<RunFact> trainer_facts(const TrainerOptions& o, const std::string& schedule) {
  std::vector<std::string_view> parts;
  if (o.parts.text) parts.push_back("text");
  if (o.parts.mtp) parts.push_back("mtp");
  if (o.parts.vision) parts.push_back("vision");
  return {{"--train", fmt::format("{}", fmt::join(parts, ","))},
          {"--mtp-scale", text_of(o.mtp_scale)},
          {"--pack", text_of(o.rows)},
          {"--lr", text_of(o.schedule.rate)},
          {"--min-lr", text_of(o.schedule.least)},
          {"--schedule", schedule},
          {"--warmup", text_of(o.schedule.warmup)},
          {"--decay-steps", text_of(o.schedule.falling)},
          {"--betas", fmt::format("{},{}", o.adam.beta1, o.adam.beta2)},
          {"--eps", text_of(o.adam.eps)},
          {"--moments", o.adam.moments == DType::kBF16 ? "bf16" : "f32"},
          {"--weight-decay", text_of(o.adam.weight_decay)},
          {"--clip", text_of(o.clip)}};
}

std::vector<RunFact> lora_facts(const Lora& lora, const NewLoraOptions& options) {
  std::array<std::set<std::string>, kLoraGroupNames.size()> ranks, alphas;
  for (const LoraModule& module : lora.modules()) {
    const auto g = static_cast<std::size_t>(group_of(module));
    ranks[g].insert(fmt::format("{}={}", kLoraGroupNames[g], module.size.rank));
    alphas[g].insert(fmt::format("{}={}", kLoraGroupNames[g], module.size.alpha));
  }
  std::vector<std::string_view> groups;
  for (std::size_t g = 0; g < ranks.size(); ++g)
    if (!ranks[g].empty()) groups.push_back(kLoraGroupNames[g]);
  std::vector<RunFact> facts = {{"--lora", fmt::format("{}", fmt::join(groups, ","))},
                                {"--rank", joined(ranks)},
                                {"--alpha", joined(alphas)},
                                {"--lora-seed", text_of(options.seed)},
                                {"--lora-dropout", text_of(options.dropout)}};
  if (!options.adapter.empty()) facts.push_back({"--adapter", numbers_fact(lora)});
  return facts;
}

}  // namespace m3
