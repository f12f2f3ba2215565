#include "server/tool_choice.h"

#include <algorithm>

namespace m3 {
namespace {

bool has_tool(const Json& tools, const std::string& name) {
  return std::ranges::any_of(tools, [&](const Json& tool) {
    const std::string* named = find_string(tool["function"], "name");
    return named != nullptr && *named == name;
  });
}

// {"type": "function", "function": {"name"}} or {"type": "function", "name"}.
const std::string* chosen_name(const Json& choice) {
  const Json* function = find_set_member(choice, "function");
  return find_string(function != nullptr ? *function : choice, "name");
}

ApiResult<ToolChoice::Mode> mode_of(const std::string& word) {
  if (word == "none") return ToolChoice::Mode::kNone;
  if (word == "auto") return ToolChoice::Mode::kAuto;
  if (word == "required" || word == "any") return ToolChoice::Mode::kRequired;
  return refuse("tool_choice",
                "must be \"none\", \"auto\", \"required\" or name a function, it is \"{}\"",
                word.substr(0, 100));
}

// An earlier answer's "function_call", as a tool's.
void modernise(Json& message) {
  const Json* call = find_set_member(message, "function_call");
  if (call == nullptr || find_set_member(message, "tool_calls") != nullptr) return;
  message["tool_calls"] = Json::array({{{"type", "function"}, {"function", *call}}});
  message.erase("function_call");
}

}  // namespace

ApiResult<ToolChoice> read_tool_choice(const Json& request, const Json& tools) {
  const bool any = tools.is_array() && !tools.empty();
  ToolChoice result{.mode = any ? ToolChoice::Mode::kAuto : ToolChoice::Mode::kNone};
  M3_TRY(const auto parallel, bool_field(request, "parallel_tool_calls"));
  result.parallel = parallel.value_or(true);
  const Json* choice = find_set_member(request, "tool_choice");
  if (choice == nullptr) return result;
  if (choice->is_string()) {
    M3_TRY(result.mode, mode_of(choice->get<std::string>()));
  } else {
    const std::string* name = chosen_name(*choice);
    if (name == nullptr)
      return refuse("tool_choice", "must be a word, or an object that names a function");
    result.mode = ToolChoice::Mode::kNamed;
    result.name = *name;
    if (any && !has_tool(tools, *name))
      return refuse("tool_choice", "names \"{}\", which is not among the tools",
                    name->substr(0, 100));
  }
  const bool demands =
      result.mode == ToolChoice::Mode::kRequired || result.mode == ToolChoice::Mode::kNamed;
  if (demands && !any) return refuse("tool_choice", "demands a call, but there are no tools");
  if (!any) result.mode = ToolChoice::Mode::kNone;
  return result;
}

ApiResult<Json> with_modern_tools(Json request) {
  M3_TRY(const Json* functions, list_field(request, "functions"));
  if (functions != nullptr && find_set_member(request, "tools") == nullptr) {
    Json tools = Json::array();
    for (const Json& function : *functions)
      tools.push_back({{"type", "function"}, {"function", function}});
    request["tools"] = std::move(tools);
  }
  const Json* call = find_set_member(request, "function_call");
  if (call != nullptr && find_set_member(request, "tool_choice") == nullptr)
    request["tool_choice"] =
        call->is_string() ? Json(*call) : Json{{"type", "function"}, {"function", *call}};
  if (const auto messages = request.find("messages");
      messages != request.end() && messages->is_array())
    for (Json& message : *messages) modernise(message);
  return request;
}

}  // namespace m3
