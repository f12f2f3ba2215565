#include "output/parameter_schema.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <span>

namespace m3 {
namespace {

using Kind = ParameterSchema::Kind;
using Nodes = std::vector<const Json*>;

constexpr std::string_view kAllOf[] = {"allOf"};
constexpr std::string_view kAnyOf[] = {"anyOf", "oneOf"};
constexpr std::string_view kAll[] = {"allOf", "anyOf", "oneOf"};

// The names that clients give to types, by how they begin. Python's and SQL's are among them.
Kind kind_of_name(std::string_view given) {
  std::string name(given);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  struct Prefix {
    std::string_view text;
    Kind kind;
  };
  constexpr auto kPrefixes = std::to_array<Prefix>({
      {"string", Kind::kString},  {"varchar", Kind::kString}, {"int", Kind::kInteger},
      {"uint", Kind::kInteger},   {"long", Kind::kInteger},   {"short", Kind::kInteger},
      {"num", Kind::kNumber},     {"float", Kind::kNumber},   {"double", Kind::kNumber},
      {"bool", Kind::kBoolean},   {"binary", Kind::kBoolean}, {"null", Kind::kNull},
      {"none", Kind::kNull},      {"obj", Kind::kObject},     {"dict", Kind::kObject},
      {"map", Kind::kObject},     {"arr", Kind::kArray},      {"list", Kind::kArray},
      {"sequence", Kind::kArray}, {"tuple", Kind::kArray},
  });
  if (name == "str" || name == "text") return Kind::kString;
  for (const Prefix& prefix : kPrefixes)
    if (name.starts_with(prefix.text)) return prefix.kind;
  return Kind::kUnknown;
}

bool has_list(const Json& node, std::string_view key) {
  const Json* list = find_member(node, key);
  return list != nullptr && list->is_array() && !list->empty();
}

bool is_nullable(const Json& node) {
  const Json* flag = find_member(node, "nullable");
  return flag != nullptr && *flag == true;
}

// What the keywords of this node alone say.
Kind kind_of_node(const Json& node) {
  if (const std::string* type = find_string(node, "type"))
    return is_nullable(node) ? Kind::kUnion : kind_of_name(*type);
  if (has_list(node, "type")) {
    const Json& types = *find_member(node, "type");
    const auto* only = types.front().get_ptr<const std::string*>();
    return types.size() == 1 && only != nullptr ? kind_of_name(*only) : Kind::kUnion;
  }
  if (has_list(node, "anyOf") || has_list(node, "oneOf")) return Kind::kUnion;
  if (has_list(node, "enum") || find_string(node, "const") != nullptr) return Kind::kString;
  for (const std::string_view key : {"properties", "additionalProperties"})
    if (const Json* found = find_member(node, key); found != nullptr && found->is_object())
      return Kind::kObject;
  for (const std::string_view key : {"items", "prefixItems"})
    if (find_set_member(node, key) != nullptr) return Kind::kArray;
  return Kind::kUnknown;
}

// One step of a JSON pointer.
const Json* step(const Json& from, std::string_view encoded) {
  std::string key;
  for (std::size_t i = 0; i < encoded.size(); ++i) {
    const bool escape = encoded[i] == '~' && i + 1 < encoded.size();
    key += escape ? (encoded[++i] == '1' ? '/' : '~') : encoded[i];
  }
  if (!from.is_array()) return find_member(from, key);
  std::size_t index = 0;
  const auto read = std::from_chars(key.data(), key.data() + key.size(), index);
  const bool whole = read.ec == std::errc() && read.ptr == key.data() + key.size();
  return whole && index < from.size() ? &from[index] : nullptr;
}

const Json* at_pointer(const Json& document, std::string_view pointer) {
  const Json* found = &document;
  while (found != nullptr && !pointer.empty()) {
    if (pointer.front() != '/') return nullptr;
    pointer.remove_prefix(1);
    const std::size_t end = std::min(pointer.find('/'), pointer.size());
    found = step(*found, pointer.substr(0, end));
    pointer.remove_prefix(end);
  }
  return found;
}

// The schema that a node stands for, or nullptr: a "$ref" may point nowhere, or to itself.
const Json* resolved(const Json* node, const Json& document) {
  constexpr int kHopsMax = 16;
  for (int hops = 0; node != nullptr && hops <= kHopsMax; ++hops) {
    const std::string* reference = find_string(*node, "$ref");
    if (reference == nullptr) return node;
    if (!reference->starts_with('#')) return nullptr;
    node = at_pointer(document, std::string_view(*reference).substr(1));
  }
  return nullptr;
}

}  // namespace

ParameterSchema::ParameterSchema(const Json& document) : ParameterSchema(&document, &document) {}

ParameterSchema::ParameterSchema(const Json* node, const Json* document, std::string_view type)
    : node_(resolved(node, *document)), document_(document), type_(type) {
  if (node_ == nullptr) return;
  if (!type_.empty()) {
    kind_ = kind_of_name(type_);
    return;
  }
  for (const Json* part : parts())
    if (kind_ == Kind::kUnknown) kind_ = kind_of_node(*part);
}

// The node and what its combiners hold, in order, each once: schemas may refer to themselves.
void ParameterSchema::collect(const Json& node, std::span<const std::string_view> combiners,
                              Nodes& found) const {
  constexpr std::size_t kNodesMax = 256;  // nobody means more, and the search is linear
  if (found.size() >= kNodesMax) return;
  if (std::find(found.begin(), found.end(), &node) != found.end()) return;
  found.push_back(&node);
  for (const std::string_view combiner : combiners) {
    if (!has_list(node, combiner)) continue;
    for (const Json& branch : *find_member(node, combiner))
      if (const Json* schema = resolved(&branch, *document_)) collect(*schema, combiners, found);
  }
}

// The schemas that all hold for the value.
Nodes ParameterSchema::parts() const {
  Nodes found;
  if (node_ != nullptr) collect(*node_, kAllOf, found);
  return found;
}

// The same, and those of which some hold: where an object's properties may be described.
Nodes ParameterSchema::branches() const {
  Nodes found;
  if (node_ != nullptr) collect(*node_, kAll, found);
  return found;
}

std::vector<ParameterSchema> ParameterSchema::alternatives() const {
  std::vector<ParameterSchema> found;
  Nodes nodes;
  for (const Json* part : parts()) collect(*part, kAnyOf, nodes);
  const auto add = [&](const ParameterSchema& schema) {
    if (schema.kind() != Kind::kUnion) found.push_back(schema);
  };
  for (const Json* node : nodes) {
    if (has_list(*node, "type")) {
      for (const Json& type : *find_member(*node, "type"))
        if (type.is_string()) add({node, document_, type.get_ref<const std::string&>()});
    } else if (const std::string* type = find_string(*node, "type")) {
      add({node, document_, *type});
    } else {
      add(at(node));
    }
    if (is_nullable(*node)) add({node, document_, "null"});
  }
  return found;
}

const Json* ParameterSchema::find_property(std::string_view key) const {
  for (const Json* branch : branches())
    if (const Json* properties = find_member(*branch, "properties"))
      if (const Json* property = find_member(*properties, key)) return property;
  return nullptr;
}

bool ParameterSchema::declares(std::string_view key) const {
  return find_property(key) != nullptr;
}

ParameterSchema ParameterSchema::member(std::string_view key) const {
  if (const Json* property = find_property(key)) return at(property);
  for (const Json* branch : branches())
    if (const Json* any = find_member(*branch, "additionalProperties");
        any != nullptr && any->is_object())
      return at(any);
  return {};
}

ParameterSchema ParameterSchema::element(std::size_t index) const {
  for (const Json* part : parts()) {
    for (const std::string_view key : {"prefixItems", "items"}) {  // "items" was such a list, once
      const Json* items = find_member(*part, key);
      if (items == nullptr) continue;
      if (items->is_object()) return at(items);
      if (items->is_array() && index < items->size()) return at(&(*items)[index]);
    }
  }
  return {};
}

bool ParameterSchema::admits(std::string_view json) const {
  const Json* only = node_ == nullptr ? nullptr : find_member(*node_, "const");
  const bool listed = node_ != nullptr && has_list(*node_, "enum");
  if (only == nullptr && !listed) return true;
  const auto value = parse_json(json);
  if (!value || (only != nullptr && *only != *value)) return false;
  if (!listed) return true;
  const Json& values = *find_member(*node_, "enum");
  return std::find(values.begin(), values.end(), *value) != values.end();
}

std::vector<std::string_view> ParameterSchema::required() const {
  std::vector<std::string_view> keys;
  for (const Json* part : parts()) {
    if (!has_list(*part, "required")) continue;
    for (const Json& key : *find_member(*part, "required"))
      if (key.is_string()) keys.push_back(key.get_ref<const std::string&>());
  }
  return keys;
}

}  // namespace m3
