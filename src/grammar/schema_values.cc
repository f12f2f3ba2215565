// The second half of the compiler: from what the schemas of a value say together to its node.
#include <algorithm>
#include <unordered_set>

#include "grammar/lexemes.h"
#include "grammar/schema_compiler.h"

namespace m3 {
namespace {

unsigned type_of(const Json& value) {
  if (value.is_null()) return Shape::kNull;
  if (value.is_boolean()) return Shape::kBoolean;
  if (value.is_string()) return Shape::kString;
  if (value.is_array()) return Shape::kArray;
  if (value.is_object()) return Shape::kObject;
  return decimal_of(value).is_integer() ? Shape::kInteger : Shape::kFraction;
}

}  // namespace

Result<SchemaCompiler::Options> SchemaCompiler::shaped(const Shape& shape) {
  M3_TRY_STATUS(builder_.budget().spend(shape.units()));
  if (shape.values) return constants(shape);
  Options options;
  const auto add = [&](Result<NodeId> option) -> Status {
    if (!option) return pass(std::move(option));
    options.push_back(*option);
    return {};
  };
  if ((shape.types & Shape::kString) && shape.string.length_min <= shape.string.length_max)
    M3_TRY_STATUS(add(notation_.string(shape.string, builder_)));
  if (shape.types & (Shape::kInteger | Shape::kFraction)) {
    NumberPlan plan = shape.number;
    plan.integer = (shape.types & Shape::kFraction) == 0;
    M3_TRY_STATUS(add(number(plan, builder_)));
  }
  if (shape.types & Shape::kBoolean) M3_TRY_STATUS(add(builder_.words({"true", "false"})));
  if (shape.types & Shape::kNull) M3_TRY_STATUS(add(builder_.literal("null")));
  if ((shape.types & Shape::kArray) && shape.items_min <= shape.items_max)
    M3_TRY_STATUS(add(array(shape)));
  if (shape.types & Shape::kObject) M3_TRY_STATUS(add(object(shape)));
  return options;
}

Result<SchemaCompiler::Options> SchemaCompiler::constants(const Shape& shape) {
  Options options;
  std::vector<std::string> scalars;
  for (const Json* value : *shape.values) {
    M3_TRY(const bool fits, fits_shape(*value, shape));
    if (!fits) continue;
    if (value->is_structured()) {
      M3_TRY(const NodeId option, notation_.constant(*value, builder_));
      options.push_back(option);
    } else {
      scalars.push_back(notation_.scalar(*value));
    }
  }
  if (!scalars.empty()) {
    M3_TRY(const NodeId words, builder_.words(scalars));
    options.push_back(words);
  }
  return options;
}

Result<bool> SchemaCompiler::fits_shape(const Json& value, const Shape& shape) {
  const unsigned type = type_of(value);
  if ((type & shape.types) == 0) return false;
  if (type == Shape::kString)
    return fits(value.get_ref<const std::string&>(), shape.string, builder_);
  if (type == Shape::kInteger || type == Shape::kFraction)
    return fits(decimal_of(value), shape.number);
  const bool ruled = type == Shape::kArray ? !shape.items.empty()
                                           : !shape.members.empty() || !shape.required.empty();
  if (value.is_structured() && ruled)
    return fail("'enum' or 'const' with {} beside keywords for it is not supported",
                kind_name(value));
  const auto within = [&](std::uint64_t min, std::uint64_t max) {
    return value.size() >= min && value.size() <= max;
  };
  if (type == Shape::kArray) return within(shape.items_min, shape.items_max);
  return type != Shape::kObject || within(shape.members_min, shape.members_max);
}

Result<NodeId> SchemaCompiler::array(const Shape& shape) {
  std::size_t prefix = 0;
  for (const Shape::Items& items : shape.items) prefix = std::max(prefix, items.prefix.size());
  const auto item = [&](std::size_t at) {
    std::vector<SchemaRef> schemas;
    for (const Shape::Items& items : shape.items) {
      if (at < items.prefix.size()) {
        schemas.push_back(items.prefix[at]);
      } else if (items.rest) {
        schemas.push_back(*items.rest);
      }
    }
    return node_of(schemas);
  };
  ArrayPlan plan{.min = shape.items_min, .max = shape.items_max};
  for (std::size_t i = 0; i < prefix; ++i) {
    M3_TRY(const NodeId node, item(i));
    plan.prefix.push_back(node);
  }
  M3_TRY(plan.rest, item(prefix));
  return notation_.array(plan, builder_);
}

Result<NodeId> SchemaCompiler::object(const Shape& shape) {
  ObjectPlan plan;
  std::unordered_set<std::string> known;
  const std::unordered_set<std::string> required(shape.required.begin(), shape.required.end());
  const auto add = [&](const std::string& name) -> Status {
    if (!known.insert(name).second) return {};
    M3_TRY(const NodeId value, member(shape, name));
    plan.members.push_back({name, value, required.contains(name)});
    return {};
  };
  for (const Shape::Members& members : shape.members)
    for (const std::string& name : members.names) M3_TRY_STATUS(add(name));
  for (const std::string& name : shape.required) M3_TRY_STATUS(add(name));
  M3_TRY(plan.extras, extras(shape));
  if (shape.members_min > required.size()) return fail("'minProperties' is not supported here");
  if (shape.members_max != kNoLimit &&
      (!plan.extras.empty() || shape.members_max < plan.members.size()))
    return fail("'maxProperties' is not supported here");
  return notation_.object(plan, builder_);
}

// The value of a member that some schema names or requires.
Result<NodeId> SchemaCompiler::member(const Shape& shape, const std::string& name) {
  M3_TRY_STATUS(builder_.budget().spend(10 * shape.members.size()));
  std::vector<SchemaRef> schemas;
  for (const Shape::Members& members : shape.members) {
    const std::size_t before = schemas.size();
    const auto named = members.named.find(name);
    if (named != members.named.end()) schemas.push_back(named->second);
    for (const auto& pattern : members.patterns) {
      M3_TRY_STATUS(builder_.budget().spend(20 + name.size()));
      M3_TRY(const bool match, matches(name, pattern.rule, builder_));
      if (match) schemas.push_back(pattern.schema);
    }
    if (schemas.size() == before && members.others) schemas.push_back(*members.others);
  }
  return node_of(schemas);
}

// An object that declares members has no others, unless additionalProperties asks for them: models
// do better without, and this is what other servers do.
Result<std::vector<ObjectPlan::Extra>> SchemaCompiler::extras(const Shape& shape) {
  std::vector<SchemaRef> others;
  std::vector<Shape::Members::Pattern> patterns;
  bool declares = false;
  for (const Shape::Members& members : shape.members) {
    declares = declares || members.declares;
    if (members.others) others.push_back(*members.others);
    patterns.insert(patterns.end(), members.patterns.begin(), members.patterns.end());
  }
  constexpr std::size_t kPatternsMax = 20;
  if (patterns.size() > kPatternsMax)
    return fail("'patternProperties' of more than {} patterns is not supported", kPatternsMax);
  if (!patterns.empty() && shape.members.size() > 1)
    return fail("'patternProperties' of one schema among several is not supported");
  std::vector<ObjectPlan::Extra> extras;
  std::vector<TextRule> rules;
  for (const auto& pattern : patterns) rules.push_back(pattern.rule);
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    ObjectPlan::Extra extra{.rule = rules[i], .others = rules};
    extra.others.erase(extra.others.begin() + static_cast<std::ptrdiff_t>(i));
    M3_TRY(extra.value, node_of({patterns[i].schema}));
    extras.push_back(std::move(extra));
  }
  if (declares && others.empty()) return extras;
  ObjectPlan::Extra rest{.rule = std::nullopt, .others = std::move(rules)};
  M3_TRY(rest.value, node_of(others));
  extras.push_back(std::move(rest));
  return extras;
}

}  // namespace m3
