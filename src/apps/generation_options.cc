#include "apps/generation_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <random>

#include "apps/option_checks.h"
#include "apps/progress_bar.h"
#include "base/machine.h"
#include "model/cache.h"

namespace m3 {
namespace {

Result<std::pair<std::int32_t, float>> parse_bias(const std::string& text) {
  std::pair<std::int32_t, float> bias;
  const char *begin = text.data(), *end = begin + text.size();
  const auto id = std::from_chars(begin, end, bias.first);
  if (id.ec == std::errc() && id.ptr != end && *id.ptr == ':') {
    const auto value = std::from_chars(id.ptr + 1, end, bias.second);
    if (value.ec == std::errc() && value.ptr == end) return bias;
  }
  return fail("{} is not ID:BIAS, as in 1234:-5", text);
}

CLI::Validator bias() {
  const auto check = [](const std::string& text) -> std::string {
    const auto parsed = parse_bias(text);
    return parsed ? "" : parsed.error().message;
  };
  return CLI::Validator(check, "");
}

std::uint64_t random_seed() {
  std::random_device device;
  return (static_cast<std::uint64_t>(device()) << 32) | device();
}

}  // namespace

void add_generation_options(CLI::App& command, GenerationOptions& o,
                            const std::string& default_max_tokens) {
  constexpr double kMany = 1e9;
  command
      .add_option("--max-tokens", o.max_tokens,
                  "longest answer, in tokens (default: " + default_max_tokens + ")")
      ->check(between(1, kMany));
  command.add_option("--context", o.context, "tokens that the cache holds: prompts and answers")
      ->check(between(1, kMany));
  command
      .add_option("--temperature", o.temperature,
                  "0 takes the most probable token (default: the model's, usually 1)")
      ->check(between(0, 2));
  command.add_option("--top-k", o.top_k, "draw from the K most probable (default: 40; 0: all)")
      ->check(between(-1, kMany));
  command
      .add_option("--top-p", o.top_p,
                  "then from the fewest that reach this probability (default: the model's)")
      ->check(between(0, 1, /*above_low=*/true));
  command.add_option("--min-p", o.min_p, "drop what is less probable than this share of the best")
      ->check(between(0, 1));
  command.add_option("--repetition-penalty", o.repetition_penalty, "above 1: repeat less")
      ->check(between(0, kMany, /*above_low=*/true));
  command.add_option("--presence-penalty", o.presence_penalty, "-2 to 2")->check(between(-2, 2));
  command.add_option("--frequency-penalty", o.frequency_penalty, "-2 to 2")->check(between(-2, 2));
  command.add_option("--logit-bias", o.logit_bias, "ID:BIAS, added to that id's logit; repeatable")
      ->allow_extra_args(false)
      ->take_all()
      ->check(bias());
  command.add_option("--seed", o.seed, "the same seed gives the same answer (default: random)")
      ->check(whole_number());
  command.add_option("--stop", o.stop, "end the answer before this text; repeatable")
      ->allow_extra_args(false)
      ->take_all();
  command.add_option("--stop-id", o.stop_ids, "end the answer after this token id; repeatable")
      ->allow_extra_args(false)
      ->take_all();
  command.add_flag("--ignore-eos", o.ignore_eos, "go on after the end-of-turn token");
}

Result<SamplingParams> sampling_params(const GenerationOptions& o, const LoadedModel& loaded,
                                       bool as_text) {
  SamplingParams p;
  p.temperature = o.temperature.value_or(loaded.defaults.temperature);
  p.top_k = o.top_k.value_or(loaded.defaults.top_k);
  p.top_p = o.top_p.value_or(loaded.defaults.top_p);
  p.min_p = o.min_p;
  p.repetition_penalty = o.repetition_penalty;
  p.presence_penalty = o.presence_penalty;
  p.frequency_penalty = o.frequency_penalty;
  for (const std::string& text : o.logit_bias) {
    M3_TRY(const auto bias, parse_bias(text));
    p.logit_bias.push_back(bias);
  }
  p.seed = o.seed ? *o.seed : random_seed();
  p.logprobs = o.logprobs;
  if (as_text && loaded.tokenizer) {
    const Config& config = loaded.config();
    for (std::int32_t id = 0; id < config.vocab; ++id)
      if (!loaded.tokenizer->has_string(id) || id == config.image_token || id == config.video_token)
        p.banned.push_back(id);
  }
  return p;
}

Result<std::vector<std::int32_t>> stop_ids(const GenerationOptions& options,
                                           const LoadedModel& loaded) {
  const std::int64_t vocab = loaded.config().vocab;
  for (const std::int32_t id : options.stop_ids)
    if (id < 0 || id >= vocab)
      return fail("--stop-id {} is outside the vocabulary of {} ids (0 to {})", id, vocab,
                  vocab - 1);
  std::vector<std::int32_t> ids = options.stop_ids;
  if (!options.ignore_eos)
    ids.insert(ids.end(), loaded.defaults.eos.begin(), loaded.defaults.eos.end());
  return ids;
}

std::int64_t cache_page_bytes(const LoadedModel& loaded, const Drafter* drafter) {
  return page_bytes(loaded.config(), loaded.model->cache_format(), loaded.model->mtp_modules())
             .total() +
         (drafter != nullptr ? drafter->page_bytes() : 0);
}

std::int64_t cache_room_tokens(const LoadedModel& loaded, const Drafter* drafter) {
  return available_memory() / cache_page_bytes(loaded, drafter) * loaded.config().block_tokens;
}

Result<std::int64_t> context_tokens(const std::optional<std::int64_t>& asked, std::int64_t wanted,
                                    const LoadedModel& loaded, const Drafter* drafter) {
  const Config& config = loaded.config();
  const std::int64_t page = cache_page_bytes(loaded, drafter);
  const std::int64_t room = cache_room_tokens(loaded, drafter);
  if (asked) {
    if (*asked < 1 || *asked > config.positions_max)
      return fail("--context is {}, expected 1 to {}, the model's positions", *asked,
                  config.positions_max);
    wanted = *asked;
  } else if (wanted == 0) {
    wanted = std::max(config.block_tokens, std::min(config.positions_max, room / 4));
  }
  if (wanted > room)
    return fail("a context of {} tokens takes {} of cache, but the system has {} left", wanted,
                quantity(static_cast<double>(wanted / config.block_tokens * page), "B"),
                quantity(static_cast<double>(available_memory()), "B"));
  return wanted;
}

}  // namespace m3
