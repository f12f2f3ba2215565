#include "apps/lora_options.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <map>

#include "apps/option_checks.h"

namespace m3 {
namespace {

constexpr std::int64_t kRankMax = 1 << 14;
constexpr double kAlphaMax = 1e6;

Result<std::size_t> group_named(const std::string& name) {
  const auto found = std::find(kLoraGroupNames.begin(), kLoraGroupNames.end(), name);
  if (found == kLoraGroupNames.end())
    return fail("--lora: expected {}, found \"{}\"", fmt::join(kLoraGroupNames, ", "), name);
  return static_cast<std::size_t>(found - kLoraGroupNames.begin());
}

// The numbers of a list like "16,experts=4": of each group of `adapted`, its own or the common one.
Result<std::array<double, kLoraGroupNames.size()>> numbers_of(
    const char* option, const std::vector<std::string>& list,
    const std::array<bool, kLoraGroupNames.size()>& adapted) {
  std::array<double, kLoraGroupNames.size()> own{}, numbers{};
  double common = 0;
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
    M3_TRY(const std::size_t group, group_named(entry.substr(0, equals)));
    if (!adapted[group])
      return fail("{} {}: --lora does not name {}", option, entry, kLoraGroupNames[group]);
    own[group] = number;
  }
  for (std::size_t g = 0; g < numbers.size(); ++g) {
    numbers[g] = own[g] > 0 ? own[g] : common;
    if (adapted[g] && numbers[g] == 0)
      return fail("{}: there is none for {}", option, kLoraGroupNames[g]);
  }
  return numbers;
}

}  // namespace

void add_new_lora_options(CLI::App& command, NewLoraOptions& options) {
  CLI::Option* lora =
      command
          .add_option(
              "--lora", options.groups,
              "train an adapter instead: any of attn (q, k, v, o), dense, shared and experts "
              "(gate, up, down), as in attn,shared")
          ->delimiter(',');
  command.add_option("--rank", options.rank, "the adapter's ranks, as in 16 or attn=16,experts=4")
      ->delimiter(',')
      ->needs(lora)
      ->capture_default_str();
  command
      .add_option("--alpha", options.alpha, "what it adds counts alpha / rank; given as the ranks")
      ->delimiter(',')
      ->needs(lora)
      ->capture_default_str();
  command
      .add_option("--lora-dropout", options.dropout,
                  "share of what A reads that is zero in a step, at random; not of experts")
      ->check(between(0, 0.99))
      ->needs(lora)
      ->capture_default_str();
  command
      .add_option("--lora-names", options.names,
                  "transformers: what peft over the official classes reads; released: an entry for "
                  "each weight of the released checkpoint")
      ->check(CLI::IsMember({"transformers", "released"}))
      ->needs(lora)
      ->capture_default_str();
  command
      .add_option("--lora-seed", options.seed,
                  "of the numbers that an adapter begins with, and of dropout")
      ->check(whole_number())
      ->needs(lora)
      ->capture_default_str();
}

Result<LoraOptions> new_lora(const NewLoraOptions& options) {
  LoraOptions lora{.groups = {}, .seed = options.seed};
  std::array<bool, kLoraGroupNames.size()> adapted{};
  for (const std::string& name : options.groups) {
    M3_TRY(const std::size_t group, group_named(name));
    adapted[group] = true;
  }
  if (options.dropout > 0 && adapted[static_cast<std::size_t>(LoraGroup::kExperts)])
    return fail("--lora-dropout does not go with experts, for which peft has none either");
  M3_TRY(const auto ranks, numbers_of("--rank", options.rank, adapted));
  M3_TRY(const auto alphas, numbers_of("--alpha", options.alpha, adapted));
  for (std::size_t g = 0; g < adapted.size(); ++g) {
    if (!adapted[g]) continue;
    const auto rank = static_cast<std::int64_t>(ranks[g]);
    if (static_cast<double>(rank) != ranks[g] || rank > kRankMax)
      return fail("--rank {}: expected a whole number up to {}", ranks[g], kRankMax);
    lora.groups[g] = {rank, alphas[g]};
  }
  return lora;
}

LoraNames lora_names(const NewLoraOptions& options) {
  return options.names == "released" ? LoraNames::kReleased : LoraNames::kTransformers;
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
