// Grammars out of nodes that may refer to one another in circles.
#pragma once

#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "grammar/budget.h"
#include "grammar/grammar.h"

namespace m3 {

class GrammarBuilder {
 public:
  Budget& budget() { return budget_; }

  // Errors of all that makes nodes: the budget.
  Result<NodeId> add(Node node);
  // A node that others can name before it is known.
  Result<NodeId> reserve() { return add(std::monostate()); }
  void define(NodeId id, Node node);

  // The node of the automaton that `make` returns, which is asked once for each key.
  Result<NodeId> lexeme(const std::string& key, const std::function<Result<Dfa>()>& make);
  // The automaton of a lexeme.
  std::uint32_t dfa_index(NodeId lexeme) const;
  const Dfa& dfa_of(NodeId lexeme) const { return grammar_.dfas[dfa_index(lexeme)]; }
  // Texts that match an expression of ours as a whole.
  Result<NodeId> pattern(std::string_view regex, Spelling spelling = Spelling::kPlain);
  // One of these words; behind the i-th, targets[i], if there are targets.
  Result<NodeId> words(const std::vector<std::string>& words, std::vector<NodeId> targets = {});
  Result<NodeId> literal(std::string_view text);
  Result<NodeId> fields(FieldsNode node);
  Result<NodeId> token(TokenId id) { return add(TokenNode{id}); }
  Result<NodeId> sequence(std::vector<NodeId> parts) { return add(SequenceNode{std::move(parts)}); }
  // One option is itself. None: nothing matches.
  Result<NodeId> choice(std::vector<NodeId> options);

  // Cuts off what can never be completed. Errors: nothing is left.
  Result<Grammar> finish(NodeId root) &&;

 private:
  void index_fields(FieldsNode& node);

  Budget budget_;
  Grammar grammar_;
  std::unordered_map<std::string, NodeId> lexemes_;
  std::unordered_map<std::string, NodeId> literals_;
};

}  // namespace m3
