#include "apps/run_facts.h"

#include <fmt/ranges.h>

#include "apps/run_folder.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/checksum.h"
#include "checkpoint/pack_file.h"

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

std::vector<RunFact> lora_facts(const LoraOptions& options) {
  std::vector<std::string> groups, ranks, alphas;
  for (std::size_t g = 0; g < options.groups.size(); ++g) {
    if (options.groups[g].rank == 0) continue;
    groups.emplace_back(kLoraGroupNames[g]);
    ranks.push_back(fmt::format("{}={}", kLoraGroupNames[g], options.groups[g].rank));
    alphas.push_back(fmt::format("{}={}", kLoraGroupNames[g], options.groups[g].alpha));
  }
  return {{"--lora", fmt::format("{}", fmt::join(groups, ","))},
          {"--rank", fmt::format("{}", fmt::join(ranks, ","))},
          {"--alpha", fmt::format("{}", fmt::join(alphas, ","))},
          {"--lora-seed", text_of(options.seed)}};
}

}  // namespace m3
