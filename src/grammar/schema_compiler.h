// JSON schemas as grammars (spec: chat-and-api §5.4, §8.6).
#pragma once

#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "grammar/grammar_builder.h"
#include "grammar/notation.h"
#include "grammar/schema_shape.h"

namespace m3 {

// One schema, all of whose references point into itself. A value has to obey several schemas at
// once (allOf, the two sides of a $ref, an anyOf beside other keywords), so that what is compiled
// is always a list of schemas; each list becomes one node, however often it is met, which is what
// ends recursive schemas. Nothing here calls itself: schemas may be nested as deeply as they like.
class SchemaCompiler {
 public:
  // All three outlive the compiler.
  SchemaCompiler(const SchemaRef& root, const Notation& notation, GrammarBuilder& builder)
      : root_(root), notation_(notation), builder_(builder) {}

  // The node of the values that obey the root, and `also`, if there is such a schema.
  // Errors, with the place in front: as of read_shape(); a $ref that leads nowhere or elsewhere;
  // the budget. A schema that nothing obeys is no error yet, but a node that cannot be completed.
  Result<NodeId> compile(const SchemaRef* also = nullptr);

 private:
  struct Part {
    enum class Kind {
      kWhole,
      kPlain,  // without the keywords that combine schemas
      kAnyOf,  // the list of an anyOf or oneOf: one of its schemas
    };
    Kind kind;
    SchemaRef ref;
  };
  using Parts = std::vector<Part>;
  using Key = std::vector<std::pair<Part::Kind, const Json*>>;
  using Options = std::vector<NodeId>;  // a value is one of these
  struct Job {
    NodeId node;
    Parts parts;
  };
  struct Flat {
    Parts plain, any_of;
    bool impossible = false;
  };

  Result<NodeId> node_of(Parts parts);
  Result<NodeId> node_of(const std::vector<SchemaRef>& schemas);
  Result<Options> build(const Parts& parts);
  Result<Flat> flatten(const Parts& parts);
  Status combine(const SchemaRef& schema, Parts& todo, Flat& flat);
  Result<SchemaRef> resolve(const SchemaRef& schema, const Json& reference);
  Result<Options> any_of(const Flat& flat);
  Result<Options> shaped(const Shape& shape);
  Result<Options> constants(const Shape& shape);
  Result<bool> fits_shape(const Json& value, const Shape& shape);
  Result<NodeId> array(const Shape& shape);
  Result<NodeId> object(const Shape& shape);
  Result<NodeId> member(const Shape& shape, const std::string& name);
  Result<std::vector<ObjectPlan::Extra>> extras(const Shape& shape);

  const SchemaRef& root_;
  const Notation& notation_;
  GrammarBuilder& builder_;
  std::map<Key, NodeId> nodes_;
  std::deque<Job> jobs_;
};

}  // namespace m3
