#include "server/constraint.h"

#include <algorithm>

#include "grammar/compile.h"
#include "grammar/output_constraint.h"

namespace m3 {
namespace {

using GrammarPointer = std::shared_ptr<const Grammar>;

// The engine's view of an output constraint.
class EngineConstraint final : public TokenConstraint {
 public:
  EngineConstraint(OutputConstraint constraint, std::size_t words)
      : constraint_(std::move(constraint)), bits_(words) {}

  // The model's vocabulary may be longer or shorter than the tokenizer's.
  bool allowed(std::span<std::uint64_t> bits) override {
    if (!constraint_.allowed(bits_)) return false;
    const std::size_t both = std::min(bits.size(), bits_.size());
    std::copy_n(bits_.begin(), both, bits.begin());
    std::fill(bits.begin() + static_cast<std::ptrdiff_t>(both), bits.end(), 0);
    return true;
  }
  void accept(std::int32_t id) override { constraint_.accept(id); }

 private:
  OutputConstraint constraint_;
  std::vector<std::uint64_t> bits_;
};

ApiResult<GrammarPointer> shared(Result<Grammar> grammar, std::string_view where) {
  if (!grammar) return tl::unexpected(ApiError(400, grammar.error().message, std::string(where)));
  return std::make_shared<const Grammar>(std::move(*grammar));
}

ApiResult<GrammarPointer> of_schema(const Json& schema, std::string_view where) {
  return shared(schema_grammar(schema, where), where);
}

// {"type": "text" | "json_object" | "json_schema", "json_schema": {"schema"}}
ApiResult<GrammarPointer> response_format(const Json& request) {
  M3_TRY(const Json* format, object_field(request, "response_format"));
  if (format == nullptr) return GrammarPointer();
  const std::string* type = find_string(*format, "type");
  if (type != nullptr && *type == "text") return GrammarPointer();
  if (type != nullptr && *type == "json_object") {
    if (const Json* schema = find_set_member(*format, "schema"))  // llama.cpp's form
      return of_schema(*schema, "response_format.schema");
    return shared(json_object_grammar(), "response_format");
  }
  if (type == nullptr || *type != "json_schema")
    return refuse("response_format",
                  "must be of type \"text\", \"json_object\" or \"json_schema\"");
  const Json* outer = find_set_member(*format, "json_schema");
  const Json* schema = outer == nullptr ? nullptr : find_set_member(*outer, "schema");
  if (schema == nullptr)
    return refuse("response_format", "needs \"json_schema\": {{\"schema\": ...}}");
  return of_schema(*schema, "response_format.json_schema.schema");
}

// A schema given as JSON or as a string that holds JSON.
ApiResult<GrammarPointer> of_schema_or_text(const Json& given, const std::string& where) {
  if (!given.is_string()) return of_schema(given, where);
  const auto parsed = parse_json(given.get<std::string>());
  if (!parsed) return refuse(where, "holds no JSON: {}", parsed.error().message);
  return of_schema(*parsed, where);
}

ApiResult<GrammarPointer> of_choices(const Json& request, const char* key,
                                     const std::string& where) {
  M3_TRY(const auto choices, strings_field(request, key));
  return shared(choice_grammar(choices, where), where);
}

// vLLM's fields: inside "structured_outputs", or with "guided_" in front.
ApiResult<GrammarPointer> structured(const Json& object, const std::string& prefix,
                                     const std::string& where) {
  for (const char* kind : {"json", "regex", "choice", "grammar", "json_object"}) {
    const std::string key = prefix + kind;
    const Json* value = find_set_member(object, key);
    if (value == nullptr || *value == false) continue;
    const std::string place = where + key;
    if (kind == std::string_view("json")) return of_schema_or_text(*value, place);
    if (kind == std::string_view("choice")) return of_choices(object, key.c_str(), place);
    if (kind == std::string_view("json_object")) return shared(json_object_grammar(), place);
    if (kind == std::string_view("grammar"))
      return refuse(place,
                    "is not supported by this server: give a JSON schema, a regular "
                    "expression or choices");
    M3_TRY(const auto pattern, string_field(object, key));
    if (!pattern) return refuse(place, "must be a string");
    return shared(regex_grammar(*pattern, place), place);
  }
  return GrammarPointer();
}

// An answer has one form: of two, one would be passed over in silence.
ApiStatus check_one_form(const Json& request) {
  std::string first;
  for (const char* key :
       {"response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
        "guided_grammar", "guided_json_object", "json_schema", "regex", "grammar", "ebnf"}) {
    const Json* value = find_set_member(request, key);
    if (value == nullptr || *value == false || *value == Json{{"type", "text"}}) continue;
    if (!first.empty())
      return refuse(key, "and \"{}\" are both given: an answer has one form", first);
    first = key;
  }
  return {};
}

ApiResult<GrammarPointer> read_content(const Json& request) {
  M3_TRY_STATUS(check_one_form(request));
  M3_TRY(GrammarPointer found, response_format(request));
  if (found) return found;
  M3_TRY(const Json* outputs, object_field(request, "structured_outputs"));
  if (outputs != nullptr) {
    M3_TRY(found, structured(*outputs, "", "structured_outputs."));
    if (found) return found;
    return refuse("structured_outputs",
                  "must have one of \"json\", \"regex\", \"choice\" and "
                  "\"json_object\"");
  }
  M3_TRY(found, structured(request, "guided_", ""));
  if (found) return found;
  if (const Json* schema = find_set_member(request, "json_schema"))
    return of_schema_or_text(*schema, "json_schema");
  M3_TRY(const auto regex, string_field(request, "regex"));
  if (regex) return shared(regex_grammar(*regex, "regex"), "regex");
  for (const char* key : {"grammar", "ebnf"})
    if (find_set_member(request, key) != nullptr)
      return refuse(key,
                    "is not supported by this server: give a JSON schema, a regular "
                    "expression or choices");
  return GrammarPointer();
}

bool any_strict(const Json& tools) {
  return std::ranges::any_of(tools, [](const Json& tool) {
    const Json* strict = find_set_member(tool["function"], "strict");
    return strict != nullptr && *strict == true;
  });
}

// Calls are held to the tools where they are demanded, where they are one of two forms that an
// answer may have, or where a tool asks for it.
ApiResult<GrammarPointer> read_tools(const ConstraintContext& context, bool demanded,
                                     const Tokenizer& tokenizer) {
  if (context.choice.mode == ToolChoice::Mode::kNone) return GrammarPointer();
  if (!demanded && context.choice.parallel && !any_strict(context.tools)) return GrammarPointer();
  M3_TRY(const ControlIds ids, find_control_ids(tokenizer));
  const ToolCalls calls{.parallel = context.choice.parallel, .name = context.choice.name};
  return shared(tool_grammar(context.tools, calls, ids), "tools");
}

OutputRules::Begin begin_of(OutputState state) {
  switch (state) {
    case OutputState::kStart:
      return OutputRules::Begin::kStart;
    case OutputState::kReasoning:
      return OutputRules::Begin::kReasoning;
    default:
      return OutputRules::Begin::kContent;
  }
}

}  // namespace

ApiResult<MakeConstraint> read_constraint(const Json& request, const ConstraintContext& context,
                                          const ServedModel& model) {
  OutputRules rules{.begin = begin_of(context.begin)};
  rules.tools_required = context.choice.mode == ToolChoice::Mode::kRequired ||
                         context.choice.mode == ToolChoice::Mode::kNamed;
  M3_TRY(rules.content, read_content(request));
  M3_TRY(rules.tools,
         read_tools(context, rules.tools_required || rules.content != nullptr, *model.tokenizer));
  if (!rules.content && !rules.tools) return MakeConstraint();
  M3_TRY(OutputConstraint first, OutputConstraint::make(rules, *model.vocabulary));
  return MakeConstraint([first = std::move(first), words = model.vocabulary->mask_words()] {
    return std::make_unique<EngineConstraint>(first, words);
  });
}

}  // namespace m3
