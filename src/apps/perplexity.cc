// `m3 perplexity`: what a number format, or anything else, costs in quality.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/model_options.h"
#include "apps/perplexity_run.h"
#include "apps/pixel_file.h"
#include "apps/progress_bar.h"
#include "base/file.h"

namespace m3 {
namespace {

using Json = nlohmann::ordered_json;

struct PerplexityCommand {
  ModelOptions model;
  PerplexityRun run;
  std::string text;
  std::string ids_file;
  std::string against;
  bool json = false;
};

// A text is text: a control string in it is no control token.
Result<std::vector<TokenId>> encode(const LoadedModel& loaded, const std::string& text) {
  M3_TRY(const Tokenizer* tokenizer, loaded.need_tokenizer("--text"));
  return tokenizer->encode(text, Tokenizer::ControlTokens::kPlain);
}

// What there is to read, before minutes go by in loading.
struct PerplexityInput {
  std::vector<std::int32_t> ids;
  std::string text;
};

Result<PerplexityInput> read_input(const PerplexityCommand& command) {
  constexpr std::int64_t kTextBytesMax = std::int64_t{1} << 30;
  PerplexityInput input;
  if (command.ids_file.empty()) {
    M3_TRY(input.text, read_text_file(command.text, kTextBytesMax));
  } else {
    M3_TRY(input.ids, read_ids_file(command.ids_file));
  }
  for (const std::string& model : {command.model.model, command.against})
    if (!model.empty()) M3_TRY_STATUS(load_config(model));
  return input;
}

Result<std::vector<std::int32_t>> ids_of(const PerplexityCommand& command,
                                         const PerplexityInput& input, const LoadedModel& loaded,
                                         const LoadedModel* against) {
  const std::string& text = input.text;
  if (!command.ids_file.empty()) {
    M3_TRY_STATUS(expect_no_placeholder(input.ids, loaded.config()));
    return input.ids;
  }
  M3_TRY(auto ids, encode(loaded, text));
  if (against == nullptr || !against->tokenizer) return ids;
  M3_TRY(const auto others, encode(*against, text));
  if (ids != others)
    return fail("the tokenizers of {} and {} read the text differently: they cannot be compared",
                command.model.model, command.against);
  return ids;
}

double perplexity(const Estimate& loss) {
  return std::exp(loss.mean());
}

// To first order.
double perplexity_error(const Estimate& loss) {
  return perplexity(loss) * loss.standard_error();
}

Json result_json(const PerplexityCommand& command, const PerplexityResult& result) {
  Json json{{"model", command.model.model},
            {"context", command.run.window},
            {"windows", result.windows},
            {"tokens", result.tokens},
            {"perplexity", perplexity(result.loss)},
            {"perplexity_error", perplexity_error(result.loss)}};
  if (!result.against) return json;
  const Comparison& other = *result.against;
  json["against"] = {{"model", command.against},
                     {"perplexity", perplexity(other.loss)},
                     {"perplexity_error", perplexity_error(other.loss)},
                     {"kl", other.kl.mean()},
                     {"kl_error", other.kl.standard_error()},
                     {"kl_max", other.kl_max},
                     {"top1_agreement", other.agreement.mean()},
                     {"top1_agreement_error", other.agreement.standard_error()}};
  return json;
}

std::string result_text(const PerplexityCommand& command, const PerplexityResult& result) {
  const auto line = [](const std::string& model, const Estimate& loss) {
    return fmt::format("perplexity {:.4f} ± {:.4f}  {}\n", perplexity(loss), perplexity_error(loss),
                       model);
  };
  std::string text =
      fmt::format("{} windows of {} tokens, the second half of each scored: {} tokens\n",
                  result.windows, command.run.window, result.tokens);
  text += line(command.model.model, result.loss);
  if (!result.against) return text;
  const Comparison& other = *result.against;
  text += line(command.against, other.loss);
  text +=
      fmt::format("KL({} || {}) {:.6f} ± {:.6f} nats a token, largest {:.4f}\n", command.against,
                  command.model.model, other.kl.mean(), other.kl.standard_error(), other.kl_max);
  return text + fmt::format("same most likely token {:.2f} % ± {:.2f} %\n",
                            100 * other.agreement.mean(), 100 * other.agreement.standard_error());
}

Status run_command(PerplexityCommand command) {
  M3_TRY(const PerplexityInput input, read_input(command));
  M3_TRY(const auto loaded, load_model(command.model));
  std::unique_ptr<LoadedModel> against;
  if (!command.against.empty()) {
    ModelOptions other = command.model;
    other.model = command.against;
    M3_TRY(against, load_model(other));
  }
  M3_TRY(command.run.ids, ids_of(command, input, *loaded, against.get()));
  ProgressBar bar("reading", "tokens");
  M3_TRY(const PerplexityResult result,
         run_perplexity(*loaded->model, against ? against->model.get() : nullptr, command.run,
                        loaded->pool, bar.callback()));
  const std::string text =
      command.json ? result_json(command, result).dump(2) + "\n" : result_text(command, result);
  std::printf("%s", text.c_str());
  return {};
}

}  // namespace

void add_perplexity(CLI::App& app, Run& run) {
  auto c = std::make_shared<PerplexityCommand>();
  CLI::App* command = app.add_subcommand(
      "perplexity", "Tell how well a model predicts a text, and how far another is from it");
  add_model_options(*command, c->model);
  auto* input = command->add_option_group("input", "What to read; exactly one of");
  input->add_option("--text", c->text, "file of plain text");
  input->add_option("--ids-file", c->ids_file, "JSON list of token ids");
  input->require_option(1);
  command->add_option("--against", c->against,
                      "another model, as a rule that of which MODEL is a quantised copy: also "
                      "KL(AGAINST || MODEL) and how often both find the same token most likely");
  command->add_option("--context", c->run.window, "tokens of a window")
      ->check(CLI::Range(4, 1 << 20))
      ->capture_default_str();
  command->add_option("--windows", c->run.windows_max, "score only so many (default: all)")
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--chunk", c->run.chunk, "rows of one step")->check(CLI::Range(1, 1 << 20));
  command->add_flag("--json", c->json, "print one JSON object");
  command->footer(
      "As llama.cpp does it: windows that do not overlap, each from an empty cache with nothing in "
      "front; the second half of each is scored. ± is the standard error over tokens.");
  command->callback([c, &run] { run = [c] { return run_command(*c); }; });
}

}  // namespace m3
