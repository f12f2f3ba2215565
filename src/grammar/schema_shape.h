// What the keywords of schemas say about one value, merged.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "grammar/plans.h"

namespace m3 {

// A schema and where it stands, for messages. The JSON outlives it.
struct SchemaRef {
  const Json* schema;
  std::string where;
};

struct Shape {
  enum Type : unsigned {
    kNull = 1,
    kBoolean = 2,
    kString = 4,
    kInteger = 8,
    kFraction = 16,  // a number that is no integer; with kInteger: any number
    kArray = 32,
    kObject = 64,
    kAnyType = 127,
  };
  // What one schema says about the items of a list, or the members of an object.
  struct Items {
    std::vector<SchemaRef> prefix;
    std::optional<SchemaRef> rest;
  };
  struct Members {
    struct Pattern {
      TextRule rule;
      SchemaRef schema;
    };
    std::vector<std::string> names;  // in order
    std::map<std::string, SchemaRef, std::less<>> named;
    std::vector<Pattern> patterns;
    std::optional<SchemaRef> others;  // additionalProperties, where it is given
    bool declares = false;            // the schema has "properties" or "patternProperties"
  };

  unsigned types = kAnyType;
  StringPlan string;
  NumberPlan number;
  std::vector<Items> items;
  std::uint64_t items_min = 0, items_max = kNoLimit;
  std::vector<Members> members;
  std::vector<std::string> required;
  std::uint64_t members_min = 0, members_max = kNoLimit;
  std::optional<std::vector<const Json*>> values;  // of enum and const

  // How much of a schema is in here, for the budget.
  std::size_t units() const;
};

// Adds what the keywords of one schema object say, without those that combine schemas ($ref, allOf,
// anyOf, oneOf). Annotations and unknown keywords say nothing.
// Errors, with `where` in front: a keyword with a value of the wrong kind; a keyword that no
// grammar here can express, unless its value asks for nothing; numbers beyond what is supported.
Status read_shape(const SchemaRef& schema, Shape& shape);

// A place inside a schema: "where.key" or "where[index]", shortened when it gets long.
std::string member_place(const std::string& where, std::string_view key);
std::string item_place(const std::string& where, std::size_t index);

}  // namespace m3
