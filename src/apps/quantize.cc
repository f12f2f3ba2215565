// `m3 quantize`: a model in another number format.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/progress_bar.h"
#include "model/quantize.h"

namespace m3 {
namespace {

using Json = nlohmann::ordered_json;

struct QuantizeCommand {
  QuantizeOptions options;
  std::string format;
  std::vector<std::string> keep;
  bool language_model_only = false;
  bool json = false;
  int threads = 0;
};

Result<Format> writable_format(const std::string& name) {
  for (const Format format :
       {Format::kBF16, Format::kMxfp8, Format::kMxfp4, Format::kNvfp4, Format::kInt8})
    if (codec_of(format).name == name) return format;
  return fail("'{}' is no format to write; known are bf16, mxfp8, mxfp4, nvfp4 and int8", name);
}

// PATTERN=FORMAT.
Result<FormatRule> parse_rule(const std::string& text) {
  const auto equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0)
    return fail("--keep {}: expected PATTERN=FORMAT, as in '*self_attn*=bf16'", text);
  auto format = writable_format(text.substr(equals + 1));
  if (!format) return fail("--keep {}: {}", text, format.error().message);
  return FormatRule{text.substr(0, equals), *format};
}

double relative(const RoundingError& error) {
  return error.squares > 0 ? std::sqrt(error.error_squares / error.squares) : 0;
}

Json report_json(const QuantizeCommand& command, const RewriteReport& report) {
  Json json{{"directory", command.options.directory},
            {"format", command.format},
            {"source_bytes", report.source_bytes},
            {"bytes", report.bytes},
            {"weights", Json::array()}};
  for (const RewrittenWeight& weight : report.weights)
    json["weights"].push_back({{"name", weight.name},
                               {"kind", kind_name(weight.kind)},
                               {"from", weight.from->name},
                               {"format", weight.to->name},
                               {"values", weight.values},
                               {"bytes", weight.bytes},
                               {"relative_rms_error", relative(weight.error)},
                               {"max_error", weight.error.error_max}});
  json["left_out"] = report.left_out;
  return json;
}

// Weights of one kind that went the same way.
struct Line {
  std::int64_t weights = 0;
  std::int64_t values = 0;
  std::int64_t bytes = 0;
  RoundingError error;
};

std::string report_table(const RewriteReport& report) {
  std::map<std::tuple<Kind, std::string_view, std::string_view>, Line> lines;
  for (const RewrittenWeight& weight : report.weights) {
    Line& line = lines[{weight.kind, weight.from->name, weight.to->name}];
    ++line.weights;
    line.values += weight.values;
    line.bytes += weight.bytes;
    line.error.squares += weight.error.squares;
    line.error.error_squares += weight.error.error_squares;
    line.error.error_max = std::max(line.error.error_max, weight.error.error_max);
  }
  std::string text = fmt::format("{:<15} {:<14} {:>7} {:>10} {:>6} {:>10} {:>10}\n", "weights of",
                                 "format", "number", "size", "bits", "RMS error", "largest");
  for (const auto& [key, line] : lines) {
    const auto& [kind, from, to] = key;
    const double bits = 8 * static_cast<double>(line.bytes) / static_cast<double>(line.values);
    text += fmt::format("{:<15} {:<14} {:>7} {:>10} {:>6.2f}", kind_name(kind),
                        from == to ? std::string(to) : fmt::format("{} -> {}", from, to),
                        line.weights, quantity(static_cast<double>(line.bytes), "B"), bits);
    text += from == to ? fmt::format(" {:>10} {:>10}\n", "kept", "")
                       : fmt::format(" {:>8.3f} % {:>10.3g}\n", 100 * relative(line.error),
                                     line.error.error_max);
  }
  return text;
}

Status run_quantize(QuantizeCommand command) {
  M3_TRY(command.options.format, writable_format(command.format));
  for (const std::string& text : command.keep) {
    M3_TRY(command.options.keep.emplace_back(), parse_rule(text));
  }
  command.options.vision = !command.language_model_only;
  ThreadPool pool(command.threads);
  command.options.pool = &pool;
  ProgressBar bar("writing " + command.options.directory, "B");
  command.options.progress = bar.callback();
  M3_TRY(const RewriteReport report, quantize_checkpoint(command.options));
  for (const std::string& warning : report.warnings)
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  for (const std::string& name : report.left_out)
    std::fprintf(stderr, "warning: %s is large and was not copied\n", name.c_str());
  if (command.json) {
    std::printf("%s\n", report_json(command, report).dump(2).c_str());
    return {};
  }
  std::printf("%s%s: %s of weights, from %s\n", report_table(report).c_str(),
              command.options.directory.c_str(),
              quantity(static_cast<double>(report.bytes), "B").c_str(),
              quantity(static_cast<double>(report.source_bytes), "B").c_str());
  return {};
}

}  // namespace

void add_quantize(CLI::App& app, Run& run) {
  auto c = std::make_shared<QuantizeCommand>();
  CLI::App* command =
      app.add_subcommand("quantize", "Write a model again in another number format");
  command->add_option("SRC", c->options.source, "directory with config.json and safetensors files")
      ->required();
  command
      ->add_option("--format", c->format,
                   "mxfp8 for every linear that the MXFP8 release has in it; mxfp4, nvfp4 or int8 "
                   "for experts, dense MLPs and the projections of attention")
      ->check(CLI::IsMember({"mxfp8", "mxfp4", "nvfp4", "int8"}))
      ->required();
  command
      ->add_option("--keep", c->keep,
                   "PATTERN=FORMAT: weights whose name fits (* any characters, ? one) get bf16, "
                   "mxfp8, mxfp4, nvfp4 or int8 instead; repeatable, the first that fits decides")
      ->allow_extra_args(false)
      ->take_all();
  command->add_option("--out", c->options.directory, "directory to write")->required();
  command->add_flag("--language-model-only", c->language_model_only,
                    "the files may lack the vision tower");
  command->add_option("--threads", c->threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 1024));
  command->add_flag("--json", c->json, "print one JSON object, with the error of every weight");
  command->footer(
      "RMS error: root of the mean square of what rounding changed, of that of the weights.\n"
      "Router, norms and vectors always stay as they are; so does all that no option names.");
  command->callback([c, &run] { run = [c] { return run_quantize(*c); }; });
}

}  // namespace m3
