#include "text/chat_content.h"

#include "text/control_strings.h"

namespace m3 {
namespace {

using namespace control;

bool has_type(const Json& part, std::string_view type) {
  const std::string* found = find_string(part, "type");
  return found != nullptr && *found == type;
}

// The placeholder that a media part stands for; empty for other parts.
std::string_view placeholder(const Json& part) {
  if (has_type(part, "image")) return kImage;
  if (has_type(part, "video")) return kVideo;
  return {};
}

void add_visible_part(Prompt& prompt, const Json& part) {
  if (part.is_string()) return prompt.add_client(python_str(part));
  prompt.add_template(placeholder(part));
  if (!has_type(part, "text")) return;
  if (const Json* text = find_member(part, "text")) prompt.add_client(python_str(*text));
}

// `range` without the line feeds at its ends.
TextRange strip_line_feeds(std::string_view text, TextRange range) {
  while (range.begin < range.end && text[range.begin] == '\n') ++range.begin;
  while (range.begin < range.end && text[range.end - 1] == '\n') --range.end;
  return range;
}

Prompt slice(const Prompt& source, TextRange range) {
  Prompt part;
  part.add_slice(source, range);
  return part;
}

// Content that still holds think tags, as the model wrote it (spec: §2.5).
AssistantText split_thinking(const Prompt& whole) {
  const std::string_view text = whole.text();
  const std::size_t closer = text.find(kThinkEnd);
  if (closer == text.npos) return {{}, whole};
  TextRange reasoning = strip_line_feeds(text, {0, closer});
  const std::size_t opener = text.substr(0, reasoning.end).rfind(kThinkBegin);
  if (opener != text.npos && opener >= reasoning.begin)
    reasoning = strip_line_feeds(text, {opener + kThinkBegin.size(), reasoning.end});
  const std::size_t answer = text.rfind(kThinkEnd) + kThinkEnd.size();
  return {slice(whole, reasoning), slice(whole, strip_line_feeds(text, {answer, text.size()}))};
}

void add_value(Prompt& prompt, const Json& value);

// NS<tag> value NS</tag>. The name is the client's when it is a key.
void add_element(Prompt& prompt, const std::string* key, const Json& value) {
  const auto add_tag = [&](std::string_view opening) {
    prompt.add_template(kNamespace, opening);
    if (key != nullptr) {
      prompt.add_client(*key);
    } else {
      prompt.add_template("item");
    }
    prompt.add_template(">");
  };
  add_tag("<");
  add_value(prompt, value);
  add_tag("</");
}

void add_members(Prompt& prompt, const Json::object_t& members) {
  for (const auto& [key, value] : members)
    if (!value.is_null()) add_element(prompt, &key, value);
}

void add_value(Prompt& prompt, const Json& value) {
  if (const auto* members = value.get_ptr<const Json::object_t*>()) {
    add_members(prompt, *members);
  } else if (const auto* elements = value.get_ptr<const Json::array_t*>()) {
    for (const Json& element : *elements) add_element(prompt, nullptr, element);
  } else if (value.is_boolean()) {
    prompt.add_client(python_json(value));
  } else if (!value.is_null()) {
    prompt.add_client(python_str(value));
  }
}

Status add_tool_call(Prompt& prompt, const Json& call) {
  const Json* wrapped = find_member(call, "function");
  const Json& function = wrapped != nullptr && is_truthy(*wrapped) ? *wrapped : call;
  const std::string* name = find_string(function, "name");
  if (name == nullptr) return fail("needs a \"name\" that is a string");
  const Json* arguments = find_member(function, "arguments");
  if (arguments == nullptr || !arguments->is_object())
    return fail("needs \"arguments\" that are an object, they are {}",
                arguments == nullptr ? "missing" : kind_name(*arguments));
  prompt.add_template(kNamespace, "<invoke name=\"");
  prompt.add_client(*name);
  prompt.add_template("\">");
  add_members(prompt, *arguments->get_ptr<const Json::object_t*>());
  prompt.add_template(kNamespace, "</invoke>\n");
  return {};
}

void add_tool_part(Prompt& prompt, const Json& part) {
  if (const std::string_view media = placeholder(part); !media.empty())
    return prompt.add_template(media);
  const Json* shown = find_member(part, "output");
  if (shown == nullptr && has_type(part, "text")) shown = find_member(part, "text");
  prompt.add_client(python_str(shown != nullptr ? *shown : part));
}

}  // namespace

bool is_truthy(const Json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  if (value.is_number()) return value != 0;
  return !value.empty();
}

void add_visible_text(Prompt& prompt, const Json& content) {
  if (content.is_null()) return;
  const auto* parts = content.get_ptr<const Json::array_t*>();
  if (parts == nullptr) return prompt.add_client(python_str(content));
  for (const Json& part : *parts) add_visible_part(prompt, part);
}

AssistantText assistant_text(const Json& message) {
  Prompt content;
  if (const Json* given = find_member(message, "content")) add_visible_text(content, *given);
  const std::string* reasoning = find_string(message, "reasoning_content");
  if (reasoning == nullptr) return split_thinking(content);
  Prompt verbatim;
  verbatim.add_client(*reasoning);
  return {std::move(verbatim), std::move(content)};
}

Status add_tool_calls(Prompt& prompt, const Json& calls) {
  if (!calls.is_array()) return fail("\"tool_calls\" must be a list, it is {}", kind_name(calls));
  prompt.add_template(kNamespace, kToolCallBegin, "\n");
  for (std::size_t i = 0; i < calls.size(); ++i)
    if (auto status = add_tool_call(prompt, calls[i]); !status)
      return fail("tool_calls[{}] {}", i, status.error().message);
  prompt.add_template(kNamespace, kToolCallEnd);
  return {};
}

Status add_tool_content(Prompt& prompt, const Json& content) {
  if (content.is_null()) return {};
  if (content.is_string()) {
    prompt.add_client(content.get_ref<const std::string&>());
    return {};
  }
  if (const auto* members = content.get_ptr<const Json::object_t*>()) {
    // The template's loop over an object sees its keys.
    for (const auto& [key, value] : *members) prompt.add_client(key);
    return {};
  }
  const auto* parts = content.get_ptr<const Json::array_t*>();
  if (parts == nullptr)
    return fail("\"content\" must be a string or a list, it is {}", kind_name(content));
  for (const Json& part : *parts) add_tool_part(prompt, part);
  return {};
}

}  // namespace m3
