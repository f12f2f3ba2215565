// Chat completions, whole and streamed.
#include "server/openai_writers.h"
#include "server/sse_writer.h"

namespace m3 {
namespace {

Json stop_reason(const ChoiceEnd& end) {
  if (end.stop_string) return *end.stop_string;
  if (end.stop_id) return *end.stop_id;
  return nullptr;
}

Json call_json(const std::string& id, const std::string& name, const std::string& arguments) {
  return {
      {"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", arguments}}}};
}

Json message_of(const CollectedChoice& choice, const OpenAiForm& form) {
  using Kind = OutputEvent::Kind;
  const std::string content = choice.text(Kind::kContent),
                    reasoning = choice.text(Kind::kReasoning);
  Json message = {{"role", "assistant"},
                  {"content", content.empty() && !choice.blocks.empty() ? Json() : Json(content)}};
  if (form.show_reasoning && !reasoning.empty()) {
    message["reasoning_content"] = reasoning;
    if (form.twice) message["reasoning"] = reasoning;
  }
  for (const CollectedBlock& block : choice.blocks)
    if (block.kind == Kind::kArguments)
      message["tool_calls"].push_back(call_json(block.id, block.name, block.text));
  return message;
}

Json whole_body(const std::vector<CollectedChoice>& choices, const Usage& usage,
                const OpenAiForm& form) {
  Json list = Json::array();
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const CollectedChoice& c = choices[i];
    Json choice = {{"index", i},
                   {"message", message_of(c, form)},
                   {"logprobs", form.logprobs() ? chat_logprobs(c.tokens, form.names()) : Json()},
                   {"finish_reason", c.end.reason},
                   {"stop_reason", stop_reason(c.end)}};
    if (form.return_ids) choice["token_ids"] = token_ids(c.tokens);
    list.push_back(std::move(choice));
  }
  Json body = {{"id", form.label.id},           {"object", "chat.completion"},
               {"created", form.label.created}, {"model", form.label.model},
               {"choices", std::move(list)},    {"usage", openai_usage(usage)}};
  if (form.return_ids) body["prompt_token_ids"] = form.prompts.front();
  if (form.prompt_logprobs >= 0)
    body["prompt_logprobs"] =
        prompt_logprobs(choices.front().prompt_scores, form.prompt_logprobs, *form.tokenizer);
  return body;
}

class ChatStream final : public SseWriter {
 public:
  ChatStream(std::shared_ptr<HttpReply> reply, OpenAiForm form)
      : SseWriter(std::move(reply), form.label),
        form_(std::move(form)),
        choices_(static_cast<std::size_t>(form_.choices)) {}

  void token(int choice, const SampledToken& token) override {
    if (form_.logprobs() || form_.return_ids) of(choice).tokens.push_back(token);
  }

  void event(int choice, const OutputEvent& event, const Usage& usage) override {
    Json delta = delta_of(event);
    if (!delta.is_null()) chunk(choice, std::move(delta), nullptr, usage);
  }

  void choice_end(int choice, const ChoiceEnd& end, const Usage& usage) override {
    chunk(choice, Json::object(), &end, usage);
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
    bool has_role = false;
    std::vector<SampledToken> tokens;  // of the next chunk
  };
  State& of(int choice) { return choices_[static_cast<std::size_t>(choice)]; }

  Json delta_of(const OutputEvent& event) const {
    using Kind = OutputEvent::Kind;
    switch (event.kind) {
      case Kind::kContent:
        return {{"content", event.text}};
      case Kind::kReasoning: {
        if (!form_.show_reasoning) return nullptr;
        Json delta = {{"reasoning_content", event.text}};
        if (form_.twice) delta["reasoning"] = event.text;
        return delta;
      }
      case Kind::kCallBegin: {
        Json call = call_json(event.id, event.name, "");
        call["index"] = event.call;
        return {{"tool_calls", Json::array({std::move(call)})}};
      }
      case Kind::kArguments:
        return {{"tool_calls", Json::array({{{"index", event.call},
                                             {"function", {{"arguments", event.text}}}}})}};
      case Kind::kCallEnd:
        return nullptr;
    }
    return nullptr;
  }

  Json frame(Json choices) const {
    return {{"id", label().id},
            {"object", "chat.completion.chunk"},
            {"created", label().created},
            {"model", label().model},
            {"choices", std::move(choices)}};
  }

  void chunk(int choice, Json delta, const ChoiceEnd* end, const Usage& usage) {
    State& state = of(choice);
    if (!std::exchange(state.has_role, true))
      send_choice(choice, {{"role", "assistant"}, {"content", ""}}, nullptr, usage, {});
    send_choice(choice, std::move(delta), end, usage, std::exchange(state.tokens, {}));
  }

  void send_choice(int choice, Json delta, const ChoiceEnd* end, const Usage& usage,
                   const std::vector<SampledToken>& tokens) {
    Json one = {{"index", choice},
                {"delta", std::move(delta)},
                {"logprobs", nullptr},
                {"finish_reason", end != nullptr ? Json(end->reason) : Json()}};
    if (form_.logprobs() && !tokens.empty()) one["logprobs"] = chat_logprobs(tokens, form_.names());
    if (form_.return_ids) one["token_ids"] = token_ids(tokens);
    if (end != nullptr) one["stop_reason"] = stop_reason(*end);
    Json whole = frame(Json::array({std::move(one)}));
    if (form_.return_ids && !std::exchange(told_prompt_, true))
      whole["prompt_token_ids"] = form_.prompts.front();
    if (form_.options.continuous_usage) whole["usage"] = openai_usage(usage);
    send(whole);
  }

  OpenAiForm form_;
  std::vector<State> choices_;
  bool told_prompt_ = false;
};

}  // namespace

Json openai_usage(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.total()},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"completion_tokens_details", {{"reasoning_tokens", usage.reasoning_tokens}}}};
}

std::unique_ptr<AnswerWriter> make_chat_writer(std::shared_ptr<HttpReply> reply, OpenAiForm form) {
  if (form.options.stream) return std::make_unique<ChatStream>(std::move(reply), std::move(form));
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
