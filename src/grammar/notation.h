// How values are written down: as JSON, or as the elements of a tool call (spec: chat-and-api §4).
// Scalars other than strings look the same in both.
#pragma once

#include <memory>

#include "grammar/control_ids.h"
#include "grammar/grammar_builder.h"
#include "grammar/plans.h"

namespace m3 {

// Errors of all functions: the budget; a name that cannot be written.
class Notation {
 public:
  virtual ~Notation() = default;
  virtual Result<NodeId> string(const StringPlan& plan, GrammarBuilder& builder) const = 0;
  virtual Result<NodeId> array(const ArrayPlan& plan, GrammarBuilder& builder) const = 0;
  virtual Result<NodeId> object(const ObjectPlan& plan, GrammarBuilder& builder) const = 0;
  // Exactly this value.
  virtual Result<NodeId> constant(const Json& value, GrammarBuilder& builder) const = 0;
  // The text of a scalar.
  virtual std::string scalar(const Json& value) const = 0;
};

// Between the tokens of JSON there is nothing, a space, or a line feed and up to 24 blanks; behind
// a colon at most a space; before commas and colons nothing. Members come in the order of the
// schema.
std::unique_ptr<Notation> json_notation();

// Strings are bare text without the namespace token; members of an object and items of a list are
// elements, the required members first. Within a value there is no blank that is not part of it.
std::unique_ptr<Notation> element_notation(const ControlIds& ids);

// prefix, then rest: `first` before the first item, `between` before each other, where there are
// such nodes.
Result<NodeId> item_list(const ArrayPlan& plan, NodeId first, NodeId between,
                         GrammarBuilder& builder);

}  // namespace m3
