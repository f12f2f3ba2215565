// `m3 tokenize`, `m3 detokenize` and `m3 render`: JSON lines in, JSON lines out.
#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>

#include "apps/commands.h"
#include "text/jsonl_commands.h"
#include "text/tokenizer.h"

namespace m3 {
namespace {

struct LinesOptions {
  std::string directory;
  std::string lines = "-";
};

using LinesCommand = Status (*)(const Tokenizer&, std::istream&, std::ostream&);

Status run_lines(const LinesOptions& options, LinesCommand command) {
  M3_TRY(const Tokenizer tokenizer, Tokenizer::load(options.directory));
  if (options.lines == "-") return command(tokenizer, std::cin, std::cout);
  std::ifstream file(options.lines, std::ios::binary);
  if (!file) return fail("cannot open {}", options.lines);
  return command(tokenizer, file, std::cout);
}

void add_lines_command(CLI::App& app, Run& run, const std::string& name, const std::string& help,
                       const std::string& fields, LinesCommand work) {
  auto options = std::make_shared<LinesOptions>();
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("DIR", options->directory, "directory with tokenizer.json")->required();
  command->add_option("--jsonl", options->lines, "file of JSON lines, - for standard input")
      ->capture_default_str();
  command->footer(fields +
                  "\nA line that cannot be answered gives {\"error\"}, and the next is read.");
  command->callback([=, &run] { run = [=] { return run_lines(*options, work); }; });
}

}  // namespace

void add_tokenize(CLI::App& app, Run& run) {
  add_lines_command(app, run, "tokenize",
                    "Turn text into token ids: {\"text\", \"control_tokens\"} -> {\"ids\"}",
                    "control_tokens (default true): strings such as ]~b] become their ids; false: "
                    "they are text as any other",
                    tokenize_lines);
}

void add_detokenize(CLI::App& app, Run& run) {
  add_lines_command(app, run, "detokenize",
                    "Turn token ids into text as it streams: {\"ids\"} -> {\"pieces\", \"flush\"}",
                    "pieces: what can be shown after each id; flush: what is left at the end",
                    detokenize_lines);
}

void add_render(CLI::App& app, Run& run) {
  add_lines_command(app, run, "render",
                    "Render conversations as prompts: {\"messages\", \"wire\", \"tools\", "
                    "\"thinking_mode\", …} -> {\"text\", \"ids\"}",
                    "messages: role and content of each turn, and what the roles may add to them\n"
                    "wire: true if they are as OpenAI's clients send them\n"
                    "tools: a list of functions; thinking_mode: enabled, disabled or adaptive\n"
                    "add_generation_prompt: end where the model is to go on; "
                    "continue_final_message: end inside the last message\n"
                    "model_identity: replaces the first line about who the model is",
                    render_lines);
}

}  // namespace m3
