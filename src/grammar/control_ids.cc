#include "grammar/control_ids.h"

#include "text/control_strings.h"

namespace m3 {
namespace {

Result<TokenId> id_of(const Tokenizer& tokenizer, std::string_view text) {
  const auto id = tokenizer.id_of(text);
  if (!id) return fail("the tokenizer has no token \"{}\", which constrained output needs", text);
  return *id;
}

}  // namespace

Result<ControlIds> find_control_ids(const Tokenizer& tokenizer) {
  ControlIds ids{};
  M3_TRY(ids.turn_end, id_of(tokenizer, control::kTurnEnd));
  M3_TRY(ids.name_space, id_of(tokenizer, control::kNamespace));
  M3_TRY(ids.tool_call_begin, id_of(tokenizer, control::kToolCallBegin));
  M3_TRY(ids.tool_call_end, id_of(tokenizer, control::kToolCallEnd));
  M3_TRY(ids.think_begin, id_of(tokenizer, control::kThinkBegin));
  M3_TRY(ids.think_end, id_of(tokenizer, control::kThinkEnd));
  return ids;
}

}  // namespace m3
