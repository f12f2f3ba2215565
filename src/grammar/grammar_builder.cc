#include "grammar/grammar_builder.h"

#include <algorithm>

#include "base/check.h"
#include "grammar/regex.h"

namespace m3 {
namespace {

constexpr std::size_t kNodeUnits = 30;
constexpr std::size_t kWordByteUnits = 20;

// The nodes that have to be completed before this one is: all of them, or any.
struct Needs {
  std::vector<NodeId> nodes;
  bool any = false;
};

struct NeedsOf {
  const Grammar& grammar;

  // A choice of nothing is never made.
  static Needs never() { return {{}, true}; }

  Needs operator()(const std::monostate&) const { return never(); }
  Needs operator()(const LexemeNode& node) const {
    return grammar.dfas[node.dfa].empty() ? never() : Needs();
  }
  Needs operator()(const WordsNode& node) const {
    return grammar.tries[node.trie].words(0).empty() ? never() : Needs{node.targets};
  }
  Needs operator()(const TokenNode&) const { return {}; }
  Needs operator()(const SequenceNode& node) const { return {node.parts}; }
  Needs operator()(const ChoiceNode& node) const { return {node.options, true}; }
  Needs operator()(const RepeatNode& node) const {
    return node.min > 0 ? Needs{{node.item}} : Needs();
  }
  Needs operator()(const FieldsNode& node) const {
    Needs needs;
    for (const auto& field : node.fields)
      if (field.required) needs.nodes.push_back(field.value);
    return needs;
  }
  Needs operator()(const ElementNode& node) const {
    return grammar.dfas[node.keys].empty() ? never() : Needs{{node.value}};
  }
};

constexpr std::uint32_t kNever = std::numeric_limits<std::uint32_t>::max();

// In which order nodes become complete; kNever for those that do not.
std::vector<std::uint32_t> rank(const Grammar& grammar) {
  const std::size_t count = grammar.nodes.size();
  std::vector<std::size_t> missing(count);
  std::vector<std::vector<NodeId>> waiting(count);
  std::vector<NodeId> complete;
  for (NodeId id = 0; id < count; ++id) {
    const Needs needs = std::visit(NeedsOf{grammar}, grammar.nodes[id]);
    missing[id] = needs.any ? 1 : needs.nodes.size();
    for (const NodeId node : needs.nodes) waiting[node].push_back(id);
    if (missing[id] == 0) complete.push_back(id);
  }
  std::vector<std::uint32_t> ranks(count, kNever);
  for (std::size_t at = 0; at < complete.size(); ++at) {
    ranks[complete[at]] = static_cast<std::uint32_t>(at);
    for (const NodeId id : waiting[complete[at]])
      if (missing[id] > 0 && --missing[id] == 0) complete.push_back(id);
  }
  return ranks;
}

// Drops the parts that are never complete and can be done without.
struct Prune {
  const std::vector<std::uint32_t>& ranks;

  bool dead(NodeId id) const { return id != kNoNode && ranks[id] == kNever; }

  template <typename T>
  void operator()(T&) const {}
  void operator()(ChoiceNode& node) const {
    std::erase_if(node.options, [&](NodeId id) { return dead(id); });
  }
  void operator()(FieldsNode& node) const {
    std::erase_if(node.fields, [&](const auto& field) { return dead(field.value); });
    if (dead(node.extra)) node.extra = kNoNode;
  }
};

}  // namespace

Result<NodeId> GrammarBuilder::add(Node node) {
  M3_TRY_STATUS(budget_.spend(kNodeUnits));
  grammar_.nodes.emplace_back();
  const auto id = static_cast<NodeId>(grammar_.nodes.size() - 1);
  define(id, std::move(node));
  return id;
}

void GrammarBuilder::define(NodeId id, Node node) {
  auto* fields = std::get_if<FieldsNode>(&node);
  if (fields != nullptr && fields->order == FieldsNode::Order::kRequiredFirst) {
    const auto optional = std::stable_partition(fields->fields.begin(), fields->fields.end(),
                                                [](const auto& field) { return field.required; });
    if (fields->fields.end() - optional > static_cast<std::ptrdiff_t>(FieldsNode::kUnorderedMax))
      fields->order = FieldsNode::Order::kAsListed;
  }
  grammar_.nodes[id] = std::move(node);
}

Result<NodeId> GrammarBuilder::lexeme(const std::string& key,
                                      const std::function<Result<Dfa>()>& make) {
  if (const auto it = lexemes_.find(key); it != lexemes_.end()) return it->second;
  M3_TRY(Dfa dfa, make());
  grammar_.dfas.push_back(std::move(dfa));
  M3_TRY(const NodeId id, add(LexemeNode{static_cast<std::uint32_t>(grammar_.dfas.size() - 1)}));
  lexemes_.emplace(key, id);
  return id;
}

std::uint32_t GrammarBuilder::dfa_index(NodeId lexeme) const {
  return std::get<LexemeNode>(grammar_.nodes[lexeme]).dfa;
}

Result<NodeId> GrammarBuilder::pattern(std::string_view regex, Spelling spelling) {
  const std::string key =
      fmt::format("{} {}", spelling == Spelling::kJson ? "json" : "plain", regex);
  return lexeme(key, [&]() -> Result<Dfa> {
    M3_TRY(const Regex parsed, parse_regex(regex));
    M3_TRY(const Nfa nfa, build_nfa(parsed, spelling, budget_));
    return determinise(nfa, budget_);
  });
}

Result<NodeId> GrammarBuilder::words(const std::vector<std::string>& words,
                                     std::vector<NodeId> targets) {
  std::size_t bytes = words.size();
  for (const std::string& word : words) bytes += word.size();
  M3_TRY_STATUS(budget_.spend(kWordByteUnits * bytes));
  grammar_.tries.emplace_back(words);
  return add(WordsNode{static_cast<std::uint32_t>(grammar_.tries.size() - 1), std::move(targets)});
}

Result<NodeId> GrammarBuilder::fields(FieldsNode node) {
  std::size_t bytes = 0;
  for (const auto& field : node.fields) bytes += field.key.size();
  M3_TRY_STATUS(budget_.spend(kWordByteUnits * bytes));
  return add(std::move(node));
}

Result<NodeId> GrammarBuilder::literal(std::string_view text) {
  if (const auto it = literals_.find(std::string(text)); it != literals_.end()) return it->second;
  M3_TRY(const NodeId id, words({std::string(text)}));
  literals_.emplace(text, id);
  return id;
}

Result<NodeId> GrammarBuilder::choice(std::vector<NodeId> options) {
  if (options.size() == 1) return options[0];
  return add(ChoiceNode{std::move(options)});
}

Result<Grammar> GrammarBuilder::finish(NodeId root) && {
  grammar_.root = root;
  grammar_.ranks = rank(grammar_);
  if (grammar_.ranks[root] == kNever) return fail("it allows no output at all");
  for (Node& node : grammar_.nodes) {
    const auto* repeat = std::get_if<RepeatNode>(&node);
    if (repeat != nullptr && grammar_.ranks[repeat->item] == kNever) node = SequenceNode();
    std::visit(Prune{grammar_.ranks}, node);
  }
  for (Node& node : grammar_.nodes)
    if (auto* fields = std::get_if<FieldsNode>(&node)) index_fields(*fields);
  return std::move(grammar_);
}

void GrammarBuilder::index_fields(FieldsNode& node) {
  const std::size_t count = node.fields.size();
  std::vector<std::string> keys;
  for (const auto& field : node.fields) {
    keys.push_back(field.key);
    node.required += field.required ? 1 : 0;
  }
  node.trie = static_cast<std::uint32_t>(grammar_.tries.size());
  grammar_.tries.emplace_back(keys);
  node.next_required.assign(count + 1, static_cast<std::uint32_t>(count));
  for (std::size_t i = count; i-- > 0;)
    node.next_required[i] =
        node.fields[i].required ? static_cast<std::uint32_t>(i) : node.next_required[i + 1];
}

}  // namespace m3
