#include "server/chat_request.h"

#include "server/constraint.h"
#include "server/media_rule.h"
#include "server/tool_choice.h"
#include "text/normalise.h"
#include "text/thinking.h"

namespace m3 {
namespace {

ApiStatus check_media_count(const Json& messages, const ServedModel& model,
                            const ServerOptions& options) {
  const MediaCount count = count_media(messages);
  if (count.images + count.videos == 0) return {};
  if (!model.preprocess)
    return refuse("messages",
                  "hold pictures or clips, but this server's model is served without "
                  "its vision tower");
  if (count.images > options.images_max)
    return refuse("messages", "hold {} pictures: the num of image is larger than the limit: {}",
                  count.images, options.images_max);
  if (count.videos > options.videos_max)
    return refuse("messages", "hold {} clips: the num of video is larger than the limit: {}",
                  count.videos, options.videos_max);
  return {};
}

ApiResult<ChatInput> read_input(const Json& request, const ServerOptions& options) {
  M3_TRY(const Json* messages, list_field(request, "messages"));
  if (messages == nullptr || messages->empty())
    return refuse("messages", "must be a list of at least one message");
  ChatInput input{.add_generation_prompt = true};
  M3_TRY(input.messages, normalise_messages(*messages));
  if (const Json* tools = find_set_member(request, "tools")) {
    M3_TRY(input.tools, normalise_tools(*tools));
  }
  M3_TRY(input.thinking_mode, thinking_mode_from(request));
  if (!input.thinking_mode) input.thinking_mode = options.thinking_mode;
  M3_TRY(const auto go_on, bool_field(request, "continue_final_message"));
  M3_TRY(const auto open, bool_field(request, "add_generation_prompt"));
  input.continue_final_message = go_on.value_or(false);
  input.add_generation_prompt = open.value_or(!input.continue_final_message);
  return input;
}

// In its own turn, behind the last opening of one; or as its mode says.
OutputState state_after(const RenderedChat& chat) {
  if (!chat.input.continue_final_message) return begin_state(chat.input.thinking_mode);
  constexpr std::string_view kOpening = "]~b]ai\n";
  const std::string& text = chat.prompt.text();
  const std::size_t turn = text.rfind(kOpening);
  return turn == text.npos ? OutputState::kContent
                           : continued_state(std::string_view(text).substr(turn + kOpening.size()));
}

// The fields that shape how reasoning is told.
ApiStatus read_reasoning_form(const Json& request, OpenAiForm& form, OutputOptions& output) {
  M3_TRY(const auto show, bool_field(request, "include_reasoning"));
  form.show_reasoning = show.value_or(true);
  M3_TRY(const auto separate, bool_field(request, "separate_reasoning"));
  output.raw = !separate.value_or(true);
  M3_TRY(const auto format, string_field(request, "reasoning_format"));
  if (!format || *format == "auto" || *format == "deepseek") return {};
  if (*format != "none")
    return refuse("reasoning_format", "must be \"auto\", \"deepseek\" or \"none\", it is \"{}\"",
                  format->substr(0, 100));
  output.raw = true;
  return {};
}

// "logprobs": true and "top_logprobs": 0 to 20.
ApiStatus read_logprobs(const Json& request, AnswerOptions& options) {
  M3_TRY(const auto wanted, bool_field(request, "logprobs"));
  M3_TRY(const auto top, integer_field(request, "top_logprobs"));
  if (top && (*top < 0 || *top > kLogprobsMax))
    return refuse("top_logprobs", "is {}, expected 0 to {}", *top, kLogprobsMax);
  if (top && *top > 0 && !wanted.value_or(false))
    return refuse("top_logprobs", "needs \"logprobs\": true");
  if (wanted.value_or(false)) options.sampling.logprobs = static_cast<int>(top.value_or(0));
  return {};
}

}  // namespace

ApiResult<RenderedChat> render_chat_request(const Json& request, const ServedModel& model,
                                            const ServerOptions& options) {
  RenderedChat chat;
  M3_TRY(chat.input, read_input(request, options));
  M3_TRY_STATUS(check_media_count(chat.input.messages, model, options));
  if (model.preprocess) {
    M3_TRY(chat.plan.media,
           read_message_media(chat.input.messages, "the request", options.video_fps,
                              *model.preprocess, media_rule(options.media_directory)));
  }
  M3_TRY(chat.prompt, render_chat(chat.input));
  M3_TRY(chat.plan.ids, encode_prompt(chat.prompt, chat.plan.media, *model.tokenizer));
  return chat;
}

ApiResult<ChatRequest> read_chat_request(const Json& given, const ServedModel& model,
                                         const ServerOptions& options,
                                         const std::string& call_id_prefix) {
  M3_TRY(const Json request, with_modern_tools(given));
  ChatRequest chat;
  M3_TRY(chat.plan.options, read_answer_options(request, model, options));
  M3_TRY_STATUS(read_logprobs(request, chat.plan.options));
  M3_TRY(RenderedChat rendered, render_chat_request(request, model, options));
  M3_TRY(const ToolChoice choice, read_tool_choice(request, rendered.input.tools));

  OutputOptions& output = chat.plan.output;
  output.begin = state_after(rendered);
  output.parse_calls = choice.mode != ToolChoice::Mode::kNone;
  output.tools = rendered.input.tools;
  output.make_call_id = [call_id_prefix] { return random_id(call_id_prefix); };
  output.stop = chat.plan.options.stop;
  output.include_stop = chat.plan.options.include_stop;
  M3_TRY_STATUS(read_reasoning_form(request, chat.form, output));
  M3_TRY(const auto return_ids, bool_field(request, "return_token_ids"));
  M3_TRY(const auto tokens_by_id, bool_field(request, "return_tokens_as_token_ids"));
  chat.form.return_ids = return_ids.value_or(false);
  chat.form.tokens_by_id = tokens_by_id.value_or(false);
  M3_TRY(chat.plan.constraint,
         read_constraint(request, {rendered.input.tools, choice, output.begin}, model));

  chat.form.tokenizer = model.tokenizer;
  chat.form.options = chat.plan.options;
  chat.form.choices = chat.plan.options.choices;
  chat.form.prompt_logprobs = chat.plan.options.prompt_logprobs;
  chat.form.prompts.push_back(rendered.plan.ids);
  chat.plan.prompts.push_back(std::move(rendered.plan));
  return chat;
}

}  // namespace m3
