#include "apps/lora_options.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <map>

#include "apps/option_checks.h"
#include "model/lora_training.h"

namespace m3 {
namespace {

constexpr std::int64_t kRankMax = 1 << 14;
constexpr double kAlphaMax = 1e6;
constexpr double kRank = 8, kAlpha = 32;  // of new adapters

Result<std::size_t> group_named(const char* option, const std::string& name) {
  const auto found = std::find(kLoraGroupNames.begin(), kLoraGroupNames.end(), name);
  if (found == kLoraGroupNames.end())
    return fail("{}: expected {}, found \"{}\"", option, fmt::join(kLoraGroupNames, ", "), name);
  return static_cast<std::size_t>(found - kLoraGroupNames.begin());
}

using Adapted = std::array<bool, kLoraGroupNames.size()>;
using Numbers = std::array<double, kLoraGroupNames.size()>;

// The numbers of a list like "16,experts=4": of each group its own, or else the common one, which
// is `otherwise` unless the list has one.
Result<Numbers> numbers_of(const char* option, const std::vector<std::string>& list,
                           const Adapted& adapted, double otherwise) {
  Numbers own{}, numbers{};
  double common = otherwise;
  for (const std::string& entry : list) {
    const std::size_t equals = entry.find('=');
    const char* begin = entry.data() + (equals == entry.npos ? 0 : equals + 1);
    const char* end = entry.data() + entry.size();
    double number = 0;
    const auto [stop, error] = std::from_chars(begin, end, number);
    if (error != std::errc() || stop != end || !(number > 0 && number <= kAlphaMax))
      return fail("{} {}: expected a number above 0, or GROUP=NUMBER", option, entry);
    if (equals == entry.npos) {
      common = number;
      continue;
    }
    M3_TRY(const std::size_t group, group_named(option, entry.substr(0, equals)));
    if (own[group] > 0) return fail("{}: {} is there twice", option, kLoraGroupNames[group]);
    if (!adapted[group])
      return fail("{} {}: --lora does not name {}", option, entry, kLoraGroupNames[group]);
    own[group] = number;
  }
  for (std::size_t g = 0; g < numbers.size(); ++g) numbers[g] = own[g] > 0 ? own[g] : common;
  return numbers;
}

Result<Adapted> adapted_groups(const std::vector<std::string>& names) {
  Adapted adapted{};
  for (const std::string& name : names) {
    M3_TRY(const std::size_t group, group_named("--lora", name));
    adapted[group] = true;
  }
  return adapted;
}

bool is_of_experts(const LoraModule& module) {
  return group_of(module) == LoraGroup::kExperts;
}

Status expect_droppable(const NewLoraOptions& options, const Adapted& adapted) {
  constexpr auto kExperts = static_cast<std::size_t>(LoraGroup::kExperts);
  if (options.dropout > 0 && adapted[kExperts] && std::ranges::count(adapted, true) == 1)
    return fail("--lora-dropout: experts have no dropout, in peft neither, and alone are adapted");
  return {};
}

// Errors: a list like "16,experts=4" gives a group another number than the adapter's modules have.
Status expect_numbers(const char* option, const std::vector<std::string>& list,
                      const Adapted& adapted, const Lora& lora,
                      double (*number_of)(const LoraModule&)) {
  if (list.empty()) return {};
  M3_TRY(const Numbers numbers, numbers_of(option, list, adapted, 0));
  for (const LoraModule& module : lora.modules())
    if (const auto g = static_cast<std::size_t>(group_of(module));
        numbers[g] > 0 && number_of(module) != numbers[g])
      return fail("{} {}: the adapter has {} for {}, as in {}; leave the option out", option,
                  numbers[g], number_of(module), kLoraGroupNames[g], module.name);
  return {};
}

// Errors: --lora, --rank or --alpha were typed, and the files have other groups or numbers.
Status expect_as_asked(const NewLoraOptions& options, const Lora& lora) {
  Adapted adapted{};
  for (const LoraModule& module : lora.modules())
    adapted[static_cast<std::size_t>(group_of(module))] = true;
  M3_TRY_STATUS(expect_droppable(options, adapted));
  M3_TRY(const Adapted asked, adapted_groups(options.groups));
  for (std::size_t g = 0; g < adapted.size(); ++g)
    if (!options.groups.empty() && asked[g] != adapted[g])
      return fail("--lora {} {}, and {} {}: leave the option out",
                  asked[g] ? "names" : "is without", kLoraGroupNames[g], options.adapter,
                  adapted[g] ? "adapts it" : "does not adapt it");
  M3_TRY_STATUS(expect_numbers("--rank", options.rank, adapted, lora, [](const LoraModule& module) {
    return static_cast<double>(module.size.rank);
  }));
  return expect_numbers("--alpha", options.alpha, adapted, lora,
                        [](const LoraModule& module) { return module.size.alpha; });
}

}  // namespace

void add_new_lora_options(CLI::App& command, NewLoraOptions& options) {
  command
      .add_option("--lora", options.groups,
                  "train an adapter instead: any of attn (q, k, v, o), dense, shared and experts "
                  "(gate, up, down), as in attn,shared")
      ->delimiter(',');
  command
      .add_option("--adapter", options.adapter,
                  "go on with this adapter, a directory of m3 train or peft: groups, ranks and "
                  "alphas are its own")
      ->check(CLI::ExistingDirectory);
  command
      .add_option(
          "--rank", options.rank,
          "the adapter's ranks: one for all groups, GROUP=NUMBER for one of them, or both, as in "
          "16,experts=4 (default: 8)")
      ->delimiter(',');
  command
      .add_option("--alpha", options.alpha,
                  "what it adds counts alpha / rank; given like the ranks (default: 32)")
      ->delimiter(',');
  command
      .add_option("--lora-dropout", options.dropout,
                  "share of what A reads that is zero in a step, at random; experts have none")
      ->check(between(0, 0.99))
      ->capture_default_str();
  command
      .add_option("--lora-names", options.names,
                  "transformers: what peft over the official classes reads; released: an entry for "
                  "each weight of the released checkpoint (default: transformers, unless --adapter "
                  "has modules that these names do not fit)")
      ->check(CLI::IsMember({"transformers", "released"}));
  command
      .add_option("--lora-seed", options.seed,
                  "of the numbers that an adapter begins with, and of dropout")
      ->check(whole_number())
      ->capture_default_str();
}

void expect_adapter(const CLI::App& command) {
  if (command.count("--lora") + command.count("--adapter") > 0) return;
  for (const char* name : {"--rank", "--alpha", "--lora-dropout", "--lora-names", "--lora-seed"})
    if (command.count(name) > 0) throw CLI::RequiresError(name, "--lora or --adapter");
}

Result<LoraOptions> new_lora(const NewLoraOptions& options) {
  LoraOptions lora{.groups = {}, .seed = options.seed};
  M3_TRY(const Adapted adapted, adapted_groups(options.groups));
  M3_TRY_STATUS(expect_droppable(options, adapted));
  M3_TRY(const Numbers ranks, numbers_of("--rank", options.rank, adapted, kRank));
  M3_TRY(const Numbers alphas, numbers_of("--alpha", options.alpha, adapted, kAlpha));
  for (std::size_t g = 0; g < adapted.size(); ++g) {
    if (!adapted[g]) continue;
    const auto rank = static_cast<std::int64_t>(ranks[g]);
    if (static_cast<double>(rank) != ranks[g] || rank > kRankMax)
      return fail("--rank {}: expected a whole number up to {}", ranks[g], kRankMax);
    lora.groups[g] = {rank, alphas[g]};
  }
  return lora;
}

Result<Lora> lora_to_begin_with(const NewLoraOptions& options, const Config& config) {
  M3_TRY(const auto table, weight_table(config, /*mtp_modules=*/0));
  if (options.adapter.empty()) {
    M3_TRY(const LoraOptions sizes, new_lora(options));
    return Lora::create(config, table, sizes);
  }
  M3_TRY(const Lora stored, load_lora(options.adapter, table));
  auto lora = lora_to_train(stored, config, table);
  if (!lora) return fail("--adapter {}: {}", options.adapter, lora.error().message);
  M3_TRY_STATUS(expect_as_asked(options, *lora));
  return lora;
}

Result<AdaptedMatrices> matrices_to_adapt(const NewLoraOptions& options, const Config& config) {
  if (!options.adapter.empty()) {
    M3_TRY(const Lora lora, lora_to_begin_with(options, config));
    return adapted_by(lora);
  }
  M3_TRY(const LoraOptions sizes, new_lora(options));
  M3_TRY(const auto table, weight_table(config, /*mtp_modules=*/0));
  M3_TRY(const std::vector<LoraChoice> choices, choose_sites(config, table, sizes));
  return adapted_by(choices);
}

Result<LoraNames> lora_names(const NewLoraOptions& options, const Lora& lora,
                             const Config& config) {
  if (options.names == "released") return LoraNames::kReleased;
  M3_TRY(const auto table, weight_table(config, /*mtp_modules=*/0));
  if (fits_transformers(lora, config, table)) return LoraNames::kTransformers;
  if (options.names.empty()) return LoraNames::kReleased;
  return fail(
      "--lora-names transformers: a gate and its up read one A under these names, and {} has other "
      "modules: expected --lora-names released",
      options.adapter);
}

std::string lora_notes(const NewLoraOptions& options, const Lora& lora, LoraNames names) {
  std::string notes;
  if (options.dropout > 0 && std::ranges::any_of(lora.modules(), is_of_experts))
    notes += "note: experts are adapted without --lora-dropout, as peft has none for them\n";
  if (options.names.empty() && names == LoraNames::kReleased)
    notes += fmt::format(
        "note: the adapter will be saved under released names, since it has modules that those of "
        "transformers do not fit: in {} a gate and its up each have an A\n",
        options.adapter);
  return notes;
}

std::string lora_table(const Lora& lora) {
  struct Line {
    std::int64_t modules = 0, weights = 0, values = 0;
  };
  std::map<std::tuple<Kind, std::int64_t, double>, Line> lines;
  for (const LoraModule& module : lora.modules()) {
    Line& line = lines[{module.targets.front().kind, module.size.rank, module.size.alpha}];
    ++line.modules;
    line.weights += std::ssize(module.targets);
    line.values += module.a.elements() + module.b.elements();
  }
  std::string text = fmt::format("{:<15} {:>6} {:>8} {:>8} {:>8} {:>12}\n", "adapted", "rank",
                                 "alpha", "modules", "weights", "numbers");
  for (const auto& [key, line] : lines) {
    const auto& [kind, rank, alpha] = key;
    text += fmt::format("{:<15} {:>6} {:>8g} {:>8} {:>8} {:>12}\n", kind_name(kind), rank, alpha,
                        line.modules, line.weights, line.values);
  }
  return text + fmt::format("{:<15} {:>6} {:>8} {:>8} {:>8} {:>12}\n", "all", "", "",
                            lora.modules().size(), "", lora.values());
}

}  // namespace m3
