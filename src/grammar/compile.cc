#include "grammar/compile.h"

#include "grammar/schema_compiler.h"

namespace m3 {
namespace {

// Puts the place in front of an error that does not know it.
template <typename T>
Result<T> located(Result<T> result, std::string_view where) {
  if (!result) return fail("{}: {}", where, result.error().message);
  return result;
}

}  // namespace

Result<Grammar> schema_grammar(const Json& schema, std::string_view where) {
  GrammarBuilder builder;
  const SchemaRef root{&schema, std::string(where)};
  const auto notation = json_notation();
  M3_TRY(const NodeId node, SchemaCompiler(root, *notation, builder).compile());
  return located(std::move(builder).finish(node), where);
}

Result<Grammar> json_object_grammar() {
  return schema_grammar(Json{{"type", "object"}}, "json_object");
}

Result<Grammar> regex_grammar(std::string_view pattern, std::string_view where) {
  GrammarBuilder builder;
  M3_TRY(const NodeId node, located(builder.pattern(pattern), where));
  return located(std::move(builder).finish(node), where);
}

Result<Grammar> choice_grammar(const std::vector<std::string>& choices, std::string_view where) {
  if (choices.empty()) return fail("{}: there is nothing to choose from", where);
  GrammarBuilder builder;
  M3_TRY(const NodeId node, located(builder.words(choices), where));
  return located(std::move(builder).finish(node), where);
}

}  // namespace m3
