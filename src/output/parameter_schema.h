// A tool's JSON Schema, as far as it says what a parameter's text means (spec: chat-and-api §5.2).
// A schema is a client's: whatever it holds, it can only fail to say something.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/json.h"

namespace m3 {

// One value's schema. Points into the JSON that it was made from, which outlives it.
class ParameterSchema {
 public:
  enum class Kind : std::uint8_t {
    kUnknown,  // no schema, or none that names a type
    kString,
    kInteger,
    kNumber,
    kBoolean,
    kNull,
    kObject,
    kArray,
    kUnion,  // see alternatives()
  };

  // Nothing is known.
  ParameterSchema() = default;
  // The schema of a tool's arguments; "$ref" points into it.
  explicit ParameterSchema(const Json& document);

  Kind kind() const { return kind_; }
  // Of a union, in listed order; none is a union itself.
  std::vector<ParameterSchema> alternatives() const;
  // The value behind a key of an object: "properties", else "additionalProperties", else unknown.
  ParameterSchema member(std::string_view key) const;
  bool declares(std::string_view key) const;
  // An element of an array: "prefixItems", else "items", else unknown.
  ParameterSchema element(std::size_t index) const;
  // What "enum" and "const" say about a value of this schema, given as JSON text.
  bool admits(std::string_view json) const;
  // The keys that an object must have.
  std::vector<std::string_view> required() const;

 private:
  using Nodes = std::vector<const Json*>;
  ParameterSchema(const Json* node, const Json* document, std::string_view type = {});
  Nodes parts() const;
  Nodes branches() const;
  const Json* find_property(std::string_view key) const;
  void collect(const Json& node, std::span<const std::string_view> combiners, Nodes& found) const;
  ParameterSchema at(const Json* node) const { return {node, document_}; }

  const Json* node_ = nullptr;
  const Json* document_ = nullptr;
  std::string_view type_;  // one of the node's several types, when this is one alternative of them
  Kind kind_ = Kind::kUnknown;
};

}  // namespace m3
