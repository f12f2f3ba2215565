#include "grammar/schema_compiler.h"

#include <algorithm>
#include <set>

namespace m3 {
namespace {

// A step of a JSON pointer: ~1 is a slash, ~0 a tilde.
std::string pointer_key(std::string_view step) {
  std::string key;
  for (std::size_t i = 0; i < step.size(); ++i) {
    const std::string_view two = step.substr(i, 2);
    const bool escaped = two == "~0" || two == "~1";
    key += !escaped ? step[i] : two == "~0" ? '~' : '/';
    if (escaped) ++i;
  }
  return key;
}

}  // namespace

Result<NodeId> SchemaCompiler::compile(const SchemaRef* also) {
  Parts parts = {{Part::Kind::kWhole, root_}};
  if (also != nullptr) parts.push_back({Part::Kind::kWhole, *also});
  M3_TRY(const NodeId root, node_of(std::move(parts)));
  for (; !jobs_.empty(); jobs_.pop_front()) {
    const Job job = std::move(jobs_.front());
    M3_TRY(Options options, build(job.parts));
    builder_.define(job.node, ChoiceNode{std::move(options)});
  }
  return root;
}

Result<NodeId> SchemaCompiler::node_of(Parts parts) {
  Key key;
  for (const Part& part : parts) key.emplace_back(part.kind, part.ref.schema);
  M3_TRY_STATUS(builder_.budget().spend(50 * (1 + key.size())));
  const auto known = nodes_.find(key);
  if (known != nodes_.end()) return known->second;
  M3_TRY(const NodeId node, builder_.reserve());
  nodes_.emplace(std::move(key), node);
  jobs_.push_back({node, std::move(parts)});
  return node;
}

Result<NodeId> SchemaCompiler::node_of(const std::vector<SchemaRef>& schemas) {
  Parts parts;
  for (const SchemaRef& schema : schemas) parts.push_back({Part::Kind::kWhole, schema});
  return node_of(std::move(parts));
}

Result<SchemaCompiler::Options> SchemaCompiler::build(const Parts& parts) {
  M3_TRY(const Flat flat, flatten(parts));
  if (flat.impossible) return Options();
  Shape shape;
  if (flat.any_of.empty())
    for (const Part& part : flat.plain) M3_TRY_STATUS(read_shape(part.ref, shape));
  auto options = flat.any_of.empty() ? shaped(shape) : any_of(flat);
  const std::string& where = parts.empty() ? root_.where : parts[0].ref.where;
  if (!options) return fail("{}: {}", where, options.error().message);
  return options;
}

Result<SchemaCompiler::Flat> SchemaCompiler::flatten(const Parts& parts) {
  Flat flat;
  Parts todo = parts;
  std::set<std::pair<Part::Kind, const Json*>> met;
  for (std::size_t i = 0; i < todo.size() && !flat.impossible; ++i) {
    const Part part = todo[i];
    if (!met.emplace(part.kind, part.ref.schema).second) continue;
    if (const auto status = builder_.budget().spend(100 + 10 * part.ref.schema->size()); !status)
      return fail("{}: {}", part.ref.where, status.error().message);
    if (part.kind != Part::Kind::kWhole) {
      (part.kind == Part::Kind::kPlain ? flat.plain : flat.any_of).push_back(part);
    } else if (part.ref.schema->is_boolean()) {
      flat.impossible = !part.ref.schema->get<bool>();
    } else if (part.ref.schema->is_object()) {
      M3_TRY_STATUS(combine(part.ref, todo, flat));
    } else {
      return fail("{}: a schema must be an object, true or false, it is {}", part.ref.where,
                  kind_name(*part.ref.schema));
    }
  }
  return flat;
}

Status SchemaCompiler::combine(const SchemaRef& schema, Parts& todo, Flat& flat) {
  flat.plain.push_back({Part::Kind::kPlain, schema});
  if (const Json* reference = find_member(*schema.schema, "$ref")) {
    M3_TRY(SchemaRef target, resolve(schema, *reference));
    todo.push_back({Part::Kind::kWhole, std::move(target)});
  }
  for (const std::string_view key : {"allOf", "anyOf", "oneOf"}) {
    const Json* list = find_member(*schema.schema, key);
    if (list == nullptr) continue;
    if (!list->is_array() || list->empty())
      return fail("{}: '{}' must be a list of at least one schema, it is {}", schema.where, key,
                  list->is_array() ? "empty" : kind_name(*list));
    const std::string where = member_place(schema.where, key);
    if (key == "allOf") {
      for (std::size_t i = 0; i < list->size(); ++i)
        todo.push_back({Part::Kind::kWhole, {&(*list)[i], item_place(where, i)}});
    } else {
      todo.push_back({Part::Kind::kAnyOf, {list, where}});
    }
  }
  return {};
}

// "#" and JSON pointers into the root, "#/$defs/name".
Result<SchemaRef> SchemaCompiler::resolve(const SchemaRef& schema, const Json& reference) {
  const auto* text = reference.get_ptr<const std::string*>();
  if (text == nullptr)
    return fail("{}: '$ref' must be a string, it is {}", schema.where, kind_name(reference));
  const auto missing = [&] {
    return fail("{}: '$ref' {} leads to no part of this schema", schema.where,
                python_json(reference));
  };
  SchemaRef target = root_;
  if (*text == "#") return target;
  if (!text->starts_with("#/")) return missing();
  for (std::size_t at = 2; at <= text->size();) {
    const std::size_t end = std::min(text->find('/', at), text->size());
    const std::string key = pointer_key(std::string_view(*text).substr(at, end - at));
    at = end + 1;
    if (const auto status = builder_.budget().spend(10 + target.schema->size()); !status)
      return fail("{}: {}", schema.where, status.error().message);
    const Json* next = find_member(*target.schema, key);
    if (target.schema->is_array() && key.size() <= 9 && !key.empty() &&
        key.find_first_not_of("0123456789") == key.npos) {
      const auto index = static_cast<std::size_t>(std::stoul(key));
      if (index < target.schema->size()) next = &(*target.schema)[index];
    }
    if (next == nullptr) return missing();
    target = {next, member_place(target.where, key)};
  }
  return target;
}

// One alternative of the first list, with everything else: what is left of several lists is a list
// of parts again.
Result<SchemaCompiler::Options> SchemaCompiler::any_of(const Flat& flat) {
  Options options;
  const Part& first = flat.any_of[0];
  for (std::size_t i = 0; i < first.ref.schema->size(); ++i) {
    Parts parts = {{Part::Kind::kWhole, {&(*first.ref.schema)[i], item_place(first.ref.where, i)}}};
    parts.insert(parts.end(), flat.plain.begin(), flat.plain.end());
    parts.insert(parts.end(), flat.any_of.begin() + 1, flat.any_of.end());
    M3_TRY(const NodeId option, node_of(std::move(parts)));
    options.push_back(option);
  }
  return options;
}

}  // namespace m3
