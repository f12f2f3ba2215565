#include "output/call_parser.h"

#include <fmt/format.h>

#include <random>
#include <utility>

#include "output/argument_scalar.h"
#include "output/marker_scanner.h"

namespace m3 {
namespace {

constexpr std::string_view kInvoke = "invoke";
constexpr std::string_view kToolCall = "tool_call";

// A name as the model writes it: in quotes of either kind, or bare.
std::string unquoted(std::string_view text) {
  text = trimmed(text);
  if (!text.empty() && (text.front() == '"' || text.front() == '\'')) {
    const std::size_t end = text.find(text.front(), 1);
    text = trimmed(text.substr(1, end == text.npos ? end : end - 1));
  }
  return std::string(text);
}

// The name in `invoke name=...`, empty when it is missing; nothing when this is another tag. A tag
// `invoke` alone may be a parameter of that name.
std::optional<std::string> invoked_name(std::string_view tag) {
  const std::string clean = without_zero_width(tag);
  std::string_view rest = clean;
  if (!rest.starts_with(kInvoke)) return std::nullopt;
  rest.remove_prefix(kInvoke.size());
  if (trimmed(rest.substr(0, 1)) == rest.substr(0, 1)) return std::nullopt;
  rest = trimmed(rest);
  if (!rest.starts_with("name")) return "";
  rest = trimmed(rest.substr(4));
  return rest.starts_with('=') ? unquoted(rest.substr(1)) : "";
}

}  // namespace

CallIds random_call_ids() {
  return [] {
    std::random_device random;
    std::string id = "call_";
    for (int word = 0; word < 3; ++word) id += fmt::format("{:08x}", random() & 0xFFFFFFFF);
    return id;
  };
}

bool closes_block(std::string_view tag) {
  return tag.starts_with('/') && without_zero_width(tag.substr(1)) == kToolCall;
}

CallParser::CallParser(Json tools, CallIds make_id)
    : tools_(std::move(tools)), make_id_(std::move(make_id)) {}

bool CallParser::tag(std::string_view tag, OutputEvents& events) {
  if (tag.starts_with('/')) return closing_tag(tag.substr(1), events);
  opening_tag(tag, events);
  return true;
}

bool CallParser::closing_tag(std::string_view name, OutputEvents& events) {
  if (closes_element(name)) {
    give_arguments(events);
    return true;
  }
  const std::string clean = without_zero_width(name);
  if (clean == kInvoke || clean == kToolCall) {
    end_call(events);
    return clean == kInvoke;
  }
  if (call_ && call_->in_string()) text(fmt::format("</{}>", name), events);
  return true;
}

// Parameters may be called "invoke" or "tool_call", so that open elements are asked first.
bool CallParser::closes_element(std::string_view name) {
  if (!call_ || junk_) return false;
  return call_->close(name) || call_->close(without_zero_width(name));
}

void CallParser::opening_tag(std::string_view tag, OutputEvents& events) {
  const bool in_string = call_ && !junk_ && call_->in_string();
  if (!in_string) {
    if (auto name = invoked_name(tag)) {
      end_call(events);
      if (!name->empty()) begin_call(std::move(*name), events);
      return;
    }
    if (!call_ || junk_ || call_->open(tag)) return;
  }
  text(fmt::format("<{}>", tag), events);
}

void CallParser::text(std::string_view text, OutputEvents& events) {
  if (!call_ || junk_) return;
  if (call_->in_element()) {
    call_->text(text);
    give_arguments(events);
  } else {
    junk_ = !trimmed(text).empty();
  }
}

void CallParser::finish(OutputEvents& events) {
  if (!call_) return;
  call_->abandon();
  give_arguments(events);
  append_event(events, {.kind = OutputEvent::Kind::kCallEnd, .call = calls_ - 1});
  call_.reset();
}

void CallParser::begin_call(std::string name, OutputEvents& events) {
  call_.emplace(parameters_of(name));
  junk_ = false;
  guard_ = {};
  append_event(events, {.kind = OutputEvent::Kind::kCallBegin,
                        .call = calls_++,
                        .id = make_id_(),
                        .name = std::move(name)});
}

void CallParser::end_call(OutputEvents& events) {
  if (!call_) return;
  call_->finish();
  give_arguments(events);
  append_event(events, {.kind = OutputEvent::Kind::kCallEnd, .call = calls_ - 1});
  call_.reset();
}

void CallParser::give_arguments(OutputEvents& events) {
  append_event(events, {.kind = OutputEvent::Kind::kArguments,
                        .text = guard_.pass(call_->take()),
                        .call = calls_ - 1});
}

ParameterSchema CallParser::parameters_of(std::string_view name) const {
  if (!tools_.is_array()) return {};
  for (const Json& tool : tools_) {
    const Json* function = find_member(tool, "function");
    const std::string* known = function == nullptr ? nullptr : find_string(*function, "name");
    if (known == nullptr || *known != name) continue;
    const Json* parameters = find_member(*function, "parameters");
    return parameters == nullptr ? ParameterSchema() : ParameterSchema(*parameters);
  }
  return {};
}

}  // namespace m3
