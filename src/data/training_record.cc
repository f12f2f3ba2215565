#include "data/training_record.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/check.h"
#include "data/record_media.h"
#include "data/record_remarks.h"
#include "text/normalise.h"

namespace m3 {
namespace {

Json message(std::string_view role, Json content) {
  Json made = Json::object();
  made["role"] = role;
  made["content"] = std::move(content);
  return made;
}

Result<std::string> need_text(const Json& record, std::string_view key) {
  const std::string* text = find_string(record, key);
  if (text == nullptr)
    return fail("\"{}\" must be a string, it is {}", key, kind_name(*find_member(record, key)));
  return *text;
}

Result<Json> need_list(const Json& value, std::string_view key) {
  if (!value.is_array()) return fail("\"{}\" must be a list, it is {}", key, kind_name(value));
  return value;
}

// ------------------------------------------------------------------------------ the forms

// A turn of ShareGPT; one with a role is OpenAI's already.
Result<Json> read_turn(const Json& turn) {
  static const std::map<std::string, std::string_view> kRoles = {
      {"human", "user"},          {"user", "user"},         {"gpt", "assistant"},
      {"assistant", "assistant"}, {"chatgpt", "assistant"}, {"model", "assistant"},
      {"bot", "assistant"},       {"system", "system"}};
  if (find_set_member(turn, "role") != nullptr) return turn;
  const std::string* from = find_string(turn, "from");
  if (from == nullptr) return fail("needs \"from\" and \"value\", or \"role\" and \"content\"");
  const auto role = kRoles.find(*from);
  if (role == kRoles.end())
    return fail(
        "\"from\" must be human, user, gpt, assistant, chatgpt, model, bot or system, it is {}",
        python_json(*from));
  const std::string* value = find_string(turn, "value");
  if (value == nullptr) return fail("needs a \"value\" that is a string");
  Json made = message(role->second, *value);
  if (const Json* weight = find_set_member(turn, "weight")) made["weight"] = *weight;
  return made;
}

Result<Json> read_conversation(const Json& turns, std::string_view key) {
  M3_TRY(const Json list, need_list(turns, key));
  Json messages = Json::array();
  for (std::size_t i = 0; i < list.size(); ++i) {
    auto turn = read_turn(list[i]);
    if (!turn) return fail("{}[{}] {}", key, i, turn.error().message);
    messages.push_back(std::move(*turn));
  }
  return messages;
}

// The input follows the instruction on a line of its own; `history` holds pairs of them with
// answers.
Result<Json> read_alpaca(const Json& record) {
  Json messages = Json::array();
  if (const Json* history = find_set_member(record, "history")) {
    M3_TRY(const Json pairs, need_list(*history, "history"));
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const Json& pair = pairs[i];
      if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string())
        return fail("history[{}] must be a list of an instruction and its answer", i);
      messages.push_back(message("user", pair[0]));
      messages.push_back(message("assistant", pair[1]));
    }
  }
  M3_TRY(std::string asked, need_text(record, "instruction"));
  if (find_set_member(record, "input") != nullptr) {
    M3_TRY(const std::string input, need_text(record, "input"));
    if (!input.empty()) asked += "\n" + input;
  }
  M3_TRY(std::string answer, need_text(record, "output"));
  messages.push_back(message("user", std::move(asked)));
  messages.push_back(message("assistant", std::move(answer)));
  return messages;
}

Result<Json> read_exchange(const Json& record) {
  const Json &prompt = record["prompt"], &completion = record["completion"];
  Json messages = Json::array();
  if (prompt.is_string() && completion.is_string()) {
    messages.push_back(message("user", prompt));
    messages.push_back(message("assistant", completion));
    return messages;
  }
  if (!prompt.is_array() || !completion.is_array())
    return fail(
        "\"prompt\" and \"completion\" must be two strings or two lists of messages, they are {} "
        "and {}",
        kind_name(prompt), kind_name(completion));
  for (Json turn : prompt) {
    if (turn.is_object()) turn["weight"] = 0;
    messages.push_back(std::move(turn));
  }
  for (const Json& turn : completion) messages.push_back(turn);
  return messages;
}

// The messages of a record, or null where it is a text.
Result<Json> find_messages(const Json& record) {
  const auto has = [&](std::string_view key) { return find_set_member(record, key) != nullptr; };
  if (has("messages")) return need_list(record["messages"], "messages");
  for (const char* key : {"conversations", "conversation"})
    if (has(key)) return read_conversation(record[key], key);
  if (has("instruction") && has("output")) return read_alpaca(record);
  if (has("prompt") && has("completion")) return read_exchange(record);
  if (has("text")) return Json();
  std::string keys;
  for (const auto& [key, value] : record.items())
    if (keys.size() < 100) keys += (keys.empty() ? "" : ", ") + python_json(key);
  return fail(
      "expected \"messages\", \"conversations\", \"instruction\" and \"output\", \"prompt\" and "
      "\"completion\", or \"text\", found {}",
      keys.empty() ? "no key" : keys);
}

// ------------------------------------------------------------------------------ what all share

// `weight` of a message, as OpenAI has it: 0 or 1, of assistants alone.
Result<bool> is_learnt(const Json& turn) {
  const std::string* role = find_string(turn, "role");
  const bool assistant = role != nullptr && *role == "assistant";
  const Json* weight = find_set_member(turn, "weight");
  if (weight == nullptr) return assistant;
  if (!weight->is_number() || (*weight != 0 && *weight != 1))
    return fail("\"weight\" must be 0 or 1, it is {}", python_json(*weight));
  if (!assistant && *weight != 0)
    return fail("\"weight\" is 1, but only what an assistant writes is learnt");
  return *weight == 1;
}

Result<std::vector<bool>> find_learnt(const Json& messages) {
  std::vector<bool> learnt;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const auto one = is_learnt(messages[i]);
    if (!one) return fail("messages[{}]: {}", i, one.error().message);
    if (const std::string* role = find_string(messages[i], "role"); role && *role == "assistant")
      learnt.push_back(*one);
  }
  return learnt;
}

// Data for DPO, which pairs a better answer with a worse one.
Status expect_no_preference(const Json& record) {
  for (const char* key : {"chosen", "rejected"})
    if (find_set_member(record, key) != nullptr)
      return fail("\"{}\" is of preference data, and neither DPO nor KTO is here", key);
  return {};
}

// Data for KTO, in which `label` says whether an answer is a good one: bad ones would be learnt,
// too. Beside a text it is any column of a table.
Status expect_no_verdict(const Json& record) {
  const Json* label = find_set_member(record, "label");
  if (label == nullptr || !label->is_boolean()) return {};
  return fail(
      "\"label\" is {}, which says whether the answer is a good one, and neither DPO nor KTO is "
      "here: expected good answers alone, without that key",
      python_json(*label));
}

// What older forms of OpenAI's requests have in place of tools, which nobody would read.
Status expect_present_form(const Json& record, const Json& messages) {
  if (find_set_member(record, "functions") != nullptr)
    return fail("\"functions\" is OpenAI's older form: expected \"tools\"");
  for (std::size_t i = 0; i < messages.size(); ++i)
    if (find_set_member(messages[i], "function_call") != nullptr)
      return fail("messages[{}]: \"function_call\" is OpenAI's older form: expected \"tool_calls\"",
                  i);
  return {};
}

// `tools`, which columns of tables hold as text.
Result<Json> read_tools(const Json& record) {
  const Json* tools = find_set_member(record, "tools");
  if (tools == nullptr || *tools == "") return Json();
  if (!tools->is_string()) return *tools;
  auto parsed = parse_json(tools->get_ref<const std::string&>());
  if (!parsed) return fail("\"tools\": {}", parsed.error().message);
  return parsed;
}

// Clients of OpenAI write no "<image>", so that there it may be a word like others.
MediaTags media_tags(const Json& record) {
  return find_set_member(record, "messages") != nullptr ? MediaTags::kArePlacesWithKey
                                                        : MediaTags::kArePlaces;
}

Status add_system(const Json& record, Json& messages) {
  if (find_set_member(record, "system") == nullptr) return {};
  M3_TRY(const std::string text, need_text(record, "system"));
  if (!text.empty()) messages.insert(messages.begin(), message("system", text));
  return {};
}

}  // namespace

Result<TrainingRecord> read_training_record(Json record,
                                            const std::optional<std::string>& thinking_mode) {
  if (!record.is_object()) return fail("a record must be an object, it is {}", kind_name(record));
  M3_TRY_STATUS(expect_no_preference(record));
  M3_TRY(Json messages, find_messages(record));
  TrainingRecord made;
  if (messages.is_null()) {
    M3_TRY(made.text, need_text(record, "text"));
    M3_TRY_STATUS(expect_no_record_media(record));
    return made;
  }
  M3_TRY_STATUS(expect_no_verdict(record));
  M3_TRY_STATUS(expect_present_form(record, messages));
  M3_TRY(made.learnt, find_learnt(messages));
  made.remarks = remarks_on_keys(record);
  M3_TRY_STATUS(place_record_media(record, media_tags(record), messages));
  M3_TRY_STATUS(add_system(record, messages));
  M3_TRY(record["tools"], read_tools(record));
  record["messages"] = std::move(messages);
  M3_TRY(made.chat, read_chat_input(record, LastCalls::kMayBeOpen));
  std::ranges::move(remarks_on_chat(*made.chat, made.learnt), std::back_inserter(made.remarks));
  if (!made.chat->thinking_mode) made.chat->thinking_mode = thinking_mode;
  return made;
}

}  // namespace m3
