#include "apps/data_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>

#include "apps/option_checks.h"
#include "apps/progress_bar.h"

namespace m3 {

std::vector<CLI::Option*> add_data_options(CLI::App& command, DataOptions& o) {
  static const std::map<std::string, Overlong> kOverlong = {
      {"refuse", Overlong::kRefuse}, {"cut", Overlong::kCut}, {"drop", Overlong::kDrop}};
  CLI::Option* max_tokens =
      command
          .add_option("--max-tokens", o.max_tokens,
                      "tokens of a sample at most (default: the model's positions)")
          ->check(between(2, 1 << 24));
  CLI::Option* overlong =
      command
          .add_option_function<std::string>(
              "--overlong", [&o](const std::string& name) { o.overlong = kOverlong.at(name); },
              "samples of more tokens: refuse the data, cut (a conversation loses its end, a "
              "text becomes several samples) or drop (default: refuse)")
          ->check(CLI::IsMember(kOverlong));
  CLI::Option* thinking_mode =
      command
          .add_option(
              "--thinking-mode", o.thinking_mode,
              "of conversations that do not say: enabled, disabled or adaptive (default: the "
              "template's, adaptive)")
          ->check(CLI::IsMember({"enabled", "disabled", "adaptive"}));
  return {max_tokens, overlong, thinking_mode, add_fps_option(command, o.fps)};
}

Result<Dataset> read_dataset(const DataOptions& o, const std::string& directory,
                             const Config& config, const Tokenizer& tokenizer, bool vision,
                             ThreadPool& pool) {
  DatasetOptions options{.max_tokens = o.max_tokens == 0 ? config.positions_max : o.max_tokens,
                         .overlong = o.overlong,
                         .fps = o.fps};
  if (options.max_tokens > config.positions_max)
    return fail("--max-tokens {}: the model has {} positions", options.max_tokens,
                config.positions_max);
  if (!o.thinking_mode.empty()) options.thinking_mode = o.thinking_mode;
  if (vision) {
    M3_TRY(options.media, preprocess_options(directory, config));
  }
  ProgressBar bar("reading data", "B");
  options.progress = bar.callback();
  return Dataset::read(o.files, tokenizer, options, pool);
}

std::int64_t rows_together(std::int64_t pack, std::int64_t longest) {
  if (pack > 0 && pack < longest)
    std::fprintf(stderr,
                 "note: --pack %lld is less than the longest sequence has, so %lld rows are "
                 "computed together\n",
                 static_cast<long long>(pack), static_cast<long long>(longest));
  return std::max(pack, longest);
}

}  // namespace m3
