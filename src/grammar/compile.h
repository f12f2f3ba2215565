// The grammars that requests ask for (spec: chat-and-api §4, §5.4, §8.2, §8.6). Compiling takes a
// fraction of a second whatever the request holds: what would take more is an error.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "grammar/control_ids.h"
#include "grammar/grammar.h"
#include "text/json.h"

namespace m3 {

// `where` is the field of the request that holds what is compiled; messages begin with it.

// A JSON value that obeys a schema, without white space around it. Of JSON Schema it knows
//  - type, enum, const, anyOf, oneOf (as anyOf), allOf, $ref into the same schema, also recursive;
//  - minLength, maxLength, pattern (regex.h), format (formats.h; others are ignored);
//  - minimum, maximum, exclusive ones and multipleOf, exactly, by the digits;
//  - items, prefixItems, minItems, maxItems;
//  - properties, patternProperties, additionalProperties, required. Members come in the schema's
//    order, those it does not name behind the others. An object with "properties" has no other
//    members unless "additionalProperties" says so; without, any.
// Errors: a keyword that cannot be enforced, or has a value of the wrong kind, with its place; a
// schema that nothing obeys; one that is too large.
Result<Grammar> schema_grammar(const Json& schema, std::string_view where);

// Any JSON object.
Result<Grammar> json_object_grammar();

// A text that matches an expression (regex.h) as a whole. Errors: as of parse_regex(); nothing
// matches; it is too large.
Result<Grammar> regex_grammar(std::string_view pattern, std::string_view where);

// One of these texts. Errors: there are none; they are too large.
Result<Grammar> choice_grammar(const std::vector<std::string>& choices, std::string_view where);

struct ToolCalls {
  bool parallel = true;  // else exactly one
  std::string name;      // of the only tool that may be called; empty: any
};

// A block of calls as the model writes it, from its namespace token to the closing tag: at least
// one call of a tool in `tools`, a list as normalise_tools() leaves it, with arguments that obey
// its parameters (an object, in the notation of elements). Parameters that the schema does not name
// need "additionalProperties".
// Errors: no tools, or none of that name; a name that cannot be written; those of schemas, whose
// place begins with "tools[i].function.parameters".
Result<Grammar> tool_grammar(const Json& tools, const ToolCalls& calls, const ControlIds& ids);

}  // namespace m3
