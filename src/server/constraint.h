// What a request demands of the form of its answer (spec: chat-and-api §5.4, §8.6).
#pragma once

#include <functional>
#include <memory>

#include "engine/token_constraint.h"
#include "output/output_reader.h"
#include "server/server_options.h"
#include "server/tool_choice.h"

namespace m3 {

struct ConstraintContext {
  const Json& tools;  // normalised, or null
  ToolChoice choice;
  OutputState begin = OutputState::kStart;
};

using MakeConstraint = std::function<std::unique_ptr<TokenConstraint>()>;

// From response_format, structured_outputs, guided_*, grammar fields, tool_choice and strict tools.
// Empty: the answer is free. Errors: a schema or pattern that is not supported, naming the keyword.
ApiResult<MakeConstraint> read_constraint(const Json& request, const ConstraintContext& context,
                                          const ServedModel& model);

}  // namespace m3
