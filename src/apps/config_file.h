// Options of a command in a file.
#pragma once

#include <CLI/CLI.hpp>

namespace m3 {

// --config FILE: TOML (or INI) whose keys are the command's options without their dashes, `model`
// its model. What is on the command line wins, also over options that it excludes. To be added
// before every option that may stand in a file. A key that the command does not know is an error,
// and so are one that is there twice and a section.
void add_config_option(CLI::App& command);

}  // namespace m3
