// Options of the commands that generate, and what they become for the engine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/model_options.h"
#include "engine/engine.h"

namespace CLI {
class App;
}

namespace m3 {

// What the command line says; absent fields take the model's defaults.
struct GenerationOptions {
  std::optional<std::int64_t> max_tokens;
  std::optional<float> temperature;
  std::optional<std::int64_t> top_k;
  std::optional<float> top_p;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::string> logit_bias;  // "ID:BIAS"
  std::optional<std::uint64_t> seed;    // absent: a random one
  std::vector<std::string> stop;
  std::vector<std::int32_t> stop_ids;
  bool ignore_eos = false;
  int logprobs = -1;
  std::optional<std::int64_t> context;
};

// `default_max_tokens` is what the help says of --max-tokens.
void add_generation_options(CLI::App& command, GenerationOptions& options,
                            const std::string& default_max_tokens);

// The sampling part. `as_text`: the answer will be shown as text, so ids without a string are never
// drawn (spec: chat-and-api §1.1), nor placeholders, which would ask for a picture that is not
// there. Errors: a --logit-bias that is not ID:BIAS.
Result<SamplingParams> sampling_params(const GenerationOptions& options, const LoadedModel& loaded,
                                       bool as_text);

// Ids after which the answer ends. Errors: a --stop-id outside the vocabulary.
Result<std::vector<std::int32_t>> stop_ids(const GenerationOptions& options,
                                           const LoadedModel& loaded);

// Of a page of the cache, the drafter's included; it may be null.
std::int64_t cache_page_bytes(const LoadedModel& loaded, const Drafter* drafter);
// Tokens whose pages the free memory holds.
std::int64_t cache_room_tokens(const LoadedModel& loaded, const Drafter* drafter);

// Tokens that the cache shall hold: --context, or what `wanted` asks for, or, with neither, as much
// as the model can use and a quarter of the free memory holds. `drafter` may be null. Errors: more
// than the model's positions, or than the free memory holds.
Result<std::int64_t> context_tokens(const std::optional<std::int64_t>& asked, std::int64_t wanted,
                                    const LoadedModel& loaded, const Drafter* drafter);

}  // namespace m3
