#include "text/message_content.h"

#include <array>

namespace m3 {
namespace {

// Where the text of each kind of part is.
struct TextPart {
  std::string_view type, field;
};
constexpr std::array<TextPart, 4> kTextParts = {{
    {"text", "text"},
    {"input_text", "text"},
    {"output_text", "text"},
    {"refusal", "refusal"},
}};

struct MediaPart {
  std::string_view type, media;
};
constexpr std::array<MediaPart, 6> kMediaParts = {{
    {"image", "image"},
    {"image_url", "image"},
    {"input_image", "image"},
    {"video", "video"},
    {"video_url", "video"},
    {"input_video", "video"},
}};

Json text_part(Json text) {
  Json part = {{"type", "text"}};
  part["text"] = std::move(text);
  return part;
}

bool is_thinking(const Json& part) {
  const std::string* type = find_string(part, "type");
  return type != nullptr && (*type == "thinking" || *type == "redacted_thinking");
}

Result<Json> normalise_part(Json part) {
  if (part.is_string()) return text_part(std::move(part));
  const std::string* type = find_string(part, "type");
  if (type == nullptr) return fail("needs a \"type\"");
  for (const TextPart& known : kTextParts) {
    if (*type != known.type) continue;
    const std::string* text = find_string(part, known.field);
    if (text == nullptr) return fail("needs \"{}\" that is a string", known.field);
    return text_part(*text);
  }
  for (const MediaPart& known : kMediaParts) {
    if (*type != known.type) continue;
    part["type"] = known.media;
    return part;
  }
  return fail("has the unknown type {}", python_json(*type));
}

std::string joined(const Json& list, std::string_view field) {
  std::string text;
  for (const Json& entry : list)
    if (const std::string* part = find_string(entry, field)) text += *part;
  return text;
}

Result<Json> read_arguments(const Json* given) {
  if (given == nullptr || *given == "") return Json::object();
  Json arguments = *given;
  if (given->is_string()) {
    auto read = parse_json(given->get_ref<const std::string&>());
    if (!read) return fail("\"arguments\" are not valid: {}", read.error().message);
    arguments = std::move(*read);
  }
  if (!arguments.is_object())
    return fail("\"arguments\" must be an object, they are {}", kind_name(arguments));
  return arguments;
}

Result<Json> normalise_call(const Json& call) {
  const Json* function = find_set_member(call, "function");
  if (function == nullptr) function = &call;
  const std::string* name = find_string(*function, "name");
  if (name == nullptr || name->empty()) return fail("needs a function with a \"name\"");
  M3_TRY(Json arguments, read_arguments(find_set_member(*function, "arguments")));
  Json made = Json::object();
  if (const Json* id = find_set_member(call, "id")) made["id"] = *id;
  made["type"] = "function";
  made["function"] = {{"name", *name}};
  made["function"]["arguments"] = std::move(arguments);
  return made;
}

}  // namespace

Result<Json> content_parts(Json& message) {
  Json parts = Json::array();
  const auto content = message.find("content");
  if (content == message.end() || content->is_null() || *content == "") return parts;
  if (content->is_string()) {
    parts.push_back(text_part(std::move(*content)));
    return parts;
  }
  if (!content->is_array())
    return fail("\"content\" must be a string or a list of parts, it is {}", kind_name(*content));
  for (std::size_t i = 0; i < content->size(); ++i) {
    if (is_thinking((*content)[i])) continue;
    auto part = normalise_part(std::move((*content)[i]));
    if (!part) return fail("content[{}] {}", i, part.error().message);
    parts.push_back(std::move(*part));
  }
  return parts;
}

void append_paragraph(Json& parts, Json more) {
  if (!parts.empty() && !more.empty()) parts.push_back(text_part("\n\n"));
  for (Json& part : more) parts.push_back(std::move(part));
}

Result<Json> take_reasoning(const Json& message) {
  for (const std::string_view field : {"reasoning_content", "reasoning"}) {
    const Json* given = find_set_member(message, field);
    if (given == nullptr) continue;
    if (!given->is_string())
      return fail("\"{}\" must be a string, it is {}", field, kind_name(*given));
    return *given;
  }
  if (const Json* details = find_set_member(message, "reasoning_details"))
    return Json(joined(*details, "text"));
  const Json* content = find_member(message, "content");
  if (content == nullptr || !content->is_array()) return Json();
  return Json(joined(*content, "thinking"));
}

Result<Json> take_tool_calls(Json& message) {
  Json made = Json::array();
  const Json* calls = find_set_member(message, "tool_calls");
  if (calls == nullptr) return made;
  if (!calls->is_array()) return fail("\"tool_calls\" must be a list, it is {}", kind_name(*calls));
  for (std::size_t i = 0; i < calls->size(); ++i) {
    auto call = normalise_call((*calls)[i]);
    if (!call) return fail("tool_calls[{}] {}", i, call.error().message);
    made.push_back(std::move(*call));
  }
  return made;
}

}  // namespace m3
