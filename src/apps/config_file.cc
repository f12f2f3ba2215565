#include "apps/config_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace m3 {
namespace {

// Finds an option by its name without dashes, a positional argument by its name in small letters.
CLI::Option* find_option(CLI::App& command, const std::string& key) {
  if (CLI::Option* option = command.get_option_no_throw("--" + key)) return option;
  for (CLI::Option* option : command.get_options())
    if (option->get_positional() && CLI::detail::to_lower(option->get_name(true)) == key)
      return option;
  return nullptr;
}

// Gives the command the options of one file, except those that were typed and those that do not go
// with one that was typed.
class FileReader {
 public:
  FileReader(CLI::App& command, const std::string& path) : command_(command), path_(path) {
    for (CLI::Option* option : command.get_options())
      if (!option->empty()) typed_.insert(option);
  }

  void set(const CLI::ConfigItem& item) {
    CLI::Option* option = item.parents.empty() ? find_option(command_, item.name) : nullptr;
    if (option == nullptr || !option->get_configurable())
      throw CLI::ConfigError(
          fmt::format("{}: m3 {} knows no \"{}\"; its --help lists what it knows", path_,
                      command_.get_name(), item.fullname()));
    if (!read_.insert(option).second)
      throw CLI::ConfigError(fmt::format("{}: \"{}\" is there twice", path_, item.name));
    if (gives_way(option)) return;
    if (option->get_expected_min() > 0)
      option->add_result(item.inputs);
    else
      set_flag(*option, item);
  }

 private:
  bool gives_way(CLI::Option* option) const {
    return typed_.contains(option) || std::ranges::any_of(option->get_excludes(), [&](auto* other) {
             return typed_.contains(other);
           });
  }

  void set_flag(CLI::Option& flag, const CLI::ConfigItem& item) const {
    const std::string value = CLI::ConfigTOML().to_flag(item);
    if (value != "true" && value != "false")
      throw CLI::ConfigError(fmt::format("{}: {} is a flag: expected true or false, found {}",
                                         path_, item.name, value));
    if (value == "true") flag.add_result(value);
  }

  CLI::App& command_;
  const std::string& path_;
  std::set<const CLI::Option*> typed_, read_;
};

}  // namespace

void add_config_option(CLI::App& command) {
  // CLI11 reads files for a whole program only. Callbacks run in the order in which options were
  // added, when all of the command line is known.
  const auto read = [&command](const std::string& path) {
    FileReader file(command, path);
    for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_file(path))
      if (item.name != "++" && item.name != "--") file.set(item);
  };
  command
      .add_option_function<std::string>(
          "--config", read,
          "file of options, a line each, such as lr = 1e-4 or data = [\"a.jsonl\", \"b.jsonl\"]; "
          "the command line wins, as with --steps over epochs of the file")
      ->check(CLI::ExistingFile)
      ->configurable(false);
}

}  // namespace m3
