#include <algorithm>

#include "grammar/lexemes.h"
#include "grammar/notation.h"

namespace m3 {
namespace {

constexpr std::string_view kBlank = "( |\\n[ \\t]{0,24})?";
// A character of a string: as it is, or escaped, those beyond U+FFFF as a pair of surrogates.
constexpr std::string_view kCharacter =
    "([^\"\\\\\\x00-\\x1F]|\\\\([\"\\\\/bfnrt]|u([0-9A-Ca-cE-Fe-f][0-9A-Fa-f]{3}|"
    "[Dd][0-7][0-9A-Fa-f]{2}|[Dd][89ABab][0-9A-Fa-f]{2}\\\\u[Dd][C-Fc-f][0-9A-Fa-f]{2})))";

std::string key_text(const std::string& name) {
  return fmt::format("{}:", python_json(Json(name)));
}

class JsonNotation final : public Notation {
 public:
  Result<NodeId> string(const StringPlan& plan, GrammarBuilder& builder) const override {
    const bool any_length = plan.length_min == 0 && plan.length_max == kNoLimit;
    if (plan.rules.empty() && any_length)
      return builder.pattern(fmt::format("\"{}*\"", kCharacter));
    M3_TRY(const NodeId quote, builder.literal("\""));
    NodeId text = kNoNode;
    if (plan.rules.empty()) {
      M3_TRY(const NodeId character, builder.pattern(kCharacter));
      M3_TRY(text, builder.add(RepeatNode{
                       .item = character, .min = plan.length_min, .max = plan.length_max}));
    } else {
      M3_TRY(text, ruled_text(plan, Spelling::kJson, builder));
    }
    return builder.sequence({quote, text, quote});
  }

  Result<NodeId> array(const ArrayPlan& plan, GrammarBuilder& builder) const override {
    M3_TRY(const Marks marks, marks_of(builder));
    M3_TRY(const NodeId items, item_list(plan, marks.blank, marks.comma, builder));
    return enclosed("[", items, "]", builder);
  }

  Result<NodeId> object(const ObjectPlan& plan, GrammarBuilder& builder) const override {
    M3_TRY(const Marks marks, marks_of(builder));
    FieldsNode fields{.first = marks.blank, .between = marks.comma};
    for (const ObjectPlan::Member& member : plan.members) {
      M3_TRY(const NodeId value, builder.sequence({marks.space, member.value}));
      fields.fields.push_back({key_text(member.name), value, member.required});
    }
    M3_TRY(fields.extra, extras(plan, marks, builder));
    M3_TRY(const NodeId members, builder.fields(std::move(fields)));
    return enclosed("{", members, "}", builder);
  }

  Result<NodeId> constant(const Json& value, GrammarBuilder& builder) const override {
    if (!value.is_structured()) return builder.literal(scalar(value));
    M3_TRY(const Marks marks, marks_of(builder));
    std::vector<NodeId> parts;
    for (const auto& [key, member] : value.items()) {
      parts.push_back(parts.empty() ? marks.blank : marks.comma);
      if (value.is_object()) {
        M3_TRY(const NodeId name, builder.literal(key_text(key)));
        parts.insert(parts.end(), {name, marks.space});
      }
      M3_TRY(const NodeId inner, constant(member, builder));
      parts.push_back(inner);
    }
    M3_TRY(const NodeId all, builder.sequence(std::move(parts)));
    return value.is_object() ? enclosed("{", all, "}", builder) : enclosed("[", all, "]", builder);
  }

  std::string scalar(const Json& value) const override { return python_json(value); }

 private:
  struct Marks {
    NodeId blank, space, comma;
  };
  static Result<Marks> marks_of(GrammarBuilder& builder) {
    Marks marks{};
    M3_TRY(marks.blank, builder.pattern(kBlank));
    M3_TRY(marks.space, builder.pattern(" ?"));
    M3_TRY(marks.comma, builder.pattern(fmt::format(",{}", kBlank)));
    return marks;
  }

  static Result<NodeId> enclosed(std::string_view open, NodeId inner, std::string_view close,
                                 GrammarBuilder& builder) {
    M3_TRY(const NodeId before, builder.literal(open));
    M3_TRY(const NodeId behind, builder.pattern(fmt::format("{}\\{}", kBlank, close)));
    return builder.sequence({before, inner, behind});
  }

  // Their keys are spelt in one way each, so that none can be a declared one in disguise.
  static Result<NodeId> extras(const ObjectPlan& plan, const Marks& marks,
                               GrammarBuilder& builder) {
    if (plan.extras.empty()) return kNoNode;
    std::vector<std::string> taken;
    for (const ObjectPlan::Member& member : plan.members) taken.push_back(member.name);
    std::vector<NodeId> options;
    for (const ObjectPlan::Extra& extra : plan.extras) {
      M3_TRY(const NodeId name,
             extra_names(anything_regex(), extra, taken, Spelling::kJson, builder));
      M3_TRY(const NodeId before, builder.literal("\""));
      M3_TRY(const NodeId behind, builder.literal("\":"));
      M3_TRY(const NodeId option,
             builder.sequence({before, name, behind, marks.space, extra.value}));
      options.push_back(option);
    }
    return builder.choice(std::move(options));
  }
};

}  // namespace

std::unique_ptr<Notation> json_notation() {
  return std::make_unique<JsonNotation>();
}

Result<NodeId> item_list(const ArrayPlan& plan, NodeId first, NodeId between,
                         GrammarBuilder& builder) {
  const std::uint64_t before = plan.prefix.size();
  const auto behind_prefix = [&](std::uint64_t limit) {
    return limit == kNoLimit ? limit : limit - std::min(limit, before);
  };
  M3_TRY(NodeId list, builder.add(RepeatNode{.item = plan.rest,
                                             .first = before == 0 ? first : between,
                                             .between = between,
                                             .min = behind_prefix(plan.min),
                                             .max = behind_prefix(plan.max)}));
  M3_TRY(const NodeId nothing, builder.sequence({}));
  for (std::uint64_t i = before; i-- > 0;) {
    const NodeId separator = i == 0 ? first : between;
    std::vector<NodeId> parts = {plan.prefix[i], list};
    if (separator != kNoNode) parts.insert(parts.begin(), separator);
    M3_TRY(const NodeId more, builder.sequence(std::move(parts)));
    std::vector<NodeId> options;
    if (i >= plan.min) options.push_back(nothing);
    if (i < plan.max) options.push_back(more);
    M3_TRY(list, builder.choice(std::move(options)));
  }
  return list;
}

}  // namespace m3
