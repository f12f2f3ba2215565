#include "apps/config_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "base/file.h"
#include "text/utf8.h"

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
      throw CLI::ConfigError(fmt::format("{}: m3 {} knows no \"{}\"; {}", path_,
                                         command_.get_name(), item.fullname(), advice(item.name)));
    if (!read_.insert(option).second)
      throw CLI::ConfigError(fmt::format("{}: \"{}\" is there twice", path_, item.name));
    if (gives_way(option)) return;
    try {
      if (option->get_expected_min() > 0)
        option->add_result(item.inputs);
      else
        set_flag(*option, item);
      // Now, as nobody knows later where the value stood.
      if (!option->empty()) option->run_callback();
    } catch (const CLI::ParseError& error) {
      throw CLI::ConfigError(fmt::format("{}: {}", path_, error.what()));
    }
  }

 private:
  bool gives_way(CLI::Option* option) const {
    return typed_.contains(option) || std::ranges::any_of(option->get_excludes(), [&](auto* other) {
             return typed_.contains(other);
           });
  }

  // To somebody who wrote a key that is none.
  std::string advice(std::string key) const {
    std::ranges::replace(key, '_', '-');
    return find_option(command_, key) != nullptr ? fmt::format("expected \"{}\"", key)
                                                 : "its --help lists what it knows";
  }

  static void set_flag(CLI::Option& flag, const CLI::ConfigItem& item) {
    const std::string value = CLI::ConfigTOML().to_flag(item);
    if (value != "true" && value != "false")
      throw CLI::ConfigError(
          fmt::format("{} is a flag: expected true or false, found {}", item.name, value));
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
    const auto text = read_text_file(path);
    if (!text) throw CLI::ConfigError(text.error().message);
    FileReader file(command, path);
    std::istringstream in{std::string(without_byte_order_mark(*text))};
    for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_config(in))
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
