#include "text/jsonl_commands.h"

#include "text/chat.h"
#include "text/detokenizer.h"
#include "text/json.h"
#include "text/normalise.h"

namespace m3 {
namespace {

template <typename Answer>
Status answer_lines(std::istream& in, std::ostream& out, const Answer& answer) {
  std::string line;
  while (std::getline(in, line)) {
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    Result<Json> question = parse_json(line);
    const Result<Json> reply = question ? answer(std::move(*question)) : question;
    out << python_json(reply ? *reply : Json{{"error", reply.error().message}}) << '\n';
    if (!out) return fail("cannot write the answers");
  }
  out.flush();
  if (in.bad() || !out) return fail("cannot read the lines or write the answers to the end");
  return {};
}

Result<Json> tokenize(const Tokenizer& tokenizer, const Json& question) {
  const std::string* text = find_string(question, "text");
  if (text == nullptr) return fail("\"text\" must be a string");
  M3_TRY(const bool control, read_flag(question, "control_tokens", true));
  using ControlTokens = Tokenizer::ControlTokens;
  M3_TRY(auto ids,
         tokenizer.encode(*text, control ? ControlTokens::kHonoured : ControlTokens::kPlain));
  return Json{{"ids", std::move(ids)}};
}

Result<TokenId> known_id(const Tokenizer& tokenizer, const Json& id) {
  const bool known = id.is_number_integer() && id >= 0 && id < tokenizer.vocab_size() &&
                     tokenizer.has_string(id.get<TokenId>());
  if (!known) return fail("\"ids\" holds {}, which is no id of this tokenizer", python_json(id));
  return id.get<TokenId>();
}

Result<Json> detokenize(const Tokenizer& tokenizer, const Json& question) {
  const Json* ids = find_member(question, "ids");
  if (ids == nullptr || !ids->is_array()) return fail("\"ids\" must be a list of token ids");
  Detokenizer detokenizer(tokenizer);
  Json pieces = Json::array();
  for (const Json& id : *ids) {
    M3_TRY(const TokenId known, known_id(tokenizer, id));
    pieces.push_back(detokenizer.push(known));
  }
  Json reply = {{"pieces", std::move(pieces)}};
  reply["flush"] = detokenizer.flush();
  return reply;
}

// A thinking mode that is no string is still one that the template does not know.
std::optional<std::string> mode_of(const Json& question) {
  const Json* mode = find_member(question, "thinking_mode");
  if (mode == nullptr) return std::nullopt;
  return mode->is_string() ? mode->get<std::string>() : "";
}

Result<ChatInput> chat_input(Json question) {
  ChatInput input;
  M3_TRY(const bool wire, read_flag(question, "wire", false));
  M3_TRY(input.add_generation_prompt, read_flag(question, "add_generation_prompt", false));
  M3_TRY(input.continue_final_message, read_flag(question, "continue_final_message", false));
  input.thinking_mode = mode_of(question);
  if (const Json* identity = find_set_member(question, "model_identity")) {
    if (!identity->is_string()) return fail("\"model_identity\" must be a string");
    input.model_identity = identity->get<std::string>();
  }
  if (find_member(question, "messages") == nullptr) return fail("\"messages\" are missing");
  input.messages = std::move(question["messages"]);
  input.tools = std::move(question["tools"]);
  if (wire) {
    M3_TRY(input.messages, normalise_messages(std::move(input.messages)));
    M3_TRY(input.tools, normalise_tools(std::move(input.tools)));
  }
  return input;
}

Result<Json> render(const Tokenizer& tokenizer, Json question) {
  M3_TRY(const ChatInput input, chat_input(std::move(question)));
  M3_TRY(const Prompt prompt, render_chat(input));
  M3_TRY(auto ids, tokenizer.encode(prompt.text(), prompt.client_ranges()));
  Json reply = {{"text", prompt.text()}};
  reply["ids"] = std::move(ids);
  return reply;
}

}  // namespace

Status tokenize_lines(const Tokenizer& tokenizer, std::istream& in, std::ostream& out) {
  return answer_lines(in, out, [&](const Json& question) { return tokenize(tokenizer, question); });
}

Status detokenize_lines(const Tokenizer& tokenizer, std::istream& in, std::ostream& out) {
  return answer_lines(in, out,
                      [&](const Json& question) { return detokenize(tokenizer, question); });
}

Status render_lines(const Tokenizer& tokenizer, std::istream& in, std::ostream& out) {
  return answer_lines(in, out,
                      [&](Json question) { return render(tokenizer, std::move(question)); });
}

}  // namespace m3
