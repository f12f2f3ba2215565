#include "text/chat.h"

#include <algorithm>
#include <span>

#include "text/chat_content.h"
#include "text/control_strings.h"

namespace m3 {
namespace {

using namespace control;

constexpr std::string_view kDefaultSystem =
    "Your model version is MiniMax-M3, developed by MiniMax. Knowledge cutoff: January 2026. "
    "Founded in early 2022, MiniMax is a global AI foundation model company committed to advancing "
    "the frontiers of AI towards AGI.";
constexpr std::string_view kDefaultDeveloper = "You are a helpful assistant.";

constexpr std::string_view kThinkingIntroduction =
    "\n\n<thinking_instructions>\n"
    "You have a thinking capability that allows you to reason step by step before responding. When "
    "thinking is enabled, wrap your reasoning in <mm:think></mm:think> tags before your response. "
    "When thinking is disabled, begin your response directly after the </mm:think> prefix. When "
    "thinking is adaptive, decide on your own whether to think for the current turn.\n";
constexpr std::string_view kThinkingEnabled =
    "Current thinking mode: enabled. You MUST think step by step before every response, including "
    "after receiving function/tool results.\n";
constexpr std::string_view kThinkingDisabled =
    "Current thinking mode: disabled. Do not output any thinking process.\n";
constexpr std::string_view kThinkingAdaptive =
    "Current thinking mode: adaptive. You are encouraged to think for complex decision-making, "
    "multi-step reasoning, or when analyzing function/tool results.\n";
constexpr std::string_view kInstructionsEnd = "</thinking_instructions>";

constexpr std::string_view kToolsIntroduction =
    "\n\n# Tools\nYou may call one or more tools to assist with the user query.\n"
    "Here are the tools available in JSONSchema format:\n\n<tools>\n";
#define NS "]<]minimax[>["
constexpr std::string_view kToolsInstructions =
    "</tools>\n\nTo call tools, wrap all invocations in a single " NS "<tool_call>" NS
    "</tool_call> block. Parameter values containing nested objects or arrays are recursively "
    "expanded into XML elements. Example:\n\n" NS "<tool_call>\n" NS
    "<invoke name=\"tool-name-1\">" NS "<param-1>value-1" NS "</param-1>" NS "<param-2>" NS
    "<item>" NS "<key-a>val-a" NS "</key-a>" NS "<key-b>val-b" NS "</key-b>" NS "</item>" NS
    "</param-2>" NS "</invoke>\n" NS "<invoke name=\"tool-name-2\">" NS "<param-1>value-1" NS
    "</param-1>" NS "</invoke>\n" NS "</tool_call>";
#undef NS

constexpr std::string_view kOrphanToolMessage =
    "Message has tool role, but there was no previous assistant message with a tool call!";

std::string_view thinking_line(const std::optional<std::string>& mode) {
  if (!mode || *mode == "adaptive") return kThinkingAdaptive;
  if (*mode == "enabled") return kThinkingEnabled;
  if (*mode == "disabled") return kThinkingDisabled;
  return {};
}

// What the model's turn is made to begin with.
std::string_view generation_prefix(const std::optional<std::string>& mode) {
  if (mode == "enabled") return kThinkBegin;
  if (mode == "disabled") return kThinkEnd;
  return {};
}

bool has_role(const Json& message, std::string_view role) {
  const std::string* found = find_string(message, "role");
  return found != nullptr && *found == role;
}

// The content of a message, or nullptr when there is no message or nothing in it.
const Json* content_of(const Json* message) {
  const Json* content = message == nullptr ? nullptr : find_member(*message, "content");
  return content != nullptr && is_truthy(*content) ? content : nullptr;
}

// The head of the list chooses the two blocks; the other messages are turns (spec: §2.2).
struct Routing {
  const Json* system = nullptr;
  const Json* developer = nullptr;
  std::span<const Json> turns;
};

Routing route(std::span<const Json> messages) {
  Routing routing{nullptr, nullptr, messages};
  const auto next_is = [&](std::string_view role) {
    return !routing.turns.empty() && has_role(routing.turns.front(), role);
  };
  const auto take = [&] {
    const Json* message = &routing.turns.front();
    routing.turns = routing.turns.subspan(1);
    return message;
  };
  if (next_is("root")) routing.system = take();
  if (next_is("system") || next_is("developer")) routing.developer = take();
  return routing;
}

class ChatRenderer {
 public:
  explicit ChatRenderer(const ChatInput& input) : input_(input) {}

  Result<ChatWithAnswers> render() && {
    const auto* messages = input_.messages.get_ptr<const Json::array_t*>();
    if (messages == nullptr)
      return fail("\"messages\" must be a list, it is {}", kind_name(input_.messages));
    for (std::size_t i = 0; i < messages->size(); ++i)
      if (!(*messages)[i].is_object())
        return fail("message {} must be an object, it is {}", i, kind_name((*messages)[i]));
    const Routing routing = route(*messages);
    first_turn_ = messages->size() - routing.turns.size();
    add_system_block(routing.system);
    M3_TRY_STATUS(add_developer_block(routing.developer));
    M3_TRY_STATUS(add_turns(routing.turns));
    M3_TRY_STATUS(add_ending());
    return ChatWithAnswers{std::move(prompt_), std::move(answers_)};
  }

 private:
  void add_system_block(const Json* message) {
    own(kDocumentBegin, kTurnBegin, "system\n");
    if (const Json* content = content_of(message)) {
      add_visible_text(prompt_, *content);
    } else {
      own(kDefaultSystem);
    }
    own(kThinkingIntroduction, thinking_line(input_.thinking_mode), kInstructionsEnd, kTurnEnd,
        "\n");
  }

  Status add_developer_block(const Json* message) {
    own(kTurnBegin, "developer\n");
    if (const Json* content = content_of(message)) {
      add_visible_text(prompt_, *content);
    } else if (input_.model_identity) {
      prompt_.add_client(*input_.model_identity);
    } else {
      own(kDefaultDeveloper);
    }
    M3_TRY_STATUS(add_tools());
    own(kTurnEnd, "\n");
    return {};
  }

  Status add_tools() {
    if (!is_truthy(input_.tools)) return {};
    if (!input_.tools.is_array())
      return fail("\"tools\" must be a list, it is {}", kind_name(input_.tools));
    own(kToolsIntroduction);
    for (std::size_t i = 0; i < input_.tools.size(); ++i) {
      const Json* function = find_member(input_.tools[i], "function");
      if (function == nullptr) return fail("tools[{}] has no \"function\"", i);
      own("<tool>");
      prompt_.add_client(python_json(*function));
      own("</tool>\n");
    }
    own(kToolsInstructions);
    return {};
  }

  // Roles other than these three are skipped, later system messages included (spec: §2.2).
  Status add_turns(std::span<const Json> turns) {
    for (std::size_t i = 0; i < turns.size(); ++i) {
      const Json& message = turns[i];
      if (has_role(message, "user")) {
        add_user(message);
      } else if (has_role(message, "assistant")) {
        M3_TRY_STATUS(add_assistant(message, first_turn_ + i));
      } else if (has_role(message, "tool")) {
        const bool first = i == 0 || !has_role(turns[i - 1], "tool");
        const bool last = i + 1 == turns.size() || !has_role(turns[i + 1], "tool");
        M3_TRY_STATUS(add_tool_result(message, first_turn_ + i, first, last));
      }
    }
    return {};
  }

  void add_user(const Json& message) {
    own(kTurnBegin, "user\n");
    if (const Json* content = find_member(message, "content")) add_visible_text(prompt_, *content);
    own(kTurnEnd, "\n");
  }

  Status add_assistant(const Json& message, std::size_t index) {
    own(kTurnBegin, "ai\n");
    const std::size_t begin = prompt_.text().size();
    const AssistantText text = assistant_text(message);
    if (!text.reasoning.text().empty()) {
      own(kThinkBegin);
      add_whole(text.reasoning);
    }
    own(kThinkEnd);
    add_whole(text.content);
    const Json* calls = find_member(message, "tool_calls");
    awaits_tool_ = calls != nullptr && is_truthy(*calls);
    if (awaits_tool_)
      if (auto status = add_tool_calls(prompt_, *calls); !status)
        return fail("message {}: {}", index, status.error().message);
    own(kTurnEnd);
    add_answer(begin);
    own("\n");
    return {};
  }

  // The turn that ends here; `begin`: of what the model may have written of it.
  void add_answer(std::size_t begin) {
    const std::string_view prefix = generation_prefix(input_.thinking_mode);
    const bool prompted = std::string_view(prompt_.text()).substr(begin).starts_with(prefix);
    answers_.push_back({{begin + (prompted ? prefix.size() : 0), prompt_.text().size()}, prompted});
  }

  // Neighbouring tool messages share a turn. A user's turn between call and result is allowed.
  Status add_tool_result(const Json& message, std::size_t index, bool first, bool last) {
    if (!awaits_tool_) return fail("{}", kOrphanToolMessage);
    if (first) own(kTurnBegin, "tool");
    own("\n<response>");
    if (const Json* content = find_member(message, "content"))
      if (auto status = add_tool_content(prompt_, *content); !status)
        return fail("message {}: {}", index, status.error().message);
    own("</response>");
    if (last) own(kTurnEnd, "\n");
    return {};
  }

  Status add_ending() {
    if (input_.add_generation_prompt && input_.continue_final_message)
      return fail("add_generation_prompt and continue_final_message exclude one another");
    if (input_.add_generation_prompt)
      own(kTurnBegin, "ai\n", generation_prefix(input_.thinking_mode));
    if (input_.continue_final_message) {
      const std::size_t end = prompt_.text().size() - kTurnEnd.size() - 1;  // turns end alike
      prompt_.truncate(end);
      if (!answers_.empty()) answers_.back().range.end = std::min(answers_.back().range.end, end);
    }
    return {};
  }

  template <typename... Texts>
  void own(const Texts&... texts) {
    prompt_.add_template(texts...);
  }
  void add_whole(const Prompt& part) { prompt_.add_slice(part, {0, part.text().size()}); }

  const ChatInput& input_;
  Prompt prompt_;
  std::vector<ChatAnswer> answers_;
  std::size_t first_turn_ = 0;  // index in messages, for errors
  bool awaits_tool_ = false;    // the latest assistant turn called a tool
};

}  // namespace

Result<Prompt> render_chat(const ChatInput& input) {
  M3_TRY(ChatWithAnswers chat, render_chat_with_answers(input));
  return std::move(chat.prompt);
}

Result<ChatWithAnswers> render_chat_with_answers(const ChatInput& input) {
  return ChatRenderer(input).render();
}

}  // namespace m3
