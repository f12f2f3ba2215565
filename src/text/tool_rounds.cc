#include "text/tool_rounds.h"

#include <algorithm>
#include <utility>

namespace m3 {
namespace {

// A field as text: ids are strings, but some clients count.
std::string text_of(const Json& value, std::string_view field) {
  const Json* member = find_set_member(value, field);
  return member == nullptr ? "" : python_str(*member);
}

}  // namespace

void ToolRounds::begin(const Json& calls) {
  calls_.clear();
  for (const Json& call : calls)
    calls_.push_back({text_of(call, "id"), text_of(call.at("function"), "name"), Json()});
}

Status ToolRounds::answer(const Json& message, Json result) {
  if (calls_.empty())
    return fail("there is no assistant message with a tool call before this tool result");
  const std::string id = text_of(message, "tool_call_id");
  const std::string name = text_of(message, "name");
  if (id.empty() && name.empty())
    return fail("a tool result needs the \"tool_call_id\" of the call that it answers");
  bool answered = false;
  for (Call& call : calls_) {
    if (id.empty() ? call.name != name : call.id != id) continue;
    answered = true;
    if (!call.result.is_null()) continue;
    call.result = std::move(result);
    return {};
  }
  const std::string which =
      id.empty() ? "\"name\" " + python_json(name) : "\"tool_call_id\" " + python_json(id);
  if (answered) return fail("{} has a result already", which);
  return fail("{} is no call of the assistant message before it", which);
}

bool ToolRounds::any_answered() const {
  return std::ranges::any_of(calls_, [](const Call& call) { return !call.result.is_null(); });
}

Status ToolRounds::finish(Json::array_t& turns) {
  for (Call& call : std::exchange(calls_, {})) {
    if (call.result.is_null())
      return fail("the call {} of the assistant message before has no tool result",
                  python_json(call.id.empty() ? call.name : call.id));
    turns.push_back(std::move(call.result));
  }
  return {};
}

}  // namespace m3
