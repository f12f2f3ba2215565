#include "server/completion_request.h"

#include <algorithm>

#include "server/constraint.h"

namespace m3 {
namespace {

using Ids = std::vector<std::int32_t>;

ApiResult<Ids> encode(const std::string& text, const ServedModel& model) {
  if (model.tokenizer == nullptr)
    return refuse("prompt", "is text, but this model has no tokenizer.json: give token ids");
  // A raw prompt is the client's own work, control tokens and all.
  M3_TRY(auto ids, model.tokenizer->encode(text, Tokenizer::ControlTokens::kHonoured));
  return ids;
}

ApiResult<std::vector<Ids>> read_prompts(const Json& request, const ServedModel& model) {
  const Json* prompt = find_set_member(request, "prompt");
  const std::int64_t vocab = model.config->vocab;
  std::vector<Ids> prompts;
  if (prompt == nullptr || (prompt->is_array() && prompt->empty()))
    return refuse("prompt", "is missing: give a string or a list of token ids");
  if (prompt->is_string()) {
    M3_TRY(prompts.emplace_back(), encode(prompt->get<std::string>(), model));
    return prompts;
  }
  if (!prompt->is_array())
    return refuse("prompt", "must be a string, a list of strings, or token ids, it is {}",
                  kind_name(*prompt));
  if (prompt->front().is_number()) {
    M3_TRY(prompts.emplace_back(), read_ids(*prompt, "prompt", vocab));
    return prompts;
  }
  for (const Json& one : *prompt) {
    if (one.is_string()) {
      M3_TRY(prompts.emplace_back(), encode(one.get<std::string>(), model));
    } else if (one.is_array()) {
      M3_TRY(prompts.emplace_back(), read_ids(one, "prompt", vocab));
    } else {
      return refuse("prompt", "must be a list of strings or of lists of token ids, it holds {}",
                    kind_name(one));
    }
  }
  return prompts;
}

ApiStatus check_no_pictures(const std::vector<Ids>& prompts, const Config& config) {
  for (const Ids& ids : prompts)
    for (const std::int32_t id : {config.image_token, config.video_token})
      if (id >= 0 && std::ranges::count(ids, id) > 0)
        return refuse("prompt",
                      "holds id {}, the placeholder of a picture, which completions "
                      "cannot show: use chat completions",
                      id);
  return {};
}

// "logprobs": how many of the most probable tokens are told with each.
ApiStatus read_logprobs(const Json& request, const ServedModel& model, AnswerOptions& options) {
  const Json* value = find_set_member(request, "logprobs");
  if (value == nullptr || *value == false) return {};
  M3_TRY(const auto count,
         *value == true ? std::optional<std::int64_t>(0) : integer_field(request, "logprobs"));
  if (*count < 0 || *count > kLogprobsMax)
    return refuse("logprobs", "is {}, expected 0 to {}", *count, kLogprobsMax);
  if (model.tokenizer == nullptr)
    return refuse("logprobs", "need a tokenizer, which this model has not");
  options.sampling.logprobs = static_cast<int>(*count);
  return {};
}

// The prompt in front of the answer, with its tokens' logprobs where the answer's are told. By
// max_tokens 0 it is all that is told.
ApiResult<bool> read_echo(const Json& request, const ServedModel& model, AnswerOptions& options) {
  M3_TRY(const auto echo, bool_field(request, "echo"));
  if (!echo.value_or(false)) return false;
  if (model.tokenizer == nullptr)
    return refuse("echo", "needs a tokenizer, which this model has not");
  options.prompt_logprobs = std::max(options.prompt_logprobs, options.sampling.logprobs);
  M3_TRY(const auto max_tokens, integer_field(request, "max_tokens"));
  options.prompt_only = max_tokens == 0;
  return true;
}

}  // namespace

ApiResult<CompletionRequest> read_completion_request(const Json& request, const ServedModel& model,
                                                     const ServerOptions& options) {
  CompletionRequest completion;
  AnswerPlan& plan = completion.plan;
  M3_TRY(plan.options, read_answer_options(request, model, options));
  if (find_set_member(request, "max_tokens") == nullptr && !plan.options.max_tokens)
    plan.options.max_tokens = 16;  // as OpenAI and vLLM have it
  M3_TRY_STATUS(read_logprobs(request, model, plan.options));
  const int prompt_logprobs = plan.options.prompt_logprobs;
  M3_TRY(completion.form.echo, read_echo(request, model, plan.options));
  M3_TRY(auto prompts, read_prompts(request, model));
  M3_TRY_STATUS(check_no_pictures(prompts, *model.config));
  const Json* suffix = find_set_member(request, "suffix");
  if (suffix != nullptr && *suffix != "")
    return refuse("suffix", "is not supported by this server");
  const std::int64_t choices = std::ssize(prompts) * plan.options.choices;
  if (choices > options.choices_max)
    return refuse("prompt", "asks for {} answers, this server gives {} at once", choices,
                  options.choices_max);
  plan.output = {.begin = OutputState::kContent,
                 .raw = true,
                 .stop = plan.options.stop,
                 .include_stop = plan.options.include_stop};
  if (model.tokenizer != nullptr) {
    M3_TRY(plan.constraint,
           read_constraint(request, {Json(), {.mode = ToolChoice::Mode::kNone}, plan.output.begin},
                           model));
  } else if (!plan.options.stop.empty()) {
    return refuse("stop", "needs a tokenizer, which this model has not: use \"stop_token_ids\"");
  }
  M3_TRY(const auto return_ids, bool_field(request, "return_token_ids"));
  M3_TRY(const auto tokens_by_id, bool_field(request, "return_tokens_as_token_ids"));
  OpenAiForm& form = completion.form;
  form.tokenizer = model.tokenizer;
  form.options = plan.options;
  form.choices = choices;
  form.return_ids = return_ids.value_or(model.tokenizer == nullptr);
  form.tokens_by_id = tokens_by_id.value_or(false);
  form.prompt_logprobs = prompt_logprobs;
  for (const Ids& ids : prompts) plan.prompts.push_back({ids});
  form.prompts = std::move(prompts);
  return completion;
}

}  // namespace m3
