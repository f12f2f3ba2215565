#include "apps/config_file.h"

#include <fmt/format.h>

namespace m3 {
namespace {

// By the name of an option or, in small letters, of what has no dashes.
CLI::Option* find_option(CLI::App& command, const std::string& key) {
  if (CLI::Option* option = command.get_option_no_throw("--" + key)) return option;
  for (CLI::Option* option : command.get_options())
    if (option->get_positional() && CLI::detail::to_lower(option->get_name(true)) == key)
      return option;
  return nullptr;
}

void set_option(CLI::App& command, const std::string& path, const CLI::ConfigItem& item) {
  CLI::Option* option = item.parents.empty() ? find_option(command, item.name) : nullptr;
  if (option == nullptr || !option->get_configurable())
    throw CLI::ConfigError(fmt::format("{}: m3 {} knows no \"{}\"; its --help lists what it knows",
                                       path, command.get_name(), item.fullname()));
  if (!option->empty()) return;
  if (option->get_expected_min() > 0) {
    option->add_result(item.inputs);
    return;
  }
  const std::string value = CLI::ConfigTOML().to_flag(item);
  if (value != "true" && value != "false")
    throw CLI::ConfigError(
        fmt::format("{}: {} is a flag: expected true or false, found {}", path, item.name, value));
  if (value == "true") option->add_result(value);
}

}  // namespace

void add_config_option(CLI::App& command) {
  // CLI11 reads files for a whole program only. Callbacks run in the order in which options were
  // added, when all of the command line is known.
  const auto read = [&command](const std::string& path) {
    for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_file(path))
      if (item.name != "++" && item.name != "--") set_option(command, path, item);
  };
  command
      .add_option_function<std::string>(
          "--config", read,
          "file of options, a line each, such as lr = 1e-4 or data = [\"a.jsonl\", \"b.jsonl\"]; "
          "the command line wins")
      ->check(CLI::ExistingFile)
      ->configurable(false);
}

}  // namespace m3
