// What each endpoint does with its request.
#include "server/api.h"
#include "server/chat_request.h"
#include "server/completion_request.h"
#include "server/messages_request.h"
#include "server/messages_writer.h"
#include "server/openapi.h"
#include "server/responses_request.h"
#include "server/responses_writer.h"

namespace m3 {
namespace {

Json ids_json(const std::vector<std::int32_t>& ids) {
  Json list = Json::array();
  for (const std::int32_t id : ids) list.push_back(id);
  return list;
}

Json pieces_json(const std::vector<std::int32_t>& ids, const Tokenizer& tokenizer) {
  Json list = Json::array();
  for (const std::int32_t id : ids) list.push_back(tokenizer.decode(std::span(&id, 1)));
  return list;
}

}  // namespace

ApiStatus Api::health(Call& call) {
  answer(call, Json{{"status", "ok"}});
  return {};
}

ApiStatus Api::version(Call& call) {
  answer(call, Json{{"version", model_.version}});
  return {};
}

// vLLM's measure for whoever spreads requests over servers.
ApiStatus Api::load(Call& call) {
  const GeneratorCounts counts = generator_.counts();
  answer(call, Json{{"server_load", counts.running + counts.waiting}});
  return {};
}

ApiStatus Api::metrics_text(Call& call) {
  answer(call, HttpAnswer{.body = metrics_.text(generator_.counts()),
                          .content_type = "text/plain; version=0.0.4; charset=utf-8"});
  return {};
}

Json Api::model_entry(const NamedModel& model) const {
  const Config& config = *model_.config;
  Json modalities = Json::array({"text"});
  if (model_.preprocess) modalities.insert(modalities.end(), {"image", "video"});
  const std::string& own = model_.names.front();
  const bool adapter = model.adapter >= 0;
  return {
      {"id", model.name},
      {"object", "model"},
      {"created", model_.created},
      {"owned_by", "m3.cpp"},
      {"root", adapter ? model_.adapters[static_cast<std::size_t>(model.adapter)].directory : own},
      {"parent", adapter ? Json(own) : Json()},
      {"max_model_len", model_.context_tokens},
      {"modalities", std::move(modalities)},
      {"meta",
       {{"n_vocab", config.vocab},
        {"n_ctx_train", config.positions_max},
        {"n_embd", config.hidden}}}};
}

ApiStatus Api::models(Call& call) {
  Json list = Json::array();
  for (const std::string& name : model_.names) list.push_back(model_entry({name}));
  for (std::size_t i = 0; i < model_.adapters.size(); ++i)
    list.push_back(model_entry({model_.adapters[i].name, static_cast<std::int32_t>(i)}));
  answer(call, Json{{"object", "list"}, {"data", std::move(list)}});
  return {};
}

ApiStatus Api::one_model(Call& call) {
  const std::string name = call.request.path.substr(std::string_view("/v1/models/").size());
  M3_TRY(NamedModel named, named_model({{"model", name}}, model_));
  named.name = name;  // of several names the one that was asked for
  answer(call, model_entry(named));
  return {};
}

// Both shapes that clients use: {"prompt"} or {"content"}, or {"messages"} as a chat has them.
ApiStatus Api::tokenize(Call& call) {
  M3_TRY_STATUS(need_tokenizer());
  M3_TRY(const Json body, read_body(call));
  std::vector<std::int32_t> ids;
  if (find_set_member(body, "messages") != nullptr) {
    M3_TRY(RenderedChat chat, render_chat_request(body, model_, options_));
    ids = std::move(chat.plan.ids);
  } else {
    M3_TRY(auto text, string_field(body, "prompt"));
    M3_TRY(const auto content, string_field(body, "content"));
    if (!text) text = content;
    if (!text) return m3::refuse("prompt", "is missing: give it, or \"content\" or \"messages\"");
    M3_TRY(const auto special, bool_field(body, "parse_special"));
    const auto control = special.value_or(true) ? Tokenizer::ControlTokens::kHonoured
                                                : Tokenizer::ControlTokens::kPlain;
    M3_TRY(ids, model_.tokenizer->encode(*text, control));
  }
  Json result = {
      {"count", ids.size()}, {"max_model_len", model_.context_tokens}, {"tokens", ids_json(ids)}};
  M3_TRY(const auto strings, bool_field(body, "return_token_strs"));
  M3_TRY(const auto pieces, bool_field(body, "with_pieces"));
  if (strings.value_or(false)) result["token_strs"] = pieces_json(ids, *model_.tokenizer);
  if (pieces.value_or(false)) {
    result["tokens"] = Json::array();
    for (const std::int32_t id : ids)
      result["tokens"].push_back(
          {{"id", id}, {"piece", model_.tokenizer->decode(std::span(&id, 1))}});
  }
  answer(call, result);
  return {};
}

ApiStatus Api::detokenize(Call& call) {
  M3_TRY_STATUS(need_tokenizer());
  M3_TRY(const Json body, read_body(call));
  if (find_set_member(body, "tokens") == nullptr)
    return m3::refuse("tokens", "is missing: give a list of token ids");
  M3_TRY(const auto ids, ids_field(body, "tokens", model_.config->vocab));
  const std::string text = model_.tokenizer->decode(ids);
  answer(call, Json{{"prompt", text}, {"content", text}});
  return {};
}

ApiStatus Api::apply_template(Call& call) {
  M3_TRY_STATUS(need_tokenizer());
  M3_TRY(const Json body, read_body(call));
  M3_TRY(const RenderedChat chat, render_chat_request(body, model_, options_));
  answer(call, Json{{"prompt", chat.prompt.text()}});
  return {};
}

ApiStatus Api::chat_completions(Call& call) {
  M3_TRY_STATUS(need_tokenizer());
  M3_TRY(const Json body, read_body(call));
  M3_TRY_STATUS(named_model(body, model_));
  M3_TRY(ChatRequest chat, read_chat_request(body, model_, options_));
  chat.form.label = label("chatcmpl-", chat.plan);
  return run(call, std::move(chat.plan), make_chat_writer(call.reply, std::move(chat.form)));
}

ApiStatus Api::completions(Call& call) {
  M3_TRY(const Json body, read_body(call));
  M3_TRY_STATUS(named_model(body, model_));
  M3_TRY(CompletionRequest completion, read_completion_request(body, model_, options_));
  completion.form.label = label("cmpl-", completion.plan);
  return run(call, std::move(completion.plan),
             make_completion_writer(call.reply, std::move(completion.form)));
}

ApiStatus Api::messages(Call& call) {
  M3_TRY_STATUS(need_tokenizer());
  M3_TRY(const Json body, read_body(call));
  M3_TRY_STATUS(named_model(body, model_));
  if (find_set_member(body, "max_tokens") == nullptr) return m3::refuse("max_tokens", "is missing");
  M3_TRY(const Json chat_body, chat_from_messages(body));
  M3_TRY(ChatRequest chat, read_chat_request(chat_body, model_, options_, "toolu_"));
  auto writer =
      make_messages_writer(call.reply, {label("msg_", chat.plan), chat.form.options.stream});
  return run(call, std::move(chat.plan), std::move(writer));
}

ApiStatus Api::count_tokens(Call& call) {
  M3_TRY_STATUS(need_tokenizer());
  M3_TRY(const Json body, read_body(call));
  M3_TRY_STATUS(named_model(body, model_));
  M3_TRY(const Json chat_body, chat_from_messages(body));
  M3_TRY(const RenderedChat chat, render_chat_request(chat_body, model_, options_));
  answer(call, Json{{"input_tokens", chat.plan.ids.size()}});
  return {};
}

ApiStatus Api::responses(Call& call) {
  M3_TRY_STATUS(need_tokenizer());
  M3_TRY(const Json body, read_body(call));
  M3_TRY_STATUS(named_model(body, model_));
  M3_TRY(const Json chat_body, chat_from_responses(body));
  M3_TRY(ChatRequest chat, read_chat_request(chat_body, model_, options_));
  auto writer = make_responses_writer(
      call.reply, {label("resp_", chat.plan), responses_echo(body), chat.form.options.stream});
  return run(call, std::move(chat.plan), std::move(writer));
}

ApiStatus Api::openapi(Call& call) {
  answer(call, openapi_description(model_.version));
  return {};
}

}  // namespace m3
