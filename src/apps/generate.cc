// `m3 generate`: one answer to one prompt.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/conversation.h"
#include "apps/generation_options.h"
#include "apps/media_notes.h"
#include "apps/model_options.h"
#include "apps/option_checks.h"
#include "apps/pixel_file.h"
#include "apps/progress_bar.h"
#include "apps/speculative_options.h"
#include "apps/terminal_answer.h"
#include "base/file.h"
#include "engine/engine.h"

namespace m3 {
namespace {

struct GenerateOptions {
  ModelOptions model;
  GenerationOptions generation;
  SpeculativeOptions speculative;
  std::optional<std::string> prompt;
  std::string messages;
  std::string ids_file;
  std::string rows;
  Json media = Json::array();  // --image and --video in the order of the command line
  double fps = 1;
  std::int64_t long_side_max = 0;
  std::string thinking;
  bool raw = false;
  bool json = false;
};

// An answer's length where --max-tokens does not say.
constexpr std::int64_t kMaxTokens = 512;

Result<std::vector<MediaInput>> read_media(const GenerateOptions& o, const Json& messages,
                                           const LoadedModel& loaded) {
  const MediaCount count = count_media(messages);
  if (count.images + count.videos == 0) return std::vector<MediaInput>();
  M3_TRY(auto options, preprocess_options(o.model.model, loaded.config()));
  options.long_side_max = o.long_side_max;
  return read_message_media(messages, o.messages, o.fps, options);
}

// The prompt's ids, and the media behind its placeholders.
struct Question {
  std::vector<TokenId> ids;
  std::vector<MediaInput> inputs = {};
};

Result<Question> text_question(const GenerateOptions& o, const LoadedModel& loaded) {
  M3_TRY_STATUS(loaded.need_tokenizer(o.prompt ? "--prompt" : "--messages"));
  ChatInput input{.add_generation_prompt = true};
  if (o.prompt) {
    input.messages = Json::array({user_message(*o.prompt, o.media)});
  } else {
    M3_TRY(input, read_messages_file(o.messages));
  }
  if (!o.thinking.empty()) input.thinking_mode = o.thinking;
  Question question;
  M3_TRY(question.inputs, read_media(o, input.messages, loaded));
  print_notes(question.inputs);
  Prompt prompt;
  if (o.raw) {
    prompt.add_template(*o.prompt);
  } else {
    M3_TRY(prompt, render_chat(input));
  }
  M3_TRY(question.ids, encode_prompt(prompt, question.inputs, *loaded.tokenizer));
  return question;
}

Result<Question> read_question(const GenerateOptions& o, const LoadedModel& loaded) {
  if (o.ids_file.empty()) return text_question(o, loaded);
  Question question;
  M3_TRY(question.ids, read_ids_file(o.ids_file));
  if (o.rows.empty()) M3_TRY_STATUS(expect_no_placeholder(question.ids, loaded.config()));
  return question;
}

// The media of a question through the vision tower, which may take long.
Result<SplicePlan> look(const Question& question, const GenerateOptions& o,
                        const LoadedModel& loaded, MediaReader& reader) {
  if (!o.rows.empty()) return splice_pixel_file(o.rows, question.ids, *loaded.model);
  M3_TRY(auto media, encode_with_progress(reader, question.inputs));
  return reader.plan(question.ids, std::move(media));
}

nlohmann::ordered_json timings(const TerminalAnswer& answer, double media_seconds,
                               const LoadedModel& loaded) {
  const auto rate = [](double count, double seconds) { return seconds > 0 ? count / seconds : 0; };
  const auto drawn = static_cast<double>(answer.tokens.size());
  return {{"load_ms", 1000 * loaded.load_seconds},
          {"media_ms", 1000 * media_seconds},
          {"prompt_ms", 1000 * answer.prompt_seconds},
          {"prompt_per_second",
           rate(static_cast<double>(answer.prompt_tokens_computed), answer.prompt_seconds)},
          {"predicted_ms", 1000 * answer.answer_seconds},
          {"predicted_per_second", rate(drawn - 1, answer.answer_seconds)}};
}

nlohmann::ordered_json logprobs(const TerminalAnswer& answer, const Tokenizer* tokenizer) {
  const auto entry = [&](std::int32_t id, float logprob) {
    nlohmann::ordered_json e = {{"id", id}, {"logprob", logprob}};
    if (tokenizer != nullptr) e["token"] = tokenizer->decode(std::span(&id, 1));
    return e;
  };
  auto list = nlohmann::ordered_json::array();
  for (const SampledToken& token : answer.tokens) {
    auto e = entry(token.id, token.logprob);
    e["top"] = nlohmann::ordered_json::array();
    for (const TokenLogprob& other : token.top) e["top"].push_back(entry(other.id, other.logprob));
    list.push_back(std::move(e));
  }
  return list;
}

// How often the drafts were right, by their place in a step's drafts.
nlohmann::ordered_json drafts(std::span<const Acceptance::Count> places) {
  auto drafted = nlohmann::ordered_json::array(), accepted = nlohmann::ordered_json::array();
  for (const Acceptance::Count& place : places) {
    drafted.push_back(place.drafted);
    accepted.push_back(place.accepted);
  }
  return {{"drafted", std::move(drafted)}, {"accepted", std::move(accepted)}};
}

void print_json(const TerminalAnswer& answer, std::int64_t prompt_tokens, double media_seconds,
                std::uint64_t seed, std::span<const Acceptance::Count> acceptance,
                const GenerateOptions& options, const LoadedModel& loaded) {
  const Tokenizer* tokenizer = loaded.tokenizer ? &*loaded.tokenizer : nullptr;
  nlohmann::ordered_json out;
  out["ids"] = nlohmann::ordered_json::array();
  for (const SampledToken& token : answer.tokens) out["ids"].push_back(token.id);
  out["text"] = tokenizer ? nlohmann::ordered_json(answer.text) : nlohmann::ordered_json(nullptr);
  out["finish_reason"] = answer.finish_reason;
  const auto drawn = static_cast<std::int64_t>(answer.tokens.size());
  out["usage"] = {{"prompt_tokens", prompt_tokens},
                  {"completion_tokens", drawn},
                  {"total_tokens", prompt_tokens + drawn}};
  out["seed"] = seed;
  if (options.generation.logprobs >= 0) out["logprobs"] = logprobs(answer, tokenizer);
  if (!acceptance.empty()) out["drafts"] = drafts(acceptance);
  out["timings"] = timings(answer, media_seconds, loaded);
  std::printf("%s\n", out.dump().c_str());
}

std::int64_t max_tokens(const GenerateOptions& o) {
  return o.generation.max_tokens.value_or(kMaxTokens);
}

// With room for a prompt and its answer.
Result<std::unique_ptr<Engine>> make_engine(const GenerateOptions& o, std::int64_t prompt_tokens,
                                            const LoadedModel& loaded) {
  // More than the model's positions is refused by the engine, with the numbers.
  const std::int64_t positions = loaded.config().positions_max;
  const std::int64_t wanted =
      std::min(prompt_tokens + std::clamp<std::int64_t>(max_tokens(o), 1, positions), positions);
  M3_TRY(auto drafter, make_drafter(o.speculative, loaded));
  M3_TRY(const std::int64_t context,
         context_tokens(o.generation.context, wanted, loaded, drafter.get()));
  return Engine::create(
      *loaded.model,
      {.context_tokens = context, .sequences = 1, .draft_tokens = o.speculative.draft_tokens},
      std::move(drafter));
}

// The answer, shown as it comes unless it is to be JSON.
Result<TerminalAnswer> answer_of(Engine& engine, SequenceId id, std::int64_t prompt_tokens,
                                 const GenerateOptions& o, const LoadedModel& loaded) {
  ProgressBar bar("reading the prompt", "tokens");
  TerminalAnswerOptions options{.tokenizer = loaded.tokenizer ? &*loaded.tokenizer : nullptr,
                                .stop = o.generation.stop};
  options.prompt_progress = bar.callback();
  if (!o.json)
    options.show = [](const std::string& piece) {
      std::fputs(piece.c_str(), stdout);
      std::fflush(stdout);
    };
  return read_terminal_answer(engine, id, prompt_tokens, options);
}

// Ends what was shown.
void print_end(const TerminalAnswer& answer, std::span<const Acceptance::Count> acceptance,
               const LoadedModel& loaded) {
  if (loaded.tokenizer) {
    std::printf("\n");
  } else {
    for (const SampledToken& token : answer.tokens) std::printf("%d\n", token.id);
  }
  const std::string drafted = draft_summary(acceptance);
  if (!drafted.empty() && ::isatty(STDERR_FILENO) == 1)
    std::fprintf(stderr, "[%s]\n", drafted.c_str());
}

Status run_generate(const GenerateOptions& o) {
  M3_TRY(const ModelOptions model, with_draft_model(o.model, o.speculative));
  M3_TRY(const auto loaded, load_model(model));
  MediaReader reader(*loaded->model);
  double began = steady_seconds();
  M3_TRY(const auto question, read_question(o, *loaded));
  double media_seconds = question.inputs.empty() ? 0 : steady_seconds() - began;
  const std::int64_t prompt_tokens = std::ssize(question.ids);
  M3_TRY(const auto engine, make_engine(o, prompt_tokens, *loaded));
  Request request{.prompt = question.ids, .max_tokens = max_tokens(o)};
  M3_TRY(request.sampling, sampling_params(o.generation, *loaded, /*as_text=*/o.ids_file.empty()));
  M3_TRY(request.stop_ids, stop_ids(o.generation, *loaded));
  M3_TRY_STATUS(engine->check(request));  // before minutes are spent on pictures
  began = steady_seconds();
  M3_TRY(request.media, look(question, o, *loaded, reader));
  media_seconds += steady_seconds() - began;
  const std::uint64_t seed = request.sampling.seed;
  M3_TRY(const SequenceId id, engine->start(std::move(request)));
  if (!o.json && !loaded->random_weights.empty())
    std::fprintf(stderr, "note: %s\n", loaded->random_weights.c_str());
  M3_TRY(const TerminalAnswer answer, answer_of(*engine, id, prompt_tokens, o, *loaded));
  if (o.json)
    print_json(answer, prompt_tokens, media_seconds, seed, engine->acceptance(id), o, *loaded);
  else
    print_end(answer, engine->acceptance(id), *loaded);
  return {};
}

}  // namespace

void add_generate(CLI::App& app, Run& run) {
  auto o = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Answer one prompt");
  add_model_options(*command, o->model);
  add_lora_option(*command, o->model);
  add_cache_options(*command, o->model.cache);
  auto* input = command->add_option_group("prompt", "What to answer; exactly one of");
  CLI::Option* prompt =
      input->add_option("--prompt", o->prompt, "a user's message (with --raw: text to go on from)");
  input->add_option("--messages", o->messages,
                    "JSON file: a list of messages as for the OpenAI chat API, or an object with "
                    "messages, tools and thinking_mode; parts may hold pictures and clips as paths "
                    "(from the current directory), file:// or data: URLs");
  CLI::Option* ids = input->add_option("--ids-file", o->ids_file, "JSON file: a list of token ids");
  input->require_option(1);
  command
      ->add_option("--rows", o->rows,
                   "safetensors file with pixel_values and grid_thw, for the placeholders")
      ->needs(ids);
  const auto media = [&](const std::string& kind, const std::string& help) {
    const auto add = [o, kind](const std::string& file) {
      o->media.push_back(media_part(kind, file));
    };
    // At once: otherwise all of one option would come before all of the other.
    command->add_option_function<std::string>("--" + kind, add, help)
        ->trigger_on_parse()
        ->needs(prompt);
  };
  media("image", "picture before the text of --prompt; repeatable, in order");
  media("video", "clip before the text of --prompt; repeatable, in order");
  add_fps_option(*command, o->fps);
  add_long_side_option(*command, o->long_side_max);
  CLI::Option* raw =
      command->add_flag("--raw", o->raw, "take --prompt as it is, without the chat template")
          ->needs(prompt);
  command->add_option("--thinking", o->thinking, "how the model thinks (default: adaptive)")
      ->check(CLI::IsMember({"enabled", "disabled", "adaptive"}))
      ->excludes(raw)
      ->excludes(ids);
  add_generation_options(*command, o->generation, std::to_string(kMaxTokens));
  add_speculative_options(*command, o->speculative);
  command
      ->add_option("--logprobs", o->generation.logprobs,
                   "with --json: log-probabilities of each token and of the K most probable")
      ->check(CLI::Range(0, 1000));
  command->add_flag("--json", o->json, "print one JSON object with ids, text, usage and timings");
  command->callback([o, &run] { run = [o] { return run_generate(*o); }; });
}

}  // namespace m3
