#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <new>
#include <system_error>

#include "apps/commands.h"

namespace m3 {
namespace {

constexpr const char* kDescription =
    "m3: MiniMax-M3, whole and native.\n\n"
    "  m3 synth --preset nano --out models/nano    write a tiny model with random weights\n"
    "  m3 chat models/nano                         talk to it\n"
    "  m3 inspect MODEL                            what is in a checkpoint, and what it needs\n"
    "  m3 pack MODEL                               make every later start of it short\n"
    "  m3 bench MODEL                              how fast it is here, beside this machine's "
    "limits\n\n"
    "MODEL is a directory with config.json and safetensors files, as released.\n"
    "`m3 COMMAND --help` explains a command.";

constexpr int kFailed = 1;
constexpr int kUsage = 2;

// A mapped file that someone cut short: the kernel tells us when we read beyond its new end.
void on_bus_error(int) {
  constexpr char kSentence[] =
      "m3: a file of the model or its data was cut short, or a disk failed, while in use\n";
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, kSentence, sizeof kSentence - 1);
  ::_exit(kFailed);
}

// What no function reports as a value: the system is out of memory or threads.
Status run_guarded(const Run& run) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    return fail("the system has no more memory for this; a smaller --context may help");
  } catch (const std::system_error& error) {
    return fail("the system refused: {}; fewer --threads may help", error.what());
  }
}

// Says that MODEL comes first: options that take a list would take it, too.
class MainFirst : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App* app, std::string name) const override {
    std::string usage = get_label("Usage") + ": " + name;
    for (const CLI::Option* option : app->get_options())
      if (option->get_positional()) usage += " " + make_option_usage(option);
    usage += " [OPTIONS]";
    const auto is_listed = [](const CLI::App* command) { return !command->get_name().empty(); };
    if (!app->get_subcommands(is_listed).empty())
      usage += app->get_require_subcommand_min() == 0 ? " [SUBCOMMAND]" : " SUBCOMMAND";
    return usage + "\n\n";
  }
};

}  // namespace

int run_program(int argc, char** argv) {
  // A closed pipe shows as a failed write, a file limit as a full disk: both with a sentence.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGBUS, on_bus_error);

  CLI::App app(kDescription, "m3");
  app.formatter(std::make_shared<MainFirst>());
  app.set_version_flag("--version", std::string("m3 ") + M3_VERSION);
  app.require_subcommand(1);
  Run run;
  for (auto* add :
       {add_chat, add_serve, add_generate, add_logits, add_data, add_gradients, add_train,
        add_vision, add_tokenize, add_detokenize, add_render, add_inspect, add_synth, add_init,
        add_quantize, add_merge, add_pack, add_perplexity, add_bench})
    add(app, run);
  // CLI11 would only say that a subcommand is missing.
  const auto is_named = [&](const CLI::App* command) { return command->get_name() == argv[1]; };
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(is_named).empty()) {
    std::fprintf(stderr, "m3: there is no command '%s'; m3 --help lists them\n", argv[1]);
    return kUsage;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::RequiredError& error) {
    app.exit(error);
    if (std::string_view(error.what()).starts_with("MODEL"))
      std::fprintf(stderr,
                   "MODEL comes before the options: a list as of --data takes all that follows\n");
    return kUsage;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  const Status status = run_guarded(run);
  const std::string command = app.get_subcommands().front()->get_name();
  const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (status && written) return 0;
  std::fprintf(stderr, "m3 %s: %s\n", command.c_str(),
               status ? "cannot write to standard output" : status.error().message.c_str());
  return kFailed;
}

}  // namespace m3
