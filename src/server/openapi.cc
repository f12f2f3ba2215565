#include "server/openapi.h"

namespace m3 {
namespace {

// Fields that several requests share.
constexpr const char* kSampling = R"({
  "temperature": {"type": "number", "minimum": 0, "maximum": 2},
  "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
  "top_k": {"type": "integer", "minimum": -1},
  "min_p": {"type": "number", "minimum": 0, "maximum": 1},
  "repetition_penalty": {"type": "number", "exclusiveMinimum": 0},
  "repeat_penalty": {"type": "number", "exclusiveMinimum": 0},
  "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
  "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
  "logit_bias": {"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}},
  "allowed_token_ids": {"type": "array", "items": {"type": "integer"}},
  "seed": {"type": "integer"},
  "n": {"type": "integer", "minimum": 1},
  "max_tokens": {"type": "integer", "minimum": 0},
  "min_tokens": {"type": "integer", "minimum": 0},
  "ignore_eos": {"type": "boolean"},
  "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
  "stop_token_ids": {"type": "array", "items": {"type": "integer"}},
  "include_stop_str_in_output": {"type": "boolean"},
  "skip_special_tokens": {"type": "boolean"},
  "bad_words": {"type": "array", "items": {"type": "string"}},
  "prompt_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
  "return_token_ids": {"type": "boolean"},
  "return_tokens_as_token_ids": {"type": "boolean"},
  "stream": {"type": "boolean"},
  "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}, "continuous_usage_stats": {"type": "boolean"}}},
  "structured_outputs": {"type": "object", "properties": {"json": {}, "regex": {"type": "string"}, "choice": {"type": "array", "items": {"type": "string"}}}},
  "guided_json": {}, "guided_regex": {"type": "string"},
  "guided_choice": {"type": "array", "items": {"type": "string"}},
  "user": {"type": "string"},
  "model": {"type": "string"}
})";

constexpr const char* kTemplate = R"({
  "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role"], "properties": {
    "role": {"enum": ["root", "system", "developer", "user", "assistant", "tool", "function"]},
    "content": {"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "array", "items": {"type": "object"}}]},
    "reasoning_content": {"type": ["string", "null"]},
    "tool_calls": {"type": "array", "items": {"type": "object"}},
    "tool_call_id": {"type": "string"}}}},
  "tools": {"type": "array", "items": {"type": "object"}},
  "chat_template_kwargs": {"type": "object", "properties": {
    "thinking_mode": {"enum": ["enabled", "disabled", "adaptive"]}, "enable_thinking": {"type": "boolean"}}},
  "thinking": {"type": "object", "properties": {"type": {"enum": ["enabled", "disabled", "adaptive"]}}},
  "reasoning_effort": {"type": "string"},
  "continue_final_message": {"type": "boolean"},
  "add_generation_prompt": {"type": "boolean"}
})";

constexpr const char* kChat = R"({
  "max_completion_tokens": {"type": "integer", "minimum": 0},
  "logprobs": {"type": "boolean"},
  "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
  "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]},
  "parallel_tool_calls": {"type": "boolean"},
  "response_format": {"type": "object", "required": ["type"], "properties": {
    "type": {"enum": ["text", "json_object", "json_schema"]}, "json_schema": {"type": "object", "properties": {"schema": {"type": "object"}}}}},
  "json_schema": {},
  "regex": {"type": "string"},
  "functions": {"type": "array", "items": {"type": "object"}},
  "function_call": {"anyOf": [{"enum": ["none", "auto"]}, {"type": "object"}]},
  "include_reasoning": {"type": "boolean"},
  "separate_reasoning": {"type": "boolean"},
  "reasoning_format": {"enum": ["auto", "deepseek", "none"]}
})";

constexpr const char* kCompletion = R"({
  "prompt": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}}]},
  "echo": {"type": "boolean"},
  "logprobs": {"type": "integer", "minimum": 0, "maximum": 20}
})";

constexpr const char* kMessages = R"({
  "model": {"type": "string"},
  "max_tokens": {"type": "integer", "minimum": 0},
  "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role", "content"]}},
  "system": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
  "stop_sequences": {"type": "array", "items": {"type": "string"}},
  "temperature": {"type": "number"}, "top_p": {"type": "number"}, "top_k": {"type": "integer"},
  "stream": {"type": "boolean"},
  "thinking": {"type": "object"},
  "tools": {"type": "array", "items": {"type": "object", "required": ["name", "input_schema"]}},
  "tool_choice": {"type": "object", "properties": {"type": {"enum": ["auto", "any", "tool", "none"]}, "name": {"type": "string"}, "disable_parallel_tool_use": {"type": "boolean"}}},
  "output_config": {"type": "object", "properties": {"format": {"type": "object", "required": ["type", "schema"], "properties": {"type": {"const": "json_schema"}, "schema": {"type": "object"}}}}},
  "metadata": {"type": "object"}
})";

constexpr const char* kResponses = R"({
  "model": {"type": "string"},
  "input": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
  "instructions": {"type": "string"},
  "max_output_tokens": {"type": "integer", "minimum": 0},
  "temperature": {"type": "number"}, "top_p": {"type": "number"},
  "reasoning": {"type": "object", "properties": {"effort": {"type": "string"}}},
  "text": {"type": "object", "properties": {"format": {"type": "object", "properties": {
    "type": {"enum": ["text", "json_object", "json_schema"]}, "name": {"type": "string"}, "schema": {"type": "object"}, "strict": {"type": "boolean"}}}}},
  "tools": {"type": "array", "items": {"type": "object"}},
  "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]},
  "parallel_tool_calls": {"type": "boolean"},
  "stream": {"type": "boolean"}
})";

constexpr const char* kTokenize = R"({
  "prompt": {"type": "string"}, "content": {"type": "string"},
  "parse_special": {"type": "boolean"}, "return_token_strs": {"type": "boolean"}, "with_pieces": {"type": "boolean"}
})";

constexpr const char* kDetokenize =
    R"({"tokens": {"type": "array", "items": {"type": "integer"}}})";

Json properties(std::initializer_list<const char*> texts) {
  Json all = Json::object();
  for (const char* text : texts) all.update(Json::parse(text));
  return {{"type", "object"}, {"properties", std::move(all)}};
}

Json with_required(Json schema, std::initializer_list<const char*> names) {
  schema["required"] = names;
  return schema;
}

Json described(const char* text, const char* type = "application/json") {
  return {{"description", text}, {"content", {{type, Json::object()}}}};
}

Json operation(const char* summary, const char* type = "application/json") {
  return {{"summary", summary},
          {"responses",
           {{"200", described("The answer.", type)},
            {"default", described("An error: what is wrong, and where.")}}}};
}

Json get(const char* summary, const char* type = "application/json") {
  return {{"get", operation(summary, type)}};
}

Json post(const char* summary, Json schema) {
  Json what = operation(summary);
  what["requestBody"] = {{"required", true},
                         {"content", {{"application/json", {{"schema", std::move(schema)}}}}}};
  return {{"post", std::move(what)}};
}

}  // namespace

Json openapi_description(const std::string& version) {
  Json paths = Json::object();
  for (const char* path : {"/health", "/ping"}) paths[path] = get("Whether the server is up.");
  paths["/load"] = get("How many requests the server has.");
  paths["/version"] = get("The server's version.");
  paths["/metrics"] = get("Counters, as Prometheus reads them.", "text/plain");
  paths["/openapi.json"] = get("This description.");
  paths["/v1/models"] = get("The models and adapters that are served, and their limits.");
  paths["/v1/models/{model}"] = get("One of them.");
  paths["/v1/models/{model}"]["get"]["parameters"] = Json::array(
      {{{"name", "model"}, {"in", "path"}, {"required", true}, {"schema", {{"type", "string"}}}}});
  paths["/v1/chat/completions"] =
      post("A chat's next message; with \"stream\", as server-sent events.",
           with_required(properties({kSampling, kTemplate, kChat}), {"messages"}));
  paths["/v1/completions"] = post("The continuation of a text or of token ids.",
                                  with_required(properties({kSampling, kCompletion}), {"prompt"}));
  paths["/v1/responses"] = post("OpenAI's responses, without memory of earlier ones.",
                                with_required(properties({kResponses}), {"input"}));
  paths["/v1/messages"] = post("Anthropic's messages.",
                               with_required(properties({kMessages}), {"messages", "max_tokens"}));
  paths["/v1/messages/count_tokens"] = post("The tokens of such a request's prompt.",
                                            with_required(properties({kMessages}), {"messages"}));
  paths["/tokenize"] =
      post("Token ids of a text or of a chat.", properties({kTokenize, kTemplate}));
  paths["/detokenize"] =
      post("The text of token ids.", with_required(properties({kDetokenize}), {"tokens"}));
  paths["/apply-template"] =
      post("The prompt of a chat.", with_required(properties({kTemplate}), {"messages"}));
  return {
      {"openapi", "3.1.0"},
      {"info", {{"title", "m3 serve"}, {"version", version}}},
      {"components", {{"securitySchemes", {{"key", {{"type", "http"}, {"scheme", "bearer"}}}}}}},
      {"security", Json::array({{{"key", Json::array()}}, Json::object()})},
      {"paths", std::move(paths)}};
}

}  // namespace m3
