#include "text/normalise.h"

#include "text/message_content.h"
#include "text/thinking.h"
#include "text/tool_rounds.h"

namespace m3 {
namespace {

enum class Role { kRoot, kSystem, kUser, kAssistant, kTool };

Result<Role> role_of(const Json& message) {
  constexpr std::string_view kRoles = "root, system, developer, user, assistant or tool";
  if (find_set_member(message, "role") == nullptr)
    return fail("\"role\" is missing, expected {}", kRoles);
  const std::string* role = find_string(message, "role");
  if (role == nullptr) return fail("\"role\" must be a string");
  if (*role == "root") return Role::kRoot;
  if (*role == "system" || *role == "developer") return Role::kSystem;
  if (*role == "user") return Role::kUser;
  if (*role == "assistant") return Role::kAssistant;
  if (*role == "tool" || *role == "function") return Role::kTool;
  return fail("\"role\" must be {}, it is {}", kRoles, python_json(*role));
}

// The list while it grows.
class Conversation {
 public:
  Status add(Json message) {
    if (!message.is_object()) return fail("must be an object, it is {}", kind_name(message));
    M3_TRY(const Role role, role_of(message));
    switch (role) {
      case Role::kRoot:
        return add_instructions(root_, message);
      case Role::kSystem:
        return add_instructions(system_, message);
      case Role::kUser:
        return add_user(message);
      case Role::kAssistant:
        M3_TRY_STATUS(rounds_.finish(turns_));
        return add_assistant(message);
      case Role::kTool:
        return add_result(message);
    }
    return {};
  }

  Result<Json> finish(LastCalls last_calls) && {
    if (last_calls == LastCalls::kAnswered || rounds_.any_answered())
      M3_TRY_STATUS(rounds_.finish(turns_));
    if (!late_.empty()) add_turn("user", std::exchange(late_, Json::array()));
    Json messages = Json::array();
    if (!root_.empty()) messages.push_back(message_of("root", std::move(root_)));
    if (!system_.empty()) messages.push_back(message_of("system", std::move(system_)));
    for (Json& turn : turns_) messages.push_back(std::move(turn));
    return messages;
  }

 private:
  // Contents are lists of parts here, so that joining them is appending.
  Status add_instructions(Json& block, Json& message) {
    M3_TRY(Json parts, content_parts(message));
    append_paragraph(has_turns_ ? late_ : block, std::move(parts));
    return {};
  }

  Status add_user(Json& message) {
    M3_TRY_STATUS(rounds_.finish(turns_));
    M3_TRY(Json parts, content_parts(message));
    if (!late_.empty()) {
      Json before = std::exchange(late_, Json::array());
      append_paragraph(before, std::move(parts));
      parts = std::move(before);
    }
    add_turn("user", std::move(parts));
    return {};
  }

  Status add_assistant(Json& message) {
    M3_TRY(Json reasoning, take_reasoning(message));
    M3_TRY(Json parts, content_parts(message));
    Json turn = message_of("assistant", std::move(parts));
    // An empty string would keep the template from splitting content that holds think tags (E8).
    if (reasoning.is_string() && reasoning != "") turn["reasoning_content"] = std::move(reasoning);
    M3_TRY(Json calls, take_tool_calls(message));
    rounds_.begin(calls);
    if (!calls.empty()) turn["tool_calls"] = std::move(calls);
    has_turns_ = true;
    turns_.push_back(std::move(turn));
    return {};
  }

  Status add_result(Json& message) {
    M3_TRY(Json parts, content_parts(message));
    has_turns_ = true;
    return rounds_.answer(message, message_of("tool", std::move(parts)));
  }

  void add_turn(std::string_view role, Json parts) {
    has_turns_ = true;
    turns_.push_back(message_of(role, std::move(parts)));
  }

  static Json message_of(std::string_view role, Json parts) {
    Json message = Json::object();
    message["role"] = role;
    message["content"] = std::move(parts);
    return message;
  }

  Json root_ = Json::array();
  Json system_ = Json::array();
  Json late_ = Json::array();  // system messages that wait for a user turn
  Json::array_t turns_;
  ToolRounds rounds_;
  bool has_turns_ = false;
};

Result<Json> normalise_tool(Json tool) {
  if (!tool.is_object()) return fail("must be an object, it is {}", kind_name(tool));
  if (const Json* type = find_set_member(tool, "type"); type != nullptr && *type != "function")
    return fail("must be of type \"function\", it is {}", python_json(*type));
  if (find_member(tool, "function") == nullptr) {
    tool.erase("type");
    Json wrapped = {{"type", "function"}};
    wrapped["function"] = std::move(tool);
    tool = std::move(wrapped);
  }
  const std::string* name = find_string(*find_member(tool, "function"), "name");
  if (name == nullptr || name->empty()) return fail("needs a function with a \"name\"");
  return tool;
}

}  // namespace

Result<Json> normalise_messages(Json messages, LastCalls last_calls) {
  auto* list = messages.get_ptr<Json::array_t*>();
  if (list == nullptr) return fail("\"messages\" must be a list, it is {}", kind_name(messages));
  if (list->empty()) return fail("\"messages\" is empty, at least one is needed");
  Conversation conversation;
  for (std::size_t i = 0; i < list->size(); ++i)
    if (auto status = conversation.add(std::move((*list)[i])); !status)
      return fail("messages[{}]: {}", i, status.error().message);
  return std::move(conversation).finish(last_calls);
}

Result<Json> normalise_tools(Json tools) {
  if (tools.is_null()) return tools;
  auto* list = tools.get_ptr<Json::array_t*>();
  if (list == nullptr) return fail("\"tools\" must be a list, it is {}", kind_name(tools));
  for (std::size_t i = 0; i < list->size(); ++i) {
    auto tool = normalise_tool(std::move((*list)[i]));
    if (!tool) return fail("tools[{}]: {}", i, tool.error().message);
    (*list)[i] = std::move(*tool);
  }
  return tools;
}

Result<ChatInput> read_chat_input(const Json& request, LastCalls last_calls) {
  ChatInput input;
  const Json* messages = find_member(request, "messages");
  if (messages == nullptr) return fail("needs \"messages\"");
  M3_TRY(input.messages, normalise_messages(*messages, last_calls));
  if (const Json* tools = find_set_member(request, "tools")) {
    M3_TRY(input.tools, normalise_tools(*tools));
  }
  M3_TRY(input.thinking_mode, thinking_mode_from(request));
  if (const Json* mode = find_set_member(request, "thinking_mode")) {
    if (*mode != "enabled" && *mode != "disabled" && *mode != "adaptive")
      return fail("thinking_mode must be \"enabled\", \"disabled\" or \"adaptive\", it is {}",
                  python_json(*mode));
    input.thinking_mode = mode->get<std::string>();
  }
  return input;
}

}  // namespace m3
