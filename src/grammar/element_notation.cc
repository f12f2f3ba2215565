#include "grammar/dfa_filters.h"
#include "grammar/lexemes.h"
#include "grammar/notation.h"
#include "text/control_strings.h"

namespace m3 {
namespace {

// Any text that does not spell the namespace token letter by letter, which is how a text can be
// told from the tags behind it even where ids are lost.
Result<NodeId> free_text(GrammarBuilder& builder) {
  return builder.lexeme("free text", [&]() -> Result<Dfa> {
    Budget& budget = builder.budget();
    const Regex any = anything_regex();
    M3_TRY(const Nfa everything, build_nfa(any, Spelling::kPlain, budget));
    M3_TRY(const Nfa with_namespace,
           build_nfa(sequence_regex({any, literal_regex(control::kNamespace), any}),
                     Spelling::kPlain, budget));
    M3_TRY(const Dfa wanted, determinise(everything, budget));
    M3_TRY(const Dfa unwanted, determinise(with_namespace, budget));
    return filtered(wanted, DfaFilter(unwanted, DfaFilter::Keep::kRefused), budget);
  });
}

// A key has to end where its tag does.
Status check_key(const std::string& name) {
  const bool writable = !name.empty() && name[0] != '/' &&
                        name.find_first_of("<>\n") == name.npos &&
                        name.find(control::kNamespace) == name.npos;
  if (!writable)
    return fail("the name {} cannot be the key of an element", python_json(Json(name)));
  return {};
}

class ElementNotation final : public Notation {
 public:
  explicit ElementNotation(const ControlIds& ids) : ids_(ids) {}

  Result<NodeId> string(const StringPlan& plan, GrammarBuilder& builder) const override {
    if (!plan.rules.empty()) return ruled_text(plan, Spelling::kPlain, builder);
    if (plan.length_min == 0 && plan.length_max == kNoLimit) return free_text(builder);
    M3_TRY(const NodeId character, builder.pattern("[^]"));
    return builder.add(
        RepeatNode{.item = character, .min = plan.length_min, .max = plan.length_max});
  }

  Result<NodeId> array(const ArrayPlan& plan, GrammarBuilder& builder) const override {
    ArrayPlan items = plan;
    for (NodeId& item : items.prefix) {
      M3_TRY(item, element("item", item, builder));
    }
    M3_TRY(items.rest, element("item", plan.rest, builder));
    return item_list(items, kNoNode, kNoNode, builder);
  }

  Result<NodeId> object(const ObjectPlan& plan, GrammarBuilder& builder) const override {
    M3_TRY(const NodeId name_space, builder.token(ids_.name_space));
    FieldsNode fields{
        .first = name_space, .between = name_space, .order = FieldsNode::Order::kRequiredFirst};
    for (const ObjectPlan::Member& member : plan.members) {
      M3_TRY_STATUS(check_key(member.name));
      M3_TRY(const NodeId value, closed_value(member.value, member.name, builder));
      fields.fields.push_back({fmt::format("<{}>", member.name), value, member.required});
    }
    std::vector<NodeId> extras;
    for (const ObjectPlan::Extra& extra : plan.extras) {
      M3_TRY(const NodeId node, extra_element(plan, extra, builder));
      extras.push_back(node);
    }
    if (!extras.empty()) {
      M3_TRY(fields.extra, builder.choice(std::move(extras)));
    }
    return builder.fields(std::move(fields));
  }

  Result<NodeId> constant(const Json& value, GrammarBuilder& builder) const override {
    if (!value.is_structured()) return builder.literal(scalar(value));
    std::vector<NodeId> parts;
    for (const auto& [key, member] : value.items()) {
      if (value.is_object() && member.is_null()) continue;
      M3_TRY(const NodeId inner, constant(member, builder));
      if (value.is_object()) M3_TRY_STATUS(check_key(key));
      M3_TRY(const NodeId part, element(value.is_object() ? key : "item", inner, builder));
      parts.push_back(part);
    }
    return builder.sequence(std::move(parts));
  }

  std::string scalar(const Json& value) const override {
    return value.is_string() ? value.get<std::string>() : python_json(value);
  }

 private:
  Result<NodeId> element(const std::string& key, NodeId value, GrammarBuilder& builder) const {
    M3_TRY(const NodeId name_space, builder.token(ids_.name_space));
    M3_TRY(const NodeId open, builder.literal(fmt::format("<{}>", key)));
    M3_TRY(const NodeId closed, closed_value(value, key, builder));
    return builder.sequence({name_space, open, closed});
  }

  // The value and the tag that closes it.
  Result<NodeId> closed_value(NodeId value, const std::string& key, GrammarBuilder& builder) const {
    M3_TRY(const NodeId name_space, builder.token(ids_.name_space));
    M3_TRY(const NodeId close, builder.literal(fmt::format("</{}>", key)));
    return builder.sequence({value, name_space, close});
  }

  // A key of the model's choice.
  Result<NodeId> extra_element(const ObjectPlan& plan, const ObjectPlan::Extra& extra,
                               GrammarBuilder& builder) const {
    std::vector<std::string> taken = {"item"};  // which would make it a list
    for (const ObjectPlan::Member& member : plan.members) taken.push_back(member.name);
    M3_TRY(const Regex names, parse_regex("[-A-Za-z0-9_.]{1,64}"));
    M3_TRY(const NodeId keys, extra_names(names, extra, taken, Spelling::kPlain, builder));
    M3_TRY(const NodeId open, builder.literal("<"));
    M3_TRY(const NodeId element,
           builder.add(ElementNode{builder.dfa_index(keys), extra.value, ids_.name_space}));
    return builder.sequence({open, element});
  }

  ControlIds ids_;
};

}  // namespace

std::unique_ptr<Notation> element_notation(const ControlIds& ids) {
  return std::make_unique<ElementNotation>(ids);
}

}  // namespace m3
