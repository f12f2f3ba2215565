#include "apps/side_loss_options.h"

#include <CLI/CLI.hpp>
#include <map>

#include "apps/option_checks.h"

namespace m3 {
namespace {

const std::map<std::string, LoadMeasures> kLoadMeasures = {{"", LoadMeasures::kNone},
                                                           {"brief", LoadMeasures::kBrief},
                                                           {"detailed", LoadMeasures::kByLayer}};

}  // namespace

void add_side_loss_options(CLI::App& command, SideLossOptions& o) {
  command
      .add_option("--load-balance-loss", o.balance,
                  "with --full, weight of a loss that is least where experts are picked equally "
                  "often (default: 0)")
      ->check(between(0, 1e6));
  command
      .add_option("--router-bias-rate", o.bias_rate,
                  "with --full, how far each step moves the routers' biases towards equal loads, "
                  "e.g. 1e-3 (default: 0)")
      ->check(between(0, 1));
  command
      .add_option("--router-metrics", o.load_measures,
                  "also log how experts are loaded: brief, or detailed, by layer and expert")
      ->check(CLI::IsMember({"brief", "detailed"}));
  command
      .add_option("--indexer", o.indexer,
                  "with --full, kl: teach the indexer, frozen otherwise, to rank blocks as its "
                  "group's attention does; for models that are trained from the beginning")
      ->check(CLI::IsMember({"kl"}));
}

Status use_side_losses(const SideLossOptions& o, bool adapter, TrainerOptions& trainer) {
  const std::pair<const char*, bool> needs_weights[] = {{"--load-balance-loss", o.balance > 0},
                                                        {"--router-bias-rate", o.bias_rate > 0},
                                                        {"--indexer", !o.indexer.empty()}};
  for (const auto& [option, used] : needs_weights)
    if (used && adapter)
      return fail("{} goes with --full; routers and indexers stay as they are below an adapter",
                  option);
  trainer.balance = o.balance;
  trainer.bias_rate = o.bias_rate;
  trainer.load_measures = kLoadMeasures.at(o.load_measures);
  trainer.parts.indexer = !o.indexer.empty();
  return {};
}

std::vector<RunFact> side_loss_facts(const SideLossOptions& o) {
  std::vector<RunFact> facts;
  if (o.balance > 0) facts.push_back({"--load-balance-loss", fmt::format("{}", o.balance)});
  if (o.bias_rate > 0) facts.push_back({"--router-bias-rate", fmt::format("{}", o.bias_rate)});
  if (!o.indexer.empty()) facts.push_back({"--indexer", o.indexer});
  return facts;
}

}  // namespace m3
