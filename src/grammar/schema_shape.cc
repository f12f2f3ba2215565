#include "grammar/schema_shape.h"

#include <algorithm>
#include <unordered_set>

#include "grammar/dfa_filters.h"
#include "grammar/formats.h"

namespace m3 {
namespace {

// What has to be there: a model would have to write it to the end.
constexpr std::uint64_t kLeastMax = 100'000;

// One schema object being read.
class Reader {
 public:
  Reader(const SchemaRef& ref, Shape& shape) : ref_(ref), shape_(shape) {}

  Status read() {
    for (const auto& [key, value] : ref_.schema->items())
      if (const auto status = read_keyword(key, value); !status)
        return fail("{}: {}", ref_.where, status.error().message);
    finish_items();
    if (has_members_) shape_.members.push_back(std::move(members_));
    return {};
  }

 private:
  Status read_keyword(std::string_view key, const Json& value) {
    using Read = Status (Reader::*)(const Json&);
    struct Keyword {
      std::string_view name;
      Read read;
    };
    static constexpr Keyword kKeywords[] = {
        {"type", &Reader::read_type},
        {"enum", &Reader::read_enum},
        {"const", &Reader::read_const},
        {"minLength", &Reader::read_min_length},
        {"maxLength", &Reader::read_max_length},
        {"pattern", &Reader::read_pattern},
        {"format", &Reader::read_format},
        {"minimum", &Reader::read_minimum},
        {"maximum", &Reader::read_maximum},
        {"exclusiveMinimum", &Reader::read_exclusive_minimum},
        {"exclusiveMaximum", &Reader::read_exclusive_maximum},
        {"multipleOf", &Reader::read_multiple_of},
        {"items", &Reader::read_items},
        {"prefixItems", &Reader::read_prefix_items},
        {"additionalItems", &Reader::read_additional_items},
        {"minItems", &Reader::read_min_items},
        {"maxItems", &Reader::read_max_items},
        {"uniqueItems", &Reader::read_unique_items},
        {"properties", &Reader::read_properties},
        {"patternProperties", &Reader::read_pattern_properties},
        {"additionalProperties", &Reader::read_additional_properties},
        {"required", &Reader::read_required},
        {"minProperties", &Reader::read_min_properties},
        {"maxProperties", &Reader::read_max_properties},
    };
    static constexpr std::string_view kUnsupported[] = {
        "not",
        "if",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "contains",
        "propertyNames",
        "unevaluatedProperties",
        "$dynamicRef",
        "$recursiveRef",
        "unevaluatedItems",
    };
    key_ = key;
    for (const Keyword& keyword : kKeywords)
      if (keyword.name == key) return (this->*keyword.read)(value);
    if (std::find(std::begin(kUnsupported), std::end(kUnsupported), key) != std::end(kUnsupported))
      return fail("'{}' is not supported", key);
    return {};
  }

  tl::unexpected<Error> must_be(std::string_view what, const Json& value) const {
    return fail("'{}' must be {}, it is {}", key_, what, kind_name(value));
  }

  Status read_type(const Json& value) {
    if (value.is_string()) return limit_types(Json::array({value}));
    if (!value.is_array() || value.empty()) return must_be("a type or a list of types", value);
    return limit_types(value);
  }

  Status limit_types(const Json& names) {
    struct Name {
      std::string_view name;
      unsigned types;
    };
    static constexpr Name kNames[] = {
        {"null", Shape::kNull},     {"boolean", Shape::kBoolean},
        {"string", Shape::kString}, {"integer", Shape::kInteger},
        {"array", Shape::kArray},   {"number", Shape::kInteger | Shape::kFraction},
        {"object", Shape::kObject},
    };
    unsigned types = 0;
    for (const Json& name : names) {
      const auto known = std::find_if(std::begin(kNames), std::end(kNames),
                                      [&](const Name& one) { return name == one.name; });
      if (known == std::end(kNames))
        return fail("'type' {} is no type of JSON Schema", python_json(name));
      types |= known->types;
    }
    shape_.types &= types;
    return {};
  }

  Status read_enum(const Json& value) {
    if (!value.is_array()) return must_be("a list", value);
    std::vector<const Json*> values;
    for (const Json& one : value) values.push_back(&one);
    return limit_values(std::move(values));
  }

  Status read_const(const Json& value) { return limit_values({&value}); }

  Status limit_values(std::vector<const Json*> values) {
    if (shape_.values) {
      constexpr std::size_t kComparisonsMax = 100'000;
      if (values.size() * shape_.values->size() > kComparisonsMax)
        return fail("'{}' has too many values to be compared with another one", key_);
      std::erase_if(values, [&](const Json* value) {
        return std::none_of(shape_.values->begin(), shape_.values->end(),
                            [&](const Json* other) { return *other == *value; });
      });
    }
    shape_.values = std::move(values);
    return {};
  }

  // A number of things. What is beyond 64 bits is no limit.
  Result<std::uint64_t> count(const Json& value) {
    const Decimal number = value.is_number() || is_integer(value) ? decimal_of(value) : Decimal();
    if (!(value.is_number() || is_integer(value)) || number.negative || !number.is_integer())
      return fail("'{}' must be a whole number that is not negative, it is {}", key_,
                  value.is_structured() ? std::string(kind_name(value)) : python_json(value));
    return number.whole.size() > 18 ? kNoLimit
           : number.whole.empty()   ? 0
                                    : std::stoull(number.whole);
  }

  Status raise(const Json& value, std::uint64_t& least) {
    M3_TRY(const std::uint64_t given, count(value));
    if (given > kLeastMax) return fail("'{}' above {} is not supported", key_, kLeastMax);
    least = std::max(least, given);
    return {};
  }

  Status lower(const Json& value, std::uint64_t& greatest) {
    M3_TRY(const std::uint64_t given, count(value));
    greatest = std::min(greatest, given);
    return {};
  }

  Status read_min_length(const Json& value) { return raise(value, shape_.string.length_min); }
  Status read_max_length(const Json& value) { return lower(value, shape_.string.length_max); }
  Status read_min_items(const Json& value) { return raise(value, shape_.items_min); }
  Status read_max_items(const Json& value) { return lower(value, shape_.items_max); }
  Status read_min_properties(const Json& value) { return raise(value, shape_.members_min); }
  Status read_max_properties(const Json& value) { return lower(value, shape_.members_max); }

  Result<TextRule> rule_of(const std::string& pattern) {
    auto regex = parse_regex(pattern);
    if (!regex) return fail("'{}' {}: {}", key_, python_json(Json(pattern)), regex.error().message);
    return TextRule{std::move(*regex), false, "search " + pattern};
  }

  Status read_pattern(const Json& value) {
    if (!value.is_string()) return must_be("a string", value);
    M3_TRY(TextRule rule, rule_of(value.get_ref<const std::string&>()));
    add_rule(std::move(rule));
    return {};
  }

  Status read_format(const Json& value) {
    if (!value.is_string()) return must_be("a string", value);
    const auto& format = value.get_ref<const std::string&>();
    const auto pattern = format_pattern(format);
    if (!pattern) return {};
    M3_TRY(Regex regex, parse_regex(*pattern));
    add_rule({std::move(regex), true, "format " + format});
    return {};
  }

  void add_rule(TextRule rule) {
    auto& rules = shape_.string.rules;
    const bool known = std::any_of(rules.begin(), rules.end(),
                                   [&](const TextRule& other) { return other.key == rule.key; });
    if (!known) rules.push_back(std::move(rule));
  }

  Result<Decimal> read_number(const Json& value) {
    if (!value.is_number() && !is_integer(value)) return must_be("a number", value);
    return decimal_of(value);
  }

  Status add_least(const Json& value, bool exclusive) {
    M3_TRY(Decimal least, read_number(value));
    auto& known = shape_.number.least;
    const int order = known ? compare(least, known->value) : 1;
    if (order > 0 || (order == 0 && exclusive)) known = {std::move(least), exclusive};
    return {};
  }

  Status add_greatest(const Json& value, bool exclusive) {
    M3_TRY(Decimal greatest, read_number(value));
    auto& known = shape_.number.greatest;
    const int order = known ? compare(greatest, known->value) : -1;
    if (order < 0 || (order == 0 && exclusive)) known = {std::move(greatest), exclusive};
    return {};
  }

  Status read_minimum(const Json& value) { return add_least(value, false); }
  Status read_maximum(const Json& value) { return add_greatest(value, false); }
  Status read_exclusive_minimum(const Json& value) { return add_least(value, true); }
  Status read_exclusive_maximum(const Json& value) { return add_greatest(value, true); }

  Status read_multiple_of(const Json& value) {
    M3_TRY(Decimal divisor, read_number(value));
    if (divisor.negative || divisor == Decimal())
      return fail("'multipleOf' must be above 0, it is {}", python_json(value));
    if (!MultipleFilter::can_divide_by(divisor))
      return fail("'multipleOf' {} is not supported", python_json(value));
    auto& known = shape_.number.divisors;
    if (std::find(known.begin(), known.end(), divisor) == known.end())
      known.push_back(std::move(divisor));
    return {};
  }

  SchemaRef inner(std::string_view key, const Json& schema) const {
    return {&schema, member_place(ref_.where, key)};
  }

  Status read_list_of_items(const Json& value) {
    for (std::size_t i = 0; i < value.size(); ++i)
      items_.prefix.push_back({&value[i], item_place(member_place(ref_.where, key_), i)});
    return {};
  }

  // Older drafts give a list here, and "additionalItems" for the rest.
  Status read_items(const Json& value) {
    has_items_ = true;
    items_are_listed_ = value.is_array();
    if (value.is_array()) return read_list_of_items(value);
    items_.rest = inner("items", value);
    return {};
  }
  Status read_prefix_items(const Json& value) {
    if (!value.is_array()) return must_be("a list", value);
    has_items_ = true;
    return read_list_of_items(value);
  }
  Status read_additional_items(const Json& value) {
    additional_items_ = inner("additionalItems", value);
    return {};
  }
  void finish_items() {
    if (items_are_listed_) items_.rest = std::move(additional_items_);
    if (has_items_) shape_.items.push_back(std::move(items_));
  }

  Status read_unique_items(const Json& value) {
    if (!value.is_boolean()) return must_be("true or false", value);
    if (value.get<bool>()) return fail("'uniqueItems' is not supported");
    return {};
  }

  Status read_properties(const Json& value) {
    if (!value.is_object()) return must_be("an object", value);
    has_members_ = members_.declares = true;
    for (const auto& [name, schema] : value.items()) {
      members_.names.push_back(name);
      members_.named.emplace(
          name, SchemaRef{&schema, member_place(member_place(ref_.where, "properties"), name)});
    }
    return {};
  }

  Status read_pattern_properties(const Json& value) {
    if (!value.is_object()) return must_be("an object", value);
    has_members_ = members_.declares = true;
    for (const auto& [pattern, schema] : value.items()) {
      M3_TRY(TextRule rule, rule_of(pattern));
      const std::string where = member_place(member_place(ref_.where, key_), pattern);
      members_.patterns.push_back({std::move(rule), {&schema, where}});
    }
    return {};
  }

  Status read_additional_properties(const Json& value) {
    has_members_ = true;
    members_.others = inner("additionalProperties", value);
    return {};
  }

  Status read_required(const Json& value) {
    if (!value.is_array()) return must_be("a list of names", value);
    std::unordered_set<std::string> known(shape_.required.begin(), shape_.required.end());
    for (const Json& name : value) {
      if (!name.is_string()) return must_be("a list of names", value);
      if (known.insert(name.get<std::string>()).second) shape_.required.push_back(name);
    }
    return {};
  }

  const SchemaRef& ref_;
  Shape& shape_;
  std::string_view key_;  // the keyword that is being read
  Shape::Items items_;
  std::optional<SchemaRef> additional_items_;
  bool has_items_ = false, items_are_listed_ = false;
  Shape::Members members_;
  bool has_members_ = false;
};

}  // namespace

Status read_shape(const SchemaRef& schema, Shape& shape) {
  return Reader(schema, shape).read();
}

std::size_t Shape::units() const {
  std::size_t units = 20 * required.size() + (values ? 50 * values->size() : 0);
  for (const TextRule& rule : string.rules) units += 10 * rule.key.size();
  for (const Items& one : items) units += 50 * one.prefix.size();
  for (const Members& one : members) {
    units += 50 * one.names.size();
    for (const Members::Pattern& pattern : one.patterns) units += 10 * pattern.rule.key.size();
  }
  return units;
}

// Names have any length, and there is a place for each schema.
std::string member_place(const std::string& where, std::string_view key) {
  constexpr std::size_t kKeyMax = 64, kPlaceMax = 400;
  if (where.size() > kPlaceMax) return where;
  return fmt::format("{}.{}{}", where, key.substr(0, kKeyMax), key.size() > kKeyMax ? "..." : "");
}

std::string item_place(const std::string& where, std::size_t index) {
  return fmt::format("{}[{}]", where, index);
}

}  // namespace m3
