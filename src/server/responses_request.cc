#include "server/responses_request.h"

namespace m3 {
namespace {

// Items become messages; reasoning and calls join the assistant turn that they belong to.
class Items {
 public:
  ApiStatus add(const Json& item) {
    if (!item.is_object()) return refuse("input", "must hold objects, not {}", kind_name(item));
    const std::string* type = find_string(item, "type");
    if (type == nullptr || *type == "message") return add_message(item);
    if (*type == "function_call") return add_call(item);
    if (*type == "function_call_output") return add_output(item);
    if (*type == "reasoning") return add_reasoning(item);
    return refuse("input", "has an item of type \"{}\", which is not supported here",
                  type->substr(0, 100));
  }
  Json take() && {
    flush();
    return std::move(messages_);
  }
  void add_plain(const char* role, const Json& content) {
    flush();
    messages_.push_back({{"role", role}, {"content", content}});
  }

 private:
  ApiStatus add_message(const Json& item) {
    const std::string* role = find_string(item, "role");
    if (role == nullptr) return refuse("input", "has a message without a \"role\"");
    const Json* content = find_set_member(item, "content");
    if (*role != "assistant") {
      flush();
      messages_.push_back({{"role", *role}, {"content", content ? *content : Json("")}});
      return {};
    }
    if (turn_.contains("content") || turn_.contains("tool_calls")) flush();
    turn_["content"] = content != nullptr ? *content : Json();
    return {};
  }
  ApiStatus add_call(const Json& item) {
    const std::string *id = find_string(item, "call_id"), *name = find_string(item, "name");
    if (id == nullptr || name == nullptr)
      return refuse("input", "has a function_call without \"call_id\" or \"name\"");
    turn_["tool_calls"].push_back(
        {{"id", *id},
         {"type", "function"},
         {"function", {{"name", *name}, {"arguments", item.value("arguments", Json(""))}}}});
    return {};
  }
  ApiStatus add_output(const Json& item) {
    const std::string* id = find_string(item, "call_id");
    if (id == nullptr) return refuse("input", "has a function_call_output without \"call_id\"");
    flush();
    messages_.push_back(
        {{"role", "tool"}, {"tool_call_id", *id}, {"content", item.value("output", Json(""))}});
    return {};
  }
  ApiStatus add_reasoning(const Json& item) {
    std::string text;
    for (const char* key : {"content", "summary"}) {
      M3_TRY(const Json* parts, list_field(item, key));
      if (parts == nullptr || !text.empty()) continue;
      for (const Json& part : *parts)
        if (const std::string* one = find_string(part, "text")) text += *one;
    }
    flush();
    if (!text.empty()) turn_["reasoning_content"] = text;
    return {};
  }
  void flush() {
    if (turn_.empty()) return;
    Json message = {{"role", "assistant"}};
    message.update(std::exchange(turn_, Json::object()));
    if (!message.contains("content")) message["content"] = nullptr;
    messages_.push_back(std::move(message));
  }

  Json messages_ = Json::array();
  Json turn_ = Json::object();  // the assistant's that is being put together
};

ApiResult<Json> translate_input(const Json& request) {
  Items items;
  M3_TRY(const auto instructions, string_field(request, "instructions"));
  if (instructions) items.add_plain("system", *instructions);
  const Json* input = find_set_member(request, "input");
  if (input == nullptr || (!input->is_string() && !input->is_array()))
    return refuse("input", "must be a string or a list of items");
  if (input->is_string()) {
    items.add_plain("user", *input);
  } else {
    for (const Json& item : *input) M3_TRY_STATUS(items.add(item));
  }
  return std::move(items).take();
}

// {"format": {"type": "json_schema", "name", "schema", "strict"}}
ApiStatus translate_text(const Json& request, Json& chat) {
  M3_TRY(const Json* text, object_field(request, "text"));
  if (text == nullptr) return {};
  M3_TRY(const Json* format, object_field(*text, "format"));
  if (format == nullptr) return {};
  const std::string* type = find_string(*format, "type");
  if (type != nullptr && *type == "json_schema") {
    chat["response_format"] = {{"type", "json_schema"},
                               {"json_schema", {{"schema", format->value("schema", Json())}}}};
  } else {
    chat["response_format"] = *format;
  }
  return {};
}

ApiStatus check_stateless(const Json& request) {
  for (const char* key : {"previous_response_id", "conversation", "prompt"})
    if (find_set_member(request, key) != nullptr)
      return refuse(key,
                    "is not supported: this server keeps no responses; send the whole "
                    "conversation as \"input\"");
  M3_TRY(const auto background, bool_field(request, "background"));
  if (background.value_or(false)) return refuse("background", "is not supported by this server");
  return {};
}

// Agents offer tools that OpenAI runs itself beside their own: the model is not told of those.
Json functions_of(const Json& tools) {
  Json functions = Json::array();
  for (const Json& tool : tools) {
    const std::string* type = find_string(tool, "type");
    if (type == nullptr || *type == "function") functions.push_back(tool);
  }
  return functions;
}

}  // namespace

ApiResult<Json> chat_from_responses(const Json& request) {
  M3_TRY_STATUS(check_stateless(request));
  Json chat = Json::object();
  for (const char* key : {"model", "temperature", "top_p", "top_k", "stream", "thinking",
                          "chat_template_kwargs", "structured_outputs", "reasoning", "tool_choice",
                          "parallel_tool_calls", "max_output_tokens", "user", "seed"})
    if (const Json* value = find_set_member(request, key)) chat[key] = *value;
  M3_TRY(chat["messages"], translate_input(request));
  M3_TRY_STATUS(translate_text(request, chat));
  M3_TRY(const Json* tools, list_field(request, "tools"));
  if (tools != nullptr) chat["tools"] = functions_of(*tools);
  return chat;
}

Json responses_echo(const Json& request) {
  Json echo = Json::object();
  for (const char* key : {"instructions", "max_output_tokens", "metadata", "temperature", "top_p",
                          "tools", "tool_choice", "parallel_tool_calls", "reasoning", "text"}) {
    const Json* value = find_set_member(request, key);
    if (value == nullptr) continue;
    // By way of text: a client's numbers may be longer than those that can be sent.
    auto copy = parse_json(python_json(*value));
    echo[key] = copy ? std::move(*copy) : Json();
  }
  if (!echo.contains("tools")) echo["tools"] = Json::array();
  if (!echo.contains("tool_choice")) echo["tool_choice"] = "auto";
  if (!echo.contains("parallel_tool_calls")) echo["parallel_tool_calls"] = true;
  return echo;
}

}  // namespace m3
