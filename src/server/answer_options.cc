#include "server/answer_options.h"

#include <algorithm>
#include <charconv>
#include <random>

#include "base/random.h"

namespace m3 {
namespace {

template <typename T, typename U>
void set_if(const std::optional<U>& given, T& value) {
  if (given) value = static_cast<T>(*given);
}

// Fields of other servers that would change the answer, and are not known here.
ApiStatus check_unknown(const Json& request) {
  struct Field {
    const char* name;
    Json harmless;
  };
  static const Field kFields[] = {{"typical_p", 1},
                                  {"use_beam_search", false},
                                  {"best_of", 1},
                                  {"length_penalty", 1},
                                  {"logits_processors", Json::array()},
                                  {"mirostat", 0},
                                  {"xtc_probability", 0},
                                  {"dry_multiplier", 0},
                                  {"dynatemp_range", 0},
                                  {"tfs_z", 1},
                                  {"top_n_sigma", -1},
                                  {"truncate_prompt_tokens", Json()},
                                  {"chat_template", Json()},
                                  {"documents", Json::array()}};
  for (const Field& field : kFields) {
    const Json* value = find_set_member(request, field.name);
    if (value != nullptr && *value != field.harmless && *value != false)
      return refuse(field.name, "is not supported by this server; leave it out");
  }
  return {};
}

// Ids beyond the tokenizer's are rows of the model that nobody trained.
bool has_text(std::int64_t id, const ServedModel& model) {
  return model.tokenizer == nullptr || model.tokenizer->has_string(static_cast<TokenId>(id));
}

ApiStatus read_bias(const Json& request, const ServedModel& model, SamplingParams& sampling) {
  const std::int64_t vocab = model.config->vocab;
  M3_TRY(const Json* bias, object_field(request, "logit_bias"));
  if (bias == nullptr) return {};
  for (const auto& [key, value] : bias->items()) {
    std::int64_t id = -1;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec == std::errc() && id >= 0 && id < vocab && !has_text(id, model))
      return refuse("logit_bias", "has {}, an id without a string", id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0 || id >= vocab)
      return refuse("logit_bias", "names \"{}\", which is no id of the vocabulary (0 to {})",
                    key.substr(0, 40), vocab - 1);
    M3_TRY(const auto number, number_field(*bias, key));
    if (!number || *number < -100 || *number > 100)
      return refuse("logit_bias", "of {} must be a number from -100 to 100", id);
    sampling.logit_bias.emplace_back(static_cast<std::int32_t>(id), static_cast<float>(*number));
  }
  return {};
}

ApiStatus read_allowed_ids(const Json& request, const ServedModel& model,
                           SamplingParams& sampling) {
  if (find_set_member(request, "allowed_token_ids") == nullptr) return {};
  const std::int64_t vocab = model.config->vocab;
  M3_TRY(const auto allowed, ids_field(request, "allowed_token_ids", vocab));
  if (allowed.empty()) return refuse("allowed_token_ids", "is empty: nothing could be drawn");
  std::vector<bool> keep(static_cast<std::size_t>(vocab));
  for (const std::int32_t id : allowed) {
    if (!has_text(id, model))
      return refuse("allowed_token_ids", "has {}, an id without a string", id);
    keep[static_cast<std::size_t>(id)] = true;
  }
  for (std::int32_t id = 0; id < vocab; ++id)
    if (!keep[static_cast<std::size_t>(id)]) sampling.banned.push_back(id);
  return {};
}

ApiStatus read_sampling(const Json& request, const ServedModel& model, SamplingParams& sampling) {
  const std::int64_t vocab = model.config->vocab;
  for (const auto& [key, value] : {std::pair{"temperature", &sampling.temperature},
                                   {"top_p", &sampling.top_p},
                                   {"min_p", &sampling.min_p},
                                   {"repeat_penalty", &sampling.repetition_penalty},
                                   {"repetition_penalty", &sampling.repetition_penalty},
                                   {"presence_penalty", &sampling.presence_penalty},
                                   {"frequency_penalty", &sampling.frequency_penalty}}) {
    M3_TRY(const auto given, number_field(request, key));
    set_if(given, *value);
  }
  M3_TRY(const auto top_k, integer_field(request, "top_k"));
  set_if(top_k, sampling.top_k);
  M3_TRY_STATUS(read_bias(request, model, sampling));
  M3_TRY_STATUS(read_allowed_ids(request, model, sampling));
  M3_TRY(const auto seed, integer_field(request, "seed"));
  sampling.seed = seed ? static_cast<std::uint64_t>(*seed) : std::random_device()();
  if (const Status valid = check_sampling(sampling, vocab); !valid) {
    const std::string& sentence = valid.error().message;
    return tl::unexpected(ApiError(400, sentence, sentence.substr(0, sentence.find(' '))));
  }
  return {};
}

// max_completion_tokens wins over max_tokens; 0 means what 1 does, as other servers tolerate it.
ApiStatus read_lengths(const Json& request, AnswerOptions& options) {
  for (const char* key :
       {"n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens"}) {
    M3_TRY(const auto tokens, integer_field(request, key));
    if (!tokens) continue;
    if (*tokens < 0) return refuse(key, "is {}, expected at least 1", *tokens);
    options.max_tokens = std::max<std::int64_t>(1, *tokens);
  }
  M3_TRY(const auto least, integer_field(request, "min_tokens"));
  if (least && *least < 0) return refuse("min_tokens", "is {}, expected at least 0", *least);
  set_if(least, options.min_tokens);
  if (options.max_tokens && options.min_tokens > *options.max_tokens)
    return refuse("min_tokens", "is {}, more than the {} that \"max_tokens\" allows",
                  options.min_tokens, *options.max_tokens);
  return {};
}

// Each word as it is, and as it follows others.
ApiStatus read_bad_words(const Json& request, const ServedModel& model, AnswerOptions& options) {
  M3_TRY(const auto words, strings_field(request, "bad_words"));
  if (words.empty()) return {};
  if (model.tokenizer == nullptr)
    return refuse("bad_words", "need a tokenizer, which this model has not");
  if (words.size() > 256)
    return refuse("bad_words", "has {} words, this server takes 256", words.size());
  for (const std::string& word : words) {
    if (word.empty() || word.size() > 1000)
      return refuse("bad_words", "has a word of {} bytes, expected 1 to 1,000", word.size());
    for (const std::string& written : {word, " " + word}) {
      M3_TRY(auto ids, model.tokenizer->encode(written, Tokenizer::ControlTokens::kHonoured));
      options.bad_words.push_back(std::move(ids));
    }
  }
  return {};
}

ApiStatus read_stops(const Json& request, const ServedModel& model, AnswerOptions& options) {
  M3_TRY(options.stop, strings_field(request, "stop"));
  if (options.stop.size() > 64)
    return refuse("stop", "has {} strings, this server takes 64", options.stop.size());
  for (const std::string& stop : options.stop)
    if (stop.size() > 1000)
      return refuse("stop", "has a string of {} bytes, this server takes 1,000", stop.size());
  M3_TRY(options.stop_ids, ids_field(request, "stop_token_ids", model.config->vocab));
  for (const auto& [key, value] : {std::pair{"include_stop_str_in_output", &options.include_stop},
                                   {"ignore_eos", &options.ignore_eos},
                                   {"skip_special_tokens", &options.skip_special_tokens},
                                   {"stream", &options.stream}}) {
    M3_TRY(const auto flag, bool_field(request, key));
    set_if(flag, *value);
  }
  return {};
}

// vLLM's field. Of -1, the whole vocabulary for each token, nobody has use.
ApiStatus read_prompt_logprobs(const Json& request, const ServedModel& model,
                               AnswerOptions& options) {
  const Json* given = find_set_member(request, "prompt_logprobs");
  if (given == nullptr || *given == false) return {};
  M3_TRY(const auto count, integer_field(request, "prompt_logprobs"));
  if (*count < 0 || *count > kLogprobsMax)
    return refuse("prompt_logprobs", "is {}, expected 0 to {}", *count, kLogprobsMax);
  if (options.stream)
    return refuse("prompt_logprobs",
                  "are not streamed: leave out \"stream\", or ask for \"echo\" "
                  "with \"logprobs\"");
  if (model.tokenizer == nullptr)
    return refuse("prompt_logprobs", "need a tokenizer, which this model has not");
  options.prompt_logprobs = static_cast<int>(*count);
  return {};
}

ApiStatus read_stream_options(const Json& request, AnswerOptions& options) {
  M3_TRY(const Json* stream, object_field(request, "stream_options"));
  if (stream == nullptr) return {};
  M3_TRY(const auto usage, bool_field(*stream, "include_usage"));
  M3_TRY(const auto continuous, bool_field(*stream, "continuous_usage_stats"));
  set_if(usage, options.include_usage);
  set_if(continuous, options.continuous_usage);
  return {};
}

}  // namespace

ApiResult<AnswerOptions> read_answer_options(const Json& request, const ServedModel& model,
                                             const ServerOptions& server) {
  M3_TRY(NamedModel named, named_model(request, model));
  AnswerOptions options{
      .model = std::move(named.name), .adapter = named.adapter, .sampling = model.sampling};
  M3_TRY_STATUS(check_unknown(request));
  M3_TRY_STATUS(read_lengths(request, options));
  M3_TRY_STATUS(read_sampling(request, model, options.sampling));
  M3_TRY_STATUS(read_stops(request, model, options));
  M3_TRY_STATUS(read_bad_words(request, model, options));
  M3_TRY_STATUS(read_stream_options(request, options));
  M3_TRY_STATUS(read_prompt_logprobs(request, model, options));
  M3_TRY(const auto choices, integer_field(request, "n"));
  if (choices && (*choices < 1 || *choices > server.choices_max))
    return refuse("n", "is {}, expected 1 to {}", *choices, server.choices_max);
  set_if(choices, options.choices);
  M3_TRY(const auto user, string_field(request, "user"));
  options.user = user.value_or("");
  options.limits_ids = find_set_member(request, "allowed_token_ids") != nullptr;
  return options;
}

ApiResult<NamedModel> named_model(const Json& request, const ServedModel& model) {
  M3_TRY(const auto name, string_field(request, "model"));
  const std::string& own = model.names.front();
  if (!name || std::ranges::count(model.names, *name) > 0) return NamedModel{own};
  std::string known = fmt::format("\"{}\"", own);
  for (std::size_t i = 0; i < model.adapters.size(); ++i) {
    const std::string& adapter = model.adapters[i].name;
    if (adapter == *name) return NamedModel{adapter, static_cast<std::int32_t>(i)};
    known += fmt::format(", \"{}\"", adapter);
  }
  return tl::unexpected(ApiError(404,
                                 fmt::format("the model \"{}\" does not exist; this server has {}",
                                             name->substr(0, 200), known),
                                 "model"));
}

ApiResult<Request> make_request(std::vector<std::int32_t> prompt, const AnswerOptions& options,
                                const ServedModel& model, std::int64_t choice) {
  const auto length = static_cast<std::int64_t>(prompt.size());
  const std::int64_t room = model.context_tokens - length;
  if (length == 0) return refuse("prompt", "has no tokens: give at least one");
  if (room < 1) {
    ApiError error(400,
                   fmt::format("the maximum context length is {} tokens, but the prompt has {} "
                               "tokens and leaves no room for an answer: shorten it",
                               model.context_tokens, length));
    error.too_long = true;
    return tl::unexpected(std::move(error));
  }
  Request request{.prompt = std::move(prompt),
                  .max_tokens = std::min(options.max_tokens.value_or(room), room),
                  .min_tokens = options.min_tokens,
                  .sampling = options.sampling,
                  .stop_ids = options.stop_ids,
                  .bad_words = options.bad_words,
                  .adapter = options.adapter};
  if (choice % options.choices == 0) request.prompt_logprobs = options.prompt_logprobs;
  if (choice > 0)
    request.sampling.seed =
        mix64(options.sampling.seed + static_cast<std::uint64_t>(choice) * kGolden);
  if (!options.ignore_eos)
    request.stop_ids.insert(request.stop_ids.end(), model.stop_ids.begin(), model.stop_ids.end());
  request.sampling.banned.insert(request.sampling.banned.end(), model.banned.begin(),
                                 model.banned.end());
  return request;
}

}  // namespace m3
