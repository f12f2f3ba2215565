#include "server/responses_writer.h"

#include "server/sse_writer.h"

namespace m3 {
namespace {

using Kind = OutputEvent::Kind;

Json usage_json(const Usage& usage) {
  return {{"input_tokens", usage.prompt_tokens},
          {"input_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"output_tokens", usage.completion_tokens},
          {"output_tokens_details", {{"reasoning_tokens", usage.reasoning_tokens}}},
          {"total_tokens", usage.total()}};
}

Json text_part(const char* type, const std::string& text) {
  Json part = {{"type", type}, {"text", text}};
  if (type == std::string_view("output_text")) part["annotations"] = Json::array();
  return part;
}

// An item of the output in the making.
struct Item {
  Kind kind;  // kReasoning, kContent or kArguments
  std::string id;
  std::string text;           // of all kinds
  std::string call_id, name;  // of calls

  const char* part_type() const {
    return kind == Kind::kReasoning ? "reasoning_text" : "output_text";
  }
  Json json(const char* status) const {
    if (kind == Kind::kArguments)
      return {{"id", id},     {"type", "function_call"}, {"status", status}, {"call_id", call_id},
              {"name", name}, {"arguments", text}};
    const bool empty = text.empty();
    Json content = empty ? Json::array() : Json::array({text_part(part_type(), text)});
    if (kind == Kind::kReasoning)
      return {{"id", id},
              {"type", "reasoning"},
              {"summary", Json::array()},
              {"content", std::move(content)}};
    return {{"id", id},
            {"type", "message"},
            {"status", status},
            {"role", "assistant"},
            {"content", std::move(content)}};
  }
};

std::string item_id(Kind kind) {
  return random_id(kind == Kind::kReasoning ? "rs_" : kind == Kind::kContent ? "msg_" : "fc_");
}

Json response_json(const AnswerLabel& label, const Json& echo, const char* status,
                   const Json& output) {
  Json response = {{"id", label.id},       {"object", "response"}, {"created_at", label.created},
                   {"status", status},     {"error", nullptr},     {"incomplete_details", nullptr},
                   {"model", label.model}, {"output", output},     {"usage", nullptr}};
  response.update(echo);
  return response;
}

void finish_response(Json& response, const ChoiceEnd& end, const Usage& usage) {
  response["usage"] = usage_json(usage);
  if (end.reason == "length") response["incomplete_details"] = {{"reason", "max_output_tokens"}};
}
const char* status_of(const ChoiceEnd& end) {
  return end.reason == "length" ? "incomplete" : "completed";
}

Json whole_body(const CollectedChoice& choice, const Usage& usage, const ResponsesForm& form) {
  Json output = Json::array();
  const char* status = status_of(choice.end);
  for (const CollectedBlock& block : choice.blocks) {
    const Item item{block.kind, item_id(block.kind), block.text, block.id, block.name};
    output.push_back(item.json(block.kind == Kind::kContent ? status : "completed"));
  }
  Json response = response_json(form.label, form.echo, status, output);
  finish_response(response, choice.end, usage);
  return response;
}

class ResponsesStream final : public SseWriter {
 public:
  ResponsesStream(std::shared_ptr<HttpReply> reply, ResponsesForm form)
      : SseWriter(std::move(reply), form.label), echo_(std::move(form.echo)) {}

  void event(int, const OutputEvent& event, const Usage&) override {
    start();
    switch (event.kind) {
      case Kind::kReasoning:
      case Kind::kContent:
        if (!item_ || item_->kind != event.kind) {
          close_item("completed");
          open_item({event.kind, item_id(event.kind), ""});
        }
        item_->text += event.text;
        return send_typed(event.kind == Kind::kReasoning ? "response.reasoning_text.delta"
                                                         : "response.output_text.delta",
                          part_place({{"delta", event.text}}));
      case Kind::kCallBegin:
        close_item("completed");
        return open_item({Kind::kArguments, item_id(Kind::kArguments), "", event.id, event.name});
      case Kind::kArguments:
        item_->text += event.text;
        return send_typed("response.function_call_arguments.delta", place({{"delta", event.text}}));
      case Kind::kCallEnd:
        return close_item("completed");
    }
  }

  void choice_end(int, const ChoiceEnd& end, const Usage&) override {
    start();
    close_item(status_of(end));
    end_ = end;
  }
  void end(const Usage& usage) override {
    const char* status = status_of(end_);
    Json response = response_json(label(), echo_, status, output_);
    finish_response(response, end_, usage);
    send_typed(std::string("response.") + status, {{"response", std::move(response)}});
    close();
  }
  void fail(const ApiError& error) override {
    if (!begun()) return answer(error, openai_error(error));
    start();
    Json response = response_json(label(), echo_, "failed", output_);
    response["error"] = {{"code", "server_error"}, {"message", error.message}};
    send_typed("response.failed", {{"response", std::move(response)}});
    close();
  }
  void ping() override { write(": ping\n\n"); }

 private:
  void send_typed(const std::string& type, Json more) {
    Json data = {{"type", type}, {"sequence_number", sequence_++}};
    data.update(more);
    send(data, type);
  }
  Json place(Json more) const {
    Json data = {{"item_id", item_->id}, {"output_index", output_.size()}};
    data.update(more);
    return data;
  }
  Json part_place(Json more) const {
    more["content_index"] = 0;
    return place(std::move(more));
  }

  void start() {
    if (std::exchange(started_, true)) return;
    for (const char* type : {"response.created", "response.in_progress"})
      send_typed(type, {{"response", response_json(label(), echo_, "in_progress", Json::array())}});
  }

  void open_item(Item item) {
    item_ = std::move(item);
    send_typed("response.output_item.added",
               {{"output_index", output_.size()}, {"item", item_->json("in_progress")}});
    if (item_->kind != Kind::kArguments)
      send_typed("response.content_part.added",
                 part_place({{"part", text_part(item_->part_type(), "")}}));
  }

  void close_item(const char* status) {
    if (!item_) return;
    if (item_->kind == Kind::kArguments) {
      send_typed("response.function_call_arguments.done",
                 place({{"name", item_->name}, {"arguments", item_->text}}));
    } else {
      send_typed(item_->kind == Kind::kReasoning ? "response.reasoning_text.done"
                                                 : "response.output_text.done",
                 part_place({{"text", item_->text}}));
      send_typed("response.content_part.done",
                 part_place({{"part", text_part(item_->part_type(), item_->text)}}));
    }
    const Json item = item_->json(status);
    send_typed("response.output_item.done", {{"output_index", output_.size()}, {"item", item}});
    output_.push_back(item);
    item_.reset();
  }

  Json echo_;
  Json output_ = Json::array();
  std::optional<Item> item_;  // the one that is open
  ChoiceEnd end_;
  bool started_ = false;
  std::int64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<AnswerWriter> make_responses_writer(std::shared_ptr<HttpReply> reply,
                                                    ResponsesForm form) {
  if (form.stream) return std::make_unique<ResponsesStream>(std::move(reply), std::move(form));
  return std::make_unique<CollectedAnswer>(
      std::move(reply), 1, /*keep_tokens=*/false,
      [form = std::move(form)](const auto& all, const Usage& usage) {
        return whole_body(all[0], usage, form);
      },
      openai_error);
}

}  // namespace m3
