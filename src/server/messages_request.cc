#include "server/messages_request.h"

namespace m3 {
namespace {

// {"type": "base64", "media_type", "data"} or {"type": "url", "url"}.
ApiResult<Json> image_part(const Json& block) {
  const Json* source = find_set_member(block, "source");
  if (source == nullptr) return refuse("source", "of an image is missing");
  const std::string* url = find_string(*source, "url");
  if (url != nullptr) return Json{{"type", "image_url"}, {"image_url", {{"url", *url}}}};
  const std::string* data = find_string(*source, "data");
  if (data == nullptr) return refuse("source", "of an image needs \"data\" or \"url\"");
  const std::string* type = find_string(*source, "media_type");
  const std::string address =
      fmt::format("data:{};base64,{}", type != nullptr ? *type : "image/png", *data);
  return Json{{"type", "image_url"}, {"image_url", {{"url", address}}}};
}

// A block that is a part of any message's content.
ApiResult<Json> part_of(const Json& block) {
  const std::string* type = find_string(block, "type");
  if (type == nullptr) return refuse("content", "must be blocks with a \"type\"");
  if (*type == "image") return image_part(block);
  if (*type != "text")
    return refuse("content", "has a block of type \"{}\", which is not supported here",
                  type->substr(0, 100));
  const std::string* text = find_string(block, "text");
  if (text == nullptr) return refuse("content", "has a text block without \"text\"");
  return Json{{"type", "text"}, {"text", *text}};
}

ApiResult<Json> parts_of(const Json& content) {
  if (content.is_string() || content.is_null()) return content;
  if (!content.is_array())
    return refuse("content", "must be a string or a list of blocks, it is {}", kind_name(content));
  Json parts = Json::array();
  for (const Json& block : content) {
    M3_TRY(Json part, part_of(block));
    parts.push_back(std::move(part));
  }
  return parts;
}

ApiResult<Json> tool_message(const Json& block) {
  const std::string* id = find_string(block, "tool_use_id");
  if (id == nullptr) return refuse("tool_use_id", "of a tool_result is missing");
  const Json* content = find_set_member(block, "content");
  M3_TRY(Json parts, parts_of(content == nullptr ? Json("") : *content));
  return Json{{"role", "tool"}, {"tool_call_id", *id}, {"content", std::move(parts)}};
}

// Results of tools come before what else the user says.
ApiStatus add_user(const Json& message, Json& messages) {
  const Json* content = find_set_member(message, "content");
  if (content == nullptr || !content->is_array()) {
    messages.push_back({{"role", "user"}, {"content", content == nullptr ? Json("") : *content}});
    return {};
  }
  Json parts = Json::array();
  for (const Json& block : *content) {
    const std::string* type = find_string(block, "type");
    if (type != nullptr && *type == "tool_result") {
      M3_TRY(Json result, tool_message(block));
      messages.push_back(std::move(result));
    } else {
      M3_TRY(Json part, part_of(block));
      parts.push_back(std::move(part));
    }
  }
  if (!parts.empty() || content->empty())
    messages.push_back({{"role", "user"}, {"content", std::move(parts)}});
  return {};
}

ApiResult<Json> call_of(const Json& block) {
  const std::string *id = find_string(block, "id"), *name = find_string(block, "name");
  if (name == nullptr) return refuse("name", "of a tool_use is missing");
  const Json* input = find_set_member(block, "input");
  return Json{
      {"id", id != nullptr ? *id : ""},
      {"type", "function"},
      {"function", {{"name", *name}, {"arguments", input != nullptr ? *input : Json::object()}}}};
}

ApiStatus add_assistant(const Json& message, Json& messages) {
  Json turn = {{"role", "assistant"}};
  const Json* content = find_set_member(message, "content");
  if (content == nullptr || !content->is_array()) {
    turn["content"] = content == nullptr ? Json() : *content;
    messages.push_back(std::move(turn));
    return {};
  }
  std::string reasoning;
  Json parts = Json::array(), calls = Json::array();
  for (const Json& block : *content) {
    const std::string* type = find_string(block, "type");
    if (type != nullptr && *type == "thinking") {
      if (const std::string* text = find_string(block, "thinking")) reasoning += *text;
    } else if (type != nullptr && *type == "tool_use") {
      M3_TRY(Json call, call_of(block));
      calls.push_back(std::move(call));
    } else if (type == nullptr || *type != "redacted_thinking") {
      M3_TRY(Json part, part_of(block));
      parts.push_back(std::move(part));
    }
  }
  turn["content"] = parts.empty() ? Json() : std::move(parts);
  if (!reasoning.empty()) turn["reasoning_content"] = reasoning;
  if (!calls.empty()) turn["tool_calls"] = std::move(calls);
  messages.push_back(std::move(turn));
  return {};
}

ApiResult<Json> translate_messages(const Json& request) {
  Json messages = Json::array();
  if (const Json* system = find_set_member(request, "system")) {
    M3_TRY(Json content, parts_of(*system));
    messages.push_back({{"role", "system"}, {"content", std::move(content)}});
  }
  M3_TRY(const Json* given, list_field(request, "messages"));
  if (given == nullptr || given->empty())
    return refuse("messages", "must be a list of at least one message");
  for (const Json& message : *given) {
    const std::string* role = find_string(message, "role");
    if (role == nullptr || (*role != "user" && *role != "assistant" && *role != "system"))
      return refuse("messages", "must have the roles \"user\" and \"assistant\" alone");
    if (*role == "system") {
      M3_TRY(Json content, parts_of(message.value("content", Json(""))));
      messages.push_back({{"role", "system"}, {"content", std::move(content)}});
    } else {
      M3_TRY_STATUS(*role == "user" ? add_user(message, messages)
                                    : add_assistant(message, messages));
    }
  }
  return messages;
}

ApiResult<Json> translate_tools(const Json& tools) {
  Json result = Json::array();
  for (const Json& tool : tools) {
    // Tools that Anthropic runs itself: the model is not told of them.
    const std::string* type = find_string(tool, "type");
    if (type != nullptr && *type != "custom") continue;
    const std::string* name = find_string(tool, "name");
    if (name == nullptr) return refuse("tools", "must each have a \"name\"");
    const Json* schema = find_set_member(tool, "input_schema");
    if (schema == nullptr)
      return refuse("tools", "name \"{}\" without an \"input_schema\"", name->substr(0, 100));
    Json function = {{"name", *name}};
    if (const Json* text = find_set_member(tool, "description")) function["description"] = *text;
    function["parameters"] = *schema;
    result.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return result;
}

ApiStatus translate_choice(const Json& choice, Json& chat) {
  const std::string* type = find_string(choice, "type");
  if (type == nullptr) return refuse("tool_choice", "must be an object with a \"type\"");
  M3_TRY(const auto one, bool_field(choice, "disable_parallel_tool_use"));
  if (one.value_or(false)) chat["parallel_tool_calls"] = false;
  if (*type == "tool") {
    const std::string* name = find_string(choice, "name");
    if (name == nullptr) return refuse("tool_choice", "of type \"tool\" needs a \"name\"");
    chat["tool_choice"] = {{"type", "function"}, {"function", {{"name", *name}}}};
  } else if (*type == "any" || *type == "auto" || *type == "none") {
    chat["tool_choice"] = *type == "any" ? "required" : *type;
  } else {
    return refuse("tool_choice", "must be of type \"auto\", \"any\", \"tool\" or \"none\"");
  }
  return {};
}

// {"output_config": {"format": {"type": "json_schema", "schema"}}}, or as "output_format" before.
ApiStatus translate_format(const Json& request, Json& chat) {
  M3_TRY(const Json* format, object_field(request, "output_format"));
  M3_TRY(const Json* config, object_field(request, "output_config"));
  if (config != nullptr && find_set_member(*config, "format") != nullptr) {
    M3_TRY(format, object_field(*config, "format"));
  }
  if (format == nullptr) return {};
  const std::string* type = find_string(*format, "type");
  const Json* schema = find_set_member(*format, "schema");
  if (type == nullptr || *type != "json_schema" || schema == nullptr)
    return refuse("output_config.format", "must have \"type\": \"json_schema\" and a \"schema\"");
  chat["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"schema", *schema}}}};
  return {};
}

// The client has begun the answer itself: it goes on from there.
bool is_begun_answer(const Json& message) {
  return message.at("role") == "assistant" && find_set_member(message, "content") != nullptr &&
         !message.contains("tool_calls");
}

}  // namespace

ApiResult<Json> chat_from_messages(const Json& request) {
  Json chat = Json::object();
  for (const char* key : {"model", "max_tokens", "temperature", "top_p", "top_k", "stream",
                          "thinking", "chat_template_kwargs", "seed"})
    if (const Json* value = find_set_member(request, key)) chat[key] = *value;
  if (const Json* stop = find_set_member(request, "stop_sequences")) chat["stop"] = *stop;
  M3_TRY(chat["messages"], translate_messages(request));
  if (is_begun_answer(chat["messages"].back())) chat["continue_final_message"] = true;
  M3_TRY_STATUS(translate_format(request, chat));
  M3_TRY(const Json* tools, list_field(request, "tools"));
  if (tools != nullptr) {
    M3_TRY(chat["tools"], translate_tools(*tools));
  }
  M3_TRY(const Json* choice, object_field(request, "tool_choice"));
  if (choice != nullptr) M3_TRY_STATUS(translate_choice(*choice, chat));
  if (const Json* metadata = find_set_member(request, "metadata"))
    if (const std::string* user = find_string(*metadata, "user_id")) chat["user"] = *user;
  return chat;
}

}  // namespace m3
