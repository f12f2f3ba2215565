#include <algorithm>

#include "grammar/compile.h"
#include "grammar/schema_compiler.h"

namespace m3 {
namespace {

// The parts of a block that all calls share.
struct Marks {
  NodeId name_space, line_end;
};

Result<std::string> opening_tag(const std::string& name) {
  if (name.find_first_of("\"<>\n") != name.npos)
    return fail("the name {} cannot be written in a call", python_json(Json(name)));
  return fmt::format("<invoke name=\"{}\">", name);
}

// From behind the opening tag to the end of the closing one.
Result<NodeId> call_of(const Json& function, const std::string& place, const Notation& notation,
                       NodeId name_space, GrammarBuilder& builder) {
  const Json none = {{"type", "object"}, {"properties", Json::object()}};
  const Json any_object = {{"type", "object"}};
  const Json* parameters = find_set_member(function, "parameters");
  if (parameters == nullptr) parameters = &none;
  const SchemaRef root{parameters, member_place(place, "parameters")};
  const SchemaRef object{&any_object, root.where};
  M3_TRY(const NodeId members, SchemaCompiler(root, notation, builder).compile(&object));
  M3_TRY(const NodeId close, builder.literal("</invoke>"));
  return builder.sequence({members, name_space, close});
}

Result<NodeId> calls_of(const Json& tools, const ToolCalls& calls, const ControlIds& ids,
                        const Marks& marks, GrammarBuilder& builder) {
  const auto notation = element_notation(ids);
  std::vector<std::string> tags;
  std::vector<NodeId> targets;
  for (std::size_t i = 0; i < tools.size(); ++i) {
    const std::string place = fmt::format("tools[{}].function", i);
    const Json* function = find_member(tools[i], "function");
    const std::string* name = function == nullptr ? nullptr : find_string(*function, "name");
    if (name == nullptr) return fail("{} needs a \"name\"", place);
    if (!calls.name.empty() && *name != calls.name) continue;
    auto tag = opening_tag(*name);
    if (!tag) return fail("{}: {}", place, tag.error().message);
    M3_TRY(const NodeId target, call_of(*function, place, *notation, marks.name_space, builder));
    tags.push_back(std::move(*tag));
    targets.push_back(target);
  }
  if (tags.empty() && !calls.name.empty())
    return fail("there is no tool with the name {}", python_json(Json(calls.name)));
  if (tags.empty()) return fail("there are no tools to call");
  M3_TRY(const NodeId call, builder.words(tags, std::move(targets)));
  return builder.sequence({marks.name_space, call, marks.line_end});
}

}  // namespace

Result<Grammar> tool_grammar(const Json& tools, const ToolCalls& calls, const ControlIds& ids) {
  GrammarBuilder builder;
  Marks marks{};
  M3_TRY(marks.name_space, builder.token(ids.name_space));
  M3_TRY(marks.line_end, builder.pattern("\\n?"));
  M3_TRY(const NodeId call, calls_of(tools, calls, ids, marks, builder));
  M3_TRY(const NodeId all,
         builder.add(RepeatNode{
             .item = call, .min = 1, .max = calls.parallel ? RepeatNode::kUnlimited : 1}));
  M3_TRY(const NodeId begin, builder.token(ids.tool_call_begin));
  M3_TRY(const NodeId end, builder.token(ids.tool_call_end));
  M3_TRY(const NodeId block,
         builder.sequence({marks.name_space, begin, marks.line_end, all, marks.name_space, end}));
  auto grammar = std::move(builder).finish(block);
  if (!grammar) return fail("tools: {}", grammar.error().message);
  return grammar;
}

}  // namespace m3
