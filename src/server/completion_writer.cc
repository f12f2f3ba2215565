// Completions, whole and streamed.
#include "server/openai_logprobs.h"
#include "server/openai_writers.h"
#include "server/sse_writer.h"

namespace m3 {
namespace {

std::int64_t prompt_of(int choice, const OpenAiForm& form) {
  return choice / form.options.choices;
}

std::string echo_of(int choice, const OpenAiForm& form) {
  return form.echo.empty() ? "" : form.echo[static_cast<std::size_t>(prompt_of(choice, form))];
}

Json stop_reason(const ChoiceEnd& end) {
  if (end.stop_string) return *end.stop_string;
  if (end.stop_id) return *end.stop_id;
  return nullptr;
}

Json whole_body(const std::vector<CollectedChoice>& choices, const Usage& usage,
                const OpenAiForm& form) {
  Json list = Json::array();
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const CollectedChoice& c = choices[i];
    const std::string echo = echo_of(static_cast<int>(i), form);
    std::int64_t offset = characters_of(echo);
    Json choice = {{"index", i},
                   {"text", echo + c.text(OutputEvent::Kind::kContent)},
                   {"logprobs", form.options.sampling.logprobs >= 0
                                    ? completion_logprobs(c.tokens, *form.tokenizer,
                                                          form.options.skip_special_tokens, offset)
                                    : Json()},
                   {"finish_reason", c.end.reason},
                   {"stop_reason", stop_reason(c.end)}};
    if (form.return_ids) choice["token_ids"] = token_ids(c.tokens);
    list.push_back(std::move(choice));
  }
  return {{"id", form.label.id},           {"object", "text_completion"},
          {"created", form.label.created}, {"model", form.label.model},
          {"choices", std::move(list)},    {"usage", openai_usage(usage)}};
}

class CompletionStream final : public SseWriter {
 public:
  CompletionStream(std::shared_ptr<HttpReply> reply, OpenAiForm form)
      : SseWriter(std::move(reply), form.label),
        form_(std::move(form)),
        choices_(static_cast<std::size_t>(form_.choices)) {}

  void token(int choice, const SampledToken& token) override {
    State& state = choices_[static_cast<std::size_t>(choice)];
    if (!std::exchange(state.begun, true)) {
      const std::string echo = echo_of(choice, form_);
      state.offset = characters_of(echo);
      if (!echo.empty()) send_choice(choice, echo, nullptr, {});
    }
    if (form_.options.sampling.logprobs >= 0 || form_.return_ids) state.tokens.push_back(token);
  }

  void event(int choice, const OutputEvent& event, const Usage& usage) override {
    if (event.kind == OutputEvent::Kind::kContent) send_choice(choice, event.text, nullptr, usage);
  }
  void choice_end(int choice, const ChoiceEnd& end, const Usage& usage) override {
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

  Json frame(Json choices) const {
    return {{"id", label().id},
            {"object", "text_completion"},
            {"created", label().created},
            {"model", label().model},
            {"choices", std::move(choices)}};
  }

  void send_choice(int choice, const std::string& text, const ChoiceEnd* end, const Usage& usage) {
    State& state = choices_[static_cast<std::size_t>(choice)];
    const auto tokens = std::exchange(state.tokens, {});
    Json one = {{"index", choice},
                {"text", text},
                {"logprobs", nullptr},
                {"finish_reason", end != nullptr ? Json(end->reason) : Json()}};
    if (form_.options.sampling.logprobs >= 0 && !tokens.empty())
      one["logprobs"] = completion_logprobs(tokens, *form_.tokenizer,
                                            form_.options.skip_special_tokens, state.offset);
    if (form_.return_ids) one["token_ids"] = token_ids(tokens);
    if (end != nullptr) one["stop_reason"] = stop_reason(*end);
    Json whole = frame(Json::array({std::move(one)}));
    if (form_.options.continuous_usage) whole["usage"] = openai_usage(usage);
    send(whole);
  }

  OpenAiForm form_;
  std::vector<State> choices_;
};

}  // namespace

std::unique_ptr<AnswerWriter> make_completion_writer(std::shared_ptr<HttpReply> reply,
                                                     OpenAiForm form) {
  if (form.options.stream)
    return std::make_unique<CompletionStream>(std::move(reply), std::move(form));
  const std::int64_t choices = form.choices;
  const bool keep = form.options.sampling.logprobs >= 0 || form.return_ids;
  return std::make_unique<CollectedAnswer>(
      std::move(reply), choices, keep,
      [form = std::move(form)](const auto& all, const Usage& usage) {
        return whole_body(all, usage, form);
      },
      openai_error);
}

}  // namespace m3
