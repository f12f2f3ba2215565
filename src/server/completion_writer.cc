// Completions, whole and streamed.
#include <algorithm>

#include "server/openai_writers.h"
#include "server/sse_writer.h"

namespace m3 {
namespace {

std::size_t prompt_of(std::size_t choice, const OpenAiForm& form) {
  return choice / static_cast<std::size_t>(form.options.choices);
}

// The text of the prompt's tokens, and what is told of them with it.
struct Echo {
  std::string text;
  std::int64_t characters = 0;
  Json logprobs;  // null unless they are wanted
};

Echo echo_of(std::size_t choice, std::span<const SampledToken> scores, const OpenAiForm& form) {
  Echo echo;
  if (!form.echo) return echo;
  const auto& prompt = form.prompts[prompt_of(choice, form)];
  echo.text = form.tokenizer->decode(prompt);
  echo.characters = characters_of(echo.text);
  if (!form.logprobs()) return echo;
  std::vector<SampledToken> tokens = {{.id = prompt.front(), .top = {}}};
  tokens.insert(tokens.end(), scores.begin(), scores.end());
  const auto count = static_cast<std::size_t>(form.options.sampling.logprobs);
  for (SampledToken& token : tokens) token.top.resize(std::min(token.top.size(), count));
  std::int64_t offset = 0;
  echo.logprobs = completion_logprobs(tokens, form.names(), /*skip_special_tokens=*/false, offset);
  return echo;
}

Json stop_reason(const ChoiceEnd& end) {
  if (end.stop_string) return *end.stop_string;
  if (end.stop_id) return *end.stop_id;
  return nullptr;
}

Json whole_choice(std::size_t index, const std::vector<CollectedChoice>& choices,
                  const OpenAiForm& form) {
  const CollectedChoice& c = choices[index];
  const std::size_t prompt = prompt_of(index, form);
  const auto& scores =
      choices[prompt * static_cast<std::size_t>(form.options.choices)].prompt_scores;
  Echo echo = echo_of(index, scores, form);
  Json logprobs = std::move(echo.logprobs);
  if (form.logprobs()) {
    std::int64_t offset = echo.characters;
    append_logprobs(logprobs, completion_logprobs(c.tokens, form.names(),
                                                  form.options.skip_special_tokens, offset));
  }
  Json choice = {{"index", index},
                 {"text", echo.text + c.text(OutputEvent::Kind::kContent)},
                 {"logprobs", std::move(logprobs)},
                 {"finish_reason", c.end.reason},
                 {"stop_reason", stop_reason(c.end)}};
  if (form.return_ids) {
    choice["prompt_token_ids"] = form.prompts[prompt];
    choice["token_ids"] = token_ids(c.tokens);
  }
  if (form.prompt_logprobs >= 0)
    choice["prompt_logprobs"] = prompt_logprobs(scores, form.prompt_logprobs, *form.tokenizer);
  return choice;
}

Json whole_body(const std::vector<CollectedChoice>& choices, const Usage& usage,
                const OpenAiForm& form) {
  Json list = Json::array();
  for (std::size_t i = 0; i < choices.size(); ++i) list.push_back(whole_choice(i, choices, form));
  return {{"id", form.label.id},           {"object", "text_completion"},
          {"created", form.label.created}, {"model", form.label.model},
          {"choices", std::move(list)},    {"usage", openai_usage(usage)}};
}

class CompletionStream final : public SseWriter {
 public:
  CompletionStream(std::shared_ptr<HttpReply> reply, OpenAiForm form)
      : SseWriter(std::move(reply), form.label),
        form_(std::move(form)),
        choices_(static_cast<std::size_t>(form_.choices)),
        scores_(form_.prompts.size()) {}

  void prompt(int choice, std::span<const SampledToken> scores) override {
    scores_[prompt_of(static_cast<std::size_t>(choice), form_)].assign(scores.begin(),
                                                                       scores.end());
  }

  void token(int choice, const SampledToken& token) override {
    begin(choice);
    if (form_.logprobs() || form_.return_ids) of(choice).tokens.push_back(token);
  }

  void event(int choice, const OutputEvent& event, const Usage& usage) override {
    if (event.kind == OutputEvent::Kind::kContent) send_choice(choice, event.text, nullptr, usage);
  }
  void choice_end(int choice, const ChoiceEnd& end, const Usage& usage) override {
    begin(choice);
    send_choice(choice, "", &end, usage);
  }
  void end(const Usage& usage) override {
    if (form_.options.include_usage) {
      Json last = frame(Json::array());
      last["usage"] = openai_usage(usage);
      send(last);
    }
    write("data: [DONE]\n\n");
    close();
  }
  void fail(const ApiError& error) override {
    if (!begun()) return answer(error, openai_error(error));
    send(openai_error(error));
    write("data: [DONE]\n\n");
    close();
  }
  void ping() override { write(": ping\n\n"); }

 private:
  struct State {
    bool begun = false;
    std::int64_t offset = 0;           // of the next token, in the text
    std::vector<SampledToken> tokens;  // of the next chunk
  };

  State& of(int choice) { return choices_[static_cast<std::size_t>(choice)]; }

  // Before all else of a choice, its prompt.
  void begin(int choice) {
    State& state = of(choice);
    if (std::exchange(state.begun, true) || (!form_.echo && !form_.return_ids)) return;
    const auto index = static_cast<std::size_t>(choice);
    const std::size_t prompt = prompt_of(index, form_);
    Echo echo = echo_of(index, scores_[prompt], form_);
    state.offset = echo.characters;
    Json one = choice_json(choice, echo.text, nullptr);
    one["logprobs"] = std::move(echo.logprobs);
    if (form_.return_ids) {
      one["prompt_token_ids"] = form_.prompts[prompt];
      one["token_ids"] = Json::array();
    }
    send_choice(std::move(one), {});
  }

  Json frame(Json choices) const {
    return {{"id", label().id},
            {"object", "text_completion"},
            {"created", label().created},
            {"model", label().model},
            {"choices", std::move(choices)}};
  }

  void send_choice(int choice, const std::string& text, const ChoiceEnd* end, const Usage& usage) {
    State& state = of(choice);
    const auto tokens = std::exchange(state.tokens, {});
    Json one = choice_json(choice, text, end);
    if (form_.logprobs() && !tokens.empty())
      one["logprobs"] = completion_logprobs(tokens, form_.names(),
                                            form_.options.skip_special_tokens, state.offset);
    if (form_.return_ids) one["token_ids"] = token_ids(tokens);
    send_choice(std::move(one), usage);
  }

  static Json choice_json(int choice, const std::string& text, const ChoiceEnd* end) {
    Json one = {{"index", choice},
                {"text", text},
                {"logprobs", nullptr},
                {"finish_reason", end != nullptr ? Json(end->reason) : Json()}};
    if (end != nullptr) one["stop_reason"] = stop_reason(*end);
    return one;
  }

  void send_choice(Json one, const Usage& usage) {
    Json whole = frame(Json::array({std::move(one)}));
    if (form_.options.continuous_usage) whole["usage"] = openai_usage(usage);
    send(whole);
  }

  OpenAiForm form_;
  std::vector<State> choices_;
  std::vector<std::vector<SampledToken>> scores_;  // by prompt
};

}  // namespace

std::unique_ptr<AnswerWriter> make_completion_writer(std::shared_ptr<HttpReply> reply,
                                                     OpenAiForm form) {
  if (form.options.stream)
    return std::make_unique<CompletionStream>(std::move(reply), std::move(form));
  const std::int64_t choices = form.choices;
  const bool keep = form.logprobs() || form.return_ids;
  return std::make_unique<CollectedAnswer>(
      std::move(reply), choices, keep,
      [form = std::move(form)](const auto& all, const Usage& usage) {
        return whole_body(all, usage, form);
      },
      openai_error);
}

}  // namespace m3
