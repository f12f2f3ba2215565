#include "server/messages_writer.h"

#include "server/sse_writer.h"

namespace m3 {
namespace {

// Clients send thinking back only with a signature; ours says nothing and is not looked at.
constexpr const char* kSignature = "m3";

Json stop_fields(const ChoiceEnd& end) {
  const char* reason = end.stop_string              ? "stop_sequence"
                       : end.reason == "length"     ? "max_tokens"
                       : end.reason == "tool_calls" ? "tool_use"
                                                    : "end_turn";
  return {{"stop_reason", reason},
          {"stop_sequence", end.stop_string ? Json(*end.stop_string) : Json()}};
}

// As Anthropic counts: what came from the cache is no input.
Json usage_json(const Usage& usage) {
  return {{"input_tokens", usage.prompt_tokens - usage.cached_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", usage.cached_tokens},
          {"output_tokens", usage.completion_tokens}};
}

Json thinking_block(const std::string& text) {
  return {{"type", "thinking"}, {"thinking", text}, {"signature", text.empty() ? "" : kSignature}};
}
Json text_block(const std::string& text) {
  return {{"type", "text"}, {"text", text}};
}

Json call_block(const std::string& id, const std::string& name, const std::string& arguments) {
  auto input = parse_json(arguments);
  return {{"type", "tool_use"},
          {"id", id},
          {"name", name},
          {"input", input ? std::move(*input) : Json::object()}};
}

Json block_json(const CollectedBlock& block) {
  if (block.kind == OutputEvent::Kind::kReasoning) return thinking_block(block.text);
  if (block.kind == OutputEvent::Kind::kContent) return text_block(block.text);
  return call_block(block.id, block.name, block.text);
}

Json message_json(const AnswerLabel& label, Json content, const Usage& usage) {
  return {{"id", label.id},
          {"type", "message"},
          {"role", "assistant"},
          {"model", label.model},
          {"content", std::move(content)},
          {"stop_reason", nullptr},
          {"stop_sequence", nullptr},
          {"usage", usage_json(usage)}};
}

Json whole_body(const CollectedChoice& choice, const Usage& usage, const AnswerLabel& label) {
  Json content = Json::array();
  for (const CollectedBlock& block : choice.blocks) content.push_back(block_json(block));
  Json message = message_json(label, std::move(content), usage);
  message.update(stop_fields(choice.end));
  return message;
}

// Blocks follow one another: each is closed before the next is opened.
class MessagesStream final : public SseWriter {
 public:
  using SseWriter::SseWriter;

  void event(int, const OutputEvent& event, const Usage& usage) override {
    using Kind = OutputEvent::Kind;
    start(usage);
    switch (event.kind) {
      case Kind::kReasoning:
        open(Kind::kReasoning, thinking_block(""));
        return delta({{"type", "thinking_delta"}, {"thinking", event.text}});
      case Kind::kContent:
        open(Kind::kContent, text_block(""));
        return delta({{"type", "text_delta"}, {"text", event.text}});
      case Kind::kCallBegin:
        close_block();
        return open(Kind::kArguments, call_block(event.id, event.name, ""));
      case Kind::kArguments:
        return delta({{"type", "input_json_delta"}, {"partial_json", event.text}});
      case Kind::kCallEnd:
        return close_block();
    }
  }

  void choice_end(int, const ChoiceEnd& end, const Usage& usage) override {
    start(usage);
    close_block();
    send_typed(
        {{"type", "message_delta"}, {"delta", stop_fields(end)}, {"usage", usage_json(usage)}});
  }
  void end(const Usage&) override {
    send_typed({{"type", "message_stop"}});
    close();
  }
  void fail(const ApiError& error) override {
    if (!begun()) return answer(error, anthropic_error(error));
    send_typed(anthropic_error(error));
    close();
  }
  void ping() override { send_typed({{"type", "ping"}}); }

 private:
  void send_typed(const Json& data) { send(data, data["type"].get<std::string>()); }

  void start(const Usage& usage) {
    if (std::exchange(started_, true)) return;
    send_typed(
        {{"type", "message_start"}, {"message", message_json(label(), Json::array(), usage)}});
  }
  void open(OutputEvent::Kind kind, Json block) {
    if (open_ == kind && kind != OutputEvent::Kind::kArguments) return;
    close_block();
    open_ = kind;
    send_typed(
        {{"type", "content_block_start"}, {"index", index_}, {"content_block", std::move(block)}});
  }
  void delta(Json what) {
    send_typed({{"type", "content_block_delta"}, {"index", index_}, {"delta", std::move(what)}});
  }
  void close_block() {
    if (!open_) return;
    if (open_ == OutputEvent::Kind::kReasoning)
      delta({{"type", "signature_delta"}, {"signature", kSignature}});
    send_typed({{"type", "content_block_stop"}, {"index", index_}});
    ++index_;
    open_.reset();
  }

  bool started_ = false;
  int index_ = 0;
  std::optional<OutputEvent::Kind> open_;
};

}  // namespace

std::unique_ptr<AnswerWriter> make_messages_writer(std::shared_ptr<HttpReply> reply,
                                                   MessagesForm form) {
  if (form.stream) return std::make_unique<MessagesStream>(std::move(reply), std::move(form.label));
  return std::make_unique<CollectedAnswer>(
      std::move(reply), 1, /*keep_tokens=*/false,
      [label = std::move(form.label)](const auto& all, const Usage& usage) {
        return whole_body(all[0], usage, label);
      },
      anthropic_error);
}

}  // namespace m3
