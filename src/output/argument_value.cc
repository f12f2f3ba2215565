#include "output/argument_value.h"

#include <algorithm>
#include <unordered_map>

#include "output/argument_scalar.h"

namespace m3 {
namespace {

using Kind = ParameterSchema::Kind;

std::size_t depth_of(const Json& value) {
  std::size_t deepest = 0;
  if (value.is_structured())
    for (const Json& member : value) deepest = std::max(deepest, depth_of(member));
  return deepest + (value.is_structured() ? 1 : 0);
}

bool only_items(const ArgumentNode& node) {
  return std::all_of(node.children.begin(), node.children.end(),
                     [](const ArgumentNode& child) { return child.key == "item"; });
}

// An array that is written value by value.
class ArrayText {
 public:
  void add(const std::string& value) {
    text_ += text_.empty() ? "[" : ",";
    text_ += value;
  }
  std::string finish() && { return (text_.empty() ? "[" : text_) + "]"; }

 private:
  std::string text_;
};

// An object whose members may come twice.
class ObjectText {
 public:
  void add(const std::string& key, std::string value) {
    const auto [place, fresh] = places_.emplace(key, members_.size());
    if (fresh) members_.push_back({key, {}});
    members_[place->second].values.push_back(std::move(value));
  }
  bool has(const std::string& key) const { return places_.contains(key); }
  std::string finish() && {
    std::string text = "{";
    for (const Member& member : members_) {
      if (text.size() > 1) text += ',';
      text += json_quoted(member.key) + ":" + value_of(member);
    }
    return text + "}";
  }

 private:
  struct Member {
    std::string key;
    std::vector<std::string> values;
  };
  static std::string value_of(const Member& member) {
    if (member.values.size() == 1) return member.values.front();
    ArrayText array;
    for (const std::string& value : member.values) array.add(value);
    return std::move(array).finish();
  }

  std::vector<Member> members_;
  std::unordered_map<std::string, std::size_t> places_;
};

// Two ways of converting call one another: try_* gives nothing where the schema and the value do
// not fit, and so chooses among the alternatives of a union; *_anyhow always gives a value.
class Converter {
 public:
  explicit Converter(std::size_t depth) : outer_(depth) {}

  std::string convert_anyhow(const ArgumentNode& node, const ParameterSchema& schema) {
    const Inside inside(depth_);
    if (node.children.empty()) return text_anyhow(node.text, schema);
    switch (schema.kind()) {
      case Kind::kObject:
        return object_anyhow(node, schema);
      case Kind::kArray:
        return array_anyhow(node, schema);
      case Kind::kUnion:
        return union_anyhow(node, schema);
      default:
        return only_items(node) ? array_anyhow(node, {}) : object_anyhow(node, {});
    }
  }

 private:
  // Counts how deep the value being converted lies.
  struct Inside {
    explicit Inside(std::size_t& counter) : depth(counter) { ++depth; }
    ~Inside() { --depth; }
    std::size_t& depth;
  };

  std::string text_anyhow(std::string_view text, const ParameterSchema& schema) {
    if (schema.kind() == Kind::kString || schema.kind() == Kind::kUnknown) return json_quoted(text);
    if (auto value = try_text(text, schema)) return *value;
    return is_word(trimmed(text), "null") ? "null" : json_quoted(text);
  }

  std::string object_anyhow(const ArgumentNode& node, const ParameterSchema& schema) {
    ObjectText object;
    for (const ArgumentNode& child : node.children)
      object.add(child.key, convert_anyhow(child, schema.member(child.key)));
    if (!node.loose_text.empty()) object.add("$text", json_quoted(node.loose_text));
    return std::move(object).finish();
  }

  std::string array_anyhow(const ArgumentNode& node, const ParameterSchema& schema) {
    ArrayText array;
    for (std::size_t i = 0; i < node.children.size(); ++i)
      array.add(convert_anyhow(node.children[i], schema.element(i)));
    return std::move(array).finish();
  }

  std::string union_anyhow(const ArgumentNode& node, const ParameterSchema& schema) {
    const auto alternatives = schema.alternatives();
    for (const ParameterSchema& alternative : alternatives)
      if (auto value = try_convert(node, alternative)) return *value;
    const Kind wanted = only_items(node) ? Kind::kArray : Kind::kObject;
    for (const ParameterSchema& alternative : alternatives)
      if (alternative.kind() == wanted) return convert_anyhow(node, alternative);
    return convert_anyhow(node, {});
  }

  // Alternatives inside alternatives multiply, so that what is tried for one value is limited.
  // Beyond that no alternative fits any more.
  MaybeJson try_convert(const ArgumentNode& node, const ParameterSchema& schema) {
    constexpr std::size_t kCostMax = 1 << 23;  // about bytes read
    constexpr std::size_t kCostOfStep = 128;
    cost_ += kCostOfStep + node.text.size();
    if (cost_ > kCostMax) return std::nullopt;
    const Inside inside(depth_);
    MaybeJson value = node.children.empty() ? try_text(node.text, schema) : try_tree(node, schema);
    return value && schema.admits(*value) ? value : std::nullopt;
  }

  MaybeJson try_text(std::string_view text, const ParameterSchema& schema) {
    const std::string_view word = trimmed(text);
    switch (schema.kind()) {
      case Kind::kUnknown:
      case Kind::kString:
        return json_quoted(text);
      case Kind::kInteger:
        return integer_json(word);
      case Kind::kNumber:
        return number_json(word);
      case Kind::kBoolean:
        return boolean_json(word);
      case Kind::kNull:
        return word.empty() || is_word(word, "null") ? MaybeJson("null") : std::nullopt;
      case Kind::kObject:
        return word.empty() ? MaybeJson("{}") : try_json(word, schema.kind());
      case Kind::kArray:
        return word.empty() ? MaybeJson("[]") : try_json(word, schema.kind());
      case Kind::kUnion:
        return try_text_of_union(text, schema);
    }
    return std::nullopt;
  }

  // "null" is null wherever null is allowed, although a string could be spelled so.
  MaybeJson try_text_of_union(std::string_view text, const ParameterSchema& schema) {
    const auto alternatives = schema.alternatives();
    const bool nullable =
        std::any_of(alternatives.begin(), alternatives.end(),
                    [](const ParameterSchema& one) { return one.kind() == Kind::kNull; });
    if (nullable && is_word(trimmed(text), "null")) return "null";
    ArgumentNode node;
    node.text = text;
    for (const ParameterSchema& alternative : alternatives)
      if (auto value = try_convert(node, alternative)) return value;
    return std::nullopt;
  }

  // A value that the model wrote as JSON instead of elements. Depth counts twice, since repeated
  // keys put an array around a value at any level.
  MaybeJson try_json(std::string_view text, Kind kind) {
    const auto value = parse_json(text);
    if (!value || (kind == Kind::kObject ? !value->is_object() : !value->is_array()))
      return std::nullopt;
    if (outer_ + 2 * depth_ + depth_of(*value) > kJsonDepthMax) return std::nullopt;
    return std::string(text);
  }

  MaybeJson try_tree(const ArgumentNode& node, const ParameterSchema& schema) {
    switch (schema.kind()) {
      case Kind::kUnknown:
        return convert_anyhow(node, schema);
      case Kind::kObject:
        return try_object(node, schema);
      case Kind::kArray:
        return try_array(node, schema);
      case Kind::kUnion:
        return try_tree_of_union(node, schema);
      default:
        return std::nullopt;
    }
  }

  MaybeJson try_object(const ArgumentNode& node, const ParameterSchema& schema) {
    if (only_items(node) && !schema.declares("item")) return std::nullopt;
    ObjectText object;
    for (const ArgumentNode& child : node.children) {
      auto value = try_convert(child, schema.member(child.key));
      if (!value || object.has(child.key)) return std::nullopt;
      object.add(child.key, std::move(*value));
    }
    for (const std::string_view key : schema.required())
      if (!object.has(std::string(key))) return std::nullopt;
    if (!node.loose_text.empty()) return std::nullopt;
    return std::move(object).finish();
  }

  MaybeJson try_array(const ArgumentNode& node, const ParameterSchema& schema) {
    if (!only_items(node)) return std::nullopt;
    ArrayText array;
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      auto value = try_convert(node.children[i], schema.element(i));
      if (!value) return std::nullopt;
      array.add(std::move(*value));
    }
    return std::move(array).finish();
  }

  MaybeJson try_tree_of_union(const ArgumentNode& node, const ParameterSchema& schema) {
    for (const ParameterSchema& alternative : schema.alternatives())
      if (auto value = try_convert(node, alternative)) return value;
    return std::nullopt;
  }

  const std::size_t outer_;
  std::size_t depth_ = 0;
  std::size_t cost_ = 0;
};

}  // namespace

void ArgumentNode::end_text_run() {
  const std::string_view run = trimmed(text);
  if (!run.empty() && !loose_text.empty()) loose_text += ' ';
  loose_text += run;
  text.clear();
}

std::string argument_json(const ArgumentNode& node, const ParameterSchema& schema,
                          std::size_t depth) {
  return Converter(depth).convert_anyhow(node, schema);
}

}  // namespace m3
