#include "apps/training_samples.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "apps/conversation.h"
#include "apps/option_checks.h"
#include "apps/terminal_answer.h"
#include "engine/engine.h"

namespace m3 {

void add_sample_options(CLI::App& command, SampleOptions& o) {
  CLI::Option* sample =
      command
          .add_option(
              "--sample", o.prompts,
              "a user's message that the model is to answer as training goes on; repeatable")
          ->allow_extra_args(false)
          ->take_all();
  command
      .add_option("--sample-every", o.every, "steps between (default: as --val-every; an epoch)")
      ->check(between(1, 1e9))
      ->needs(sample);
  command.add_option("--sample-tokens", o.tokens, "of an answer, at most")
      ->check(between(1, 1 << 20))
      ->needs(sample)
      ->capture_default_str();
}

Result<TrainingSamples> TrainingSamples::create(const SampleOptions& options, const Config& config,
                                                const Tokenizer& tokenizer) {
  TrainingSamples samples(options);
  for (const std::string& prompt : options.prompts) {
    const ChatInput input{.messages = Json::array({user_message(prompt)}),
                          .add_generation_prompt = true};
    M3_TRY(const Prompt rendered, render_chat(input));
    M3_TRY(auto ids, encode_prompt(rendered, {}, tokenizer));
    const std::int64_t tokens = std::ssize(ids) + options.tokens;
    if (tokens > config.positions_max)
      return fail("--sample: a prompt of {} tokens and {} of an answer; the model has {} positions",
                  ids.size(), options.tokens, config.positions_max);
    samples.ids_.push_back(std::move(ids));
  }
  return samples;
}

Result<std::vector<SampleLine>> TrainingSamples::draw(std::int64_t step) const {
  std::int64_t longest = 0;
  for (const auto& ids : ids_) longest = std::max(longest, std::ssize(ids));
  M3_TRY(const auto engine,
         Engine::create(*loaded_->model,
                        {.context_tokens = longest + options_.tokens, .sequences = 1}));
  std::vector<SampleLine> lines;
  for (std::size_t i = 0; i < ids_.size(); ++i) {
    const std::int64_t prompt_tokens = std::ssize(ids_[i]);
    Request request{.prompt = ids_[i], .max_tokens = options_.tokens};
    request.sampling.temperature = 0;
    request.stop_ids = loaded_->defaults.eos;
    M3_TRY(const SequenceId id, engine->start(std::move(request)));
    M3_TRY(const TerminalAnswer answer,
           read_terminal_answer(*engine, id, prompt_tokens, {.tokenizer = &*loaded_->tokenizer}));
    lines.push_back({.step = step, .prompt = options_.prompts[i], .answer = answer.text});
  }
  return lines;
}

}  // namespace m3
