#include "text/thinking.h"

#include <algorithm>
#include <array>

namespace m3 {
namespace {

using Mode = std::optional<std::string>;

// request.outer.inner, when both are there.
const Json* nested(const Json& request, std::string_view outer, std::string_view inner) {
  const Json* found = find_set_member(request, outer);
  return found == nullptr ? nullptr : find_set_member(*found, inner);
}

Result<Mode> named_mode(const Json* given, std::string_view field) {
  if (given == nullptr) return Mode();
  for (const std::string_view mode : {"enabled", "disabled", "adaptive"})
    if (*given == mode) return Mode(mode);
  return fail("\"{}\" must be \"enabled\", \"disabled\" or \"adaptive\", it is {}", field,
              python_json(*given));
}

// M3 has no grades of effort, only none and some.
Result<Mode> effort_mode(const Json& request) {
  const Json* effort = find_set_member(request, "reasoning_effort");
  if (effort == nullptr) effort = nested(request, "reasoning", "effort");
  if (effort == nullptr) return Mode();
  if (!effort->is_string())
    return fail("\"reasoning_effort\" must be a string, it is {}", kind_name(*effort));
  if (*effort == "none") return Mode("disabled");
  constexpr std::array<std::string_view, 6> kSome = {"minimal", "low",   "medium",
                                                     "high",    "xhigh", "max"};
  const bool some = std::any_of(kSome.begin(), kSome.end(),
                                [&](std::string_view known) { return *effort == known; });
  return some ? Mode("adaptive") : Mode();
}

Result<Mode> switch_mode(const Json* given) {
  if (given == nullptr) return Mode();
  if (!given->is_boolean())
    return fail("\"enable_thinking\" must be true or false, it is {}", kind_name(*given));
  return Mode(given->get<bool>() ? "enabled" : "disabled");
}

}  // namespace

Result<Mode> thinking_mode_from(const Json& request) {
  for (const std::string_view field : {"chat_template_kwargs", "thinking"})
    if (const Json* found = find_set_member(request, field);
        found != nullptr && !found->is_object())
      return fail("\"{}\" must be an object, it is {}", field, kind_name(*found));
  M3_TRY(const Mode mode, named_mode(nested(request, "chat_template_kwargs", "thinking_mode"),
                                     "chat_template_kwargs.thinking_mode"));
  M3_TRY(const Mode type, named_mode(nested(request, "thinking", "type"), "thinking.type"));
  M3_TRY(const Mode effort, effort_mode(request));
  M3_TRY(const Mode toggle,
         switch_mode(nested(request, "chat_template_kwargs", "enable_thinking")));
  if (effort == "disabled" && (mode == "enabled" || type == "enabled"))
    return fail("\"reasoning_effort\" is \"none\" while thinking is asked for");
  for (const Mode& wish : {mode, type, effort, toggle})
    if (wish) return wish;
  return Mode();
}

}  // namespace m3
