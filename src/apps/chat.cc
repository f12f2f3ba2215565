// `m3 chat`: a conversation in the terminal.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "apps/chat_command.h"
#include "apps/commands.h"
#include "apps/conversation.h"
#include "apps/generation_options.h"
#include "apps/media_notes.h"
#include "apps/model_options.h"
#include "apps/option_checks.h"
#include "apps/progress_bar.h"
#include "apps/speculative_options.h"
#include "apps/terminal_answer.h"
#include "engine/engine.h"

namespace m3 {
namespace {

struct ChatOptions {
  ModelOptions model;
  GenerationOptions generation;
  SpeculativeOptions speculative;
  std::string system;
  std::string thinking;
  double fps = 1;
  std::int64_t long_side_max = 0;
};

constexpr const char* kHelp =
    "  /image F show a picture with the next message; /video F a clip\n"
    "  /clear   forget the conversation\n"
    "  /help    this list\n"
    "  /exit    leave (or Ctrl-D)\n"
    "  Ctrl-C   stop the answer\n"
    "  A line that begins with a space is a message, whatever follows.\n";

// Set by Ctrl-C, read between tokens.
std::atomic<bool> interrupted{false};

void on_interrupt(int) {
  interrupted = true;
}

// Ctrl-C ends an answer, not the program; at the prompt, where read(2) must fail for us to notice,
// it clears the line.
void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  ::sigaction(SIGINT, &action, nullptr);
}

enum class Input { kLine, kInterrupted, kEnd };

Input read_line(std::string& line) {
  line.clear();
  interrupted = false;
  char c = 0;
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, &c, 1);
    if (n < 0 && errno == EINTR) return Input::kInterrupted;
    if (n <= 0) return line.empty() ? Input::kEnd : Input::kLine;
    if (c == '\n') {
      if (line.ends_with('\r')) line.pop_back();
      return Input::kLine;
    }
    line += c;
  }
}

// "644 x 476 pixels, 391 tokens".
std::string describe(const MediaInput& input, std::int64_t patch) {
  const Grid& grid = input.pixels.grid;
  const bool clip = input.shape.kind == MediaShape::Kind::kVideo;
  return fmt::format("{}{} x {} pixels, {} tokens",
                     clip ? fmt::format("{} frames of ", input.kept.size()) : "", grid.w * patch,
                     grid.h * patch, input.shape.groups * input.shape.tokens_per_group);
}

// The conversation and the engine's view of it.
class Chat {
 public:
  Chat(const ChatOptions& options, const LoadedModel& loaded, Engine& engine,
       SamplingParams sampling, std::vector<std::int32_t> stop_ids)
      : options_(options),
        loaded_(loaded),
        reader_(*loaded.model),
        engine_(engine),
        sampling_(std::move(sampling)),
        stop_ids_(std::move(stop_ids)),
        conversation_(reader_, *loaded.tokenizer, options.system, options.thinking) {}

  void clear() {
    conversation_.clear();
    shown_ = {};
  }

  // Keeps a picture or clip for the next message, and says how the model will see it.
  Status show(const std::string& kind, const std::string& file) {
    if (file.empty()) return fail("/{0} needs a file: /{0} F", kind);
    M3_TRY(auto options, preprocess_options(options_.model.model, loaded_.config()));
    options.long_side_max = options_.long_side_max;
    if (!loaded_.model->weights().vision)
      return fail("--language-model-only leaves out the vision tower: start without it for /{}",
                  kind);
    M3_TRY(auto input,
           kind == "image" ? read_image(file, options) : read_video(file, options_.fps, options));
    print_notes(std::span(&input, 1));
    std::printf("%s: %s\n", file.substr(0, 200).c_str(), describe(input, options.patch).c_str());
    shown_.inputs.push_back(std::move(input));
    shown_.parts.push_back(media_part(kind, file));
    return {};
  }

  // Answers one message; a message that does not fit is refused and forgotten.
  Status respond(const std::string& text) {
    Shown shown = std::exchange(shown_, {});
    M3_TRY(auto prompt,
           conversation_.ask(user_message(text, std::move(shown.parts)), shown.inputs));
    const std::int64_t prompt_tokens = std::ssize(prompt);
    const Status started = start(std::move(prompt), shown.inputs);
    if (!started) {
      conversation_.retract();
      return fail("{}; the message is forgotten", started.error().message);
    }
    M3_TRY(const TerminalAnswer answer, show_answer(prompt_tokens));
    std::vector<TokenId> ids;
    for (const SampledToken& token : answer.tokens) ids.push_back(token.id);
    conversation_.answer(ids, answer.text);
    return {};
  }

 private:
  // What the next message will show.
  struct Shown {
    Json parts = Json::array();
    std::vector<MediaInput> inputs;
  };

  Status start(std::vector<TokenId> prompt, std::span<const MediaInput> inputs) {
    const std::int64_t room = engine_.context_tokens() - std::ssize(prompt);
    const std::int64_t asked = options_.generation.max_tokens.value_or(room);
    Request request{.prompt = std::move(prompt),
                    .max_tokens = std::max<std::int64_t>(1, std::min(asked, room)),
                    .sampling = sampling_,
                    .stop_ids = stop_ids_};
    const Status fits = engine_.check(request);  // before minutes are spent on pictures
    if (!fits) return fail("{} (/clear forgets the conversation)", fits.error().message);
    M3_TRY(request.media, conversation_.look(inputs, [] { return interrupted.load(); }));
    if (sequence_) engine_.release(*sequence_);
    sequence_.reset();
    M3_TRY(sequence_, engine_.start(std::move(request)));
    return {};
  }

  Result<TerminalAnswer> show_answer(std::int64_t prompt_tokens) {
    ProgressBar bar("reading the conversation", "tokens");
    TerminalAnswerOptions options{.tokenizer = &*loaded_.tokenizer,
                                  .stop = options_.generation.stop};
    options.cancelled = [] { return interrupted.load(); };
    options.prompt_progress = bar.callback();
    options.show = [](const std::string& piece) {
      std::fputs(piece.c_str(), stdout);
      std::fflush(stdout);
    };
    M3_TRY(const TerminalAnswer answer,
           read_terminal_answer(engine_, *sequence_, prompt_tokens, options));
    const char* why = answer.finish_reason == "length"      ? " [the answer reached its length]"
                      : answer.finish_reason == "cancelled" ? " [stopped]"
                                                            : "";
    std::printf("%s\n", why);
    const auto drawn = static_cast<double>(answer.tokens.size());
    const std::string drafted = draft_summary(engine_.acceptance(*sequence_));
    if (answer.answer_seconds > 0 && ::isatty(STDERR_FILENO) == 1)
      std::fprintf(stderr, "[%ld tokens read, %.0f written, %.1f per second%s%s]\n",
                   static_cast<long>(answer.prompt_tokens_computed), drawn,
                   (drawn - 1) / answer.answer_seconds, drafted.empty() ? "" : ", ",
                   drafted.c_str());
    return answer;
  }

  const ChatOptions& options_;
  const LoadedModel& loaded_;
  MediaReader reader_;
  Engine& engine_;
  SamplingParams sampling_;
  std::vector<std::int32_t> stop_ids_;
  Conversation conversation_;
  Shown shown_;
  std::optional<SequenceId> sequence_;
};

void report(const Status& status) {
  if (!status) std::fprintf(stderr, "m3 chat: %s\n", status.error().message.c_str());
}

// Does what a command says. False: leave.
bool obey(const ChatCommand& command, Chat& chat) {
  const auto& [name, argument] = command;
  const bool media = name == "image" || name == "video";
  const bool leave = name == "exit" || name == "quit";
  if (!media && !leave && name != "help" && name != "clear") {
    std::printf(
        "There is no command /%s; /help lists them. (Begin with a space to send it as text.)\n",
        name.c_str());
  } else if (media) {
    report(chat.show(name, typed_file(argument)));
  } else if (!argument.empty()) {
    std::printf("/%s stands alone on its line. (Begin with a space to send it as text.)\n",
                name.c_str());
  } else if (name == "help") {
    std::fputs(kHelp, stdout);
  } else if (name == "clear") {
    chat.clear();
    std::puts("The conversation is forgotten.");
  } else {
    return false;
  }
  return true;
}

Status talk(Chat& chat) {
  const bool terminal = ::isatty(STDIN_FILENO) == 1;
  std::string line;
  for (;;) {
    if (terminal) std::fputs("\n> ", stdout);
    std::fflush(stdout);
    const Input input = read_line(line);
    if (input == Input::kEnd) break;
    if (input == Input::kInterrupted) {
      std::puts(" (/exit or Ctrl-D to leave)");
      continue;
    }
    if (!terminal && !line.empty()) std::printf("> %s\n", line.c_str());
    if (const auto command = parse_chat_command(line)) {
      if (!obey(*command, chat)) break;
    } else if (line.find_first_not_of(" \t\r") != std::string::npos) {
      report(chat.respond(line));
    }
    if (std::ferror(stdout)) return fail("cannot write to standard output");
  }
  return {};
}

Status run_chat(const ChatOptions& options) {
  M3_TRY(const ModelOptions model, with_draft_model(options.model, options.speculative));
  M3_TRY(const auto loaded, load_model(model));
  M3_TRY_STATUS(loaded->need_tokenizer("m3 chat"));
  M3_TRY(auto drafter, make_drafter(options.speculative, *loaded));
  M3_TRY(const std::int64_t context,
         context_tokens(options.generation.context, 0, *loaded, drafter.get()));
  M3_TRY(const auto engine, Engine::create(*loaded->model,
                                           {.context_tokens = context,
                                            .sequences = 1,
                                            .draft_tokens = options.speculative.draft_tokens},
                                           std::move(drafter)));
  M3_TRY(SamplingParams sampling, sampling_params(options.generation, *loaded, /*as_text=*/true));
  M3_TRY_STATUS(check_sampling(sampling, loaded->config().vocab));
  M3_TRY(auto stops, stop_ids(options.generation, *loaded));
  std::fprintf(stderr, "%s, %s%s%s backend, %d threads, context %ld tokens. /help for help.\n",
               options.model.model.c_str(), std::string(loaded->backend->name()).c_str(),
               loaded->backend->isa().empty() ? "" : " ",
               std::string(loaded->backend->isa()).c_str(), loaded->pool.threads(),
               static_cast<long>(engine->context_tokens()));
  if (!loaded->random_weights.empty())
    std::fprintf(stderr, "note: %s\n", loaded->random_weights.c_str());
  catch_interrupts();
  Chat chat(options, *loaded, *engine, std::move(sampling), std::move(stops));
  return talk(chat);
}

}  // namespace

void add_chat(CLI::App& app, Run& run) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* command = app.add_subcommand("chat", "Talk to a model, on a terminal or from a pipe");
  add_model_options(*command, options->model);
  add_lora_option(*command, options->model);
  add_cache_options(*command, options->model.cache);
  command->add_option("--system", options->system, "system prompt");
  command->add_option("--thinking", options->thinking, "how the model thinks (default: adaptive)")
      ->check(CLI::IsMember({"enabled", "disabled", "adaptive"}));
  add_fps_option(*command, options->fps);
  add_long_side_option(*command, options->long_side_max);
  add_generation_options(*command, options->generation, "what the context has room for");
  add_speculative_options(*command, options->speculative);
  command->callback([options, &run] { run = [options] { return run_chat(*options); }; });
}

}  // namespace m3
