// What the server is told about itself.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "grammar/vocabulary.h"
#include "input/media_input.h"
#include "model/config.h"
#include "text/tokenizer.h"

namespace m3 {

// An adapter, which requests name as they name a model.
struct ServedAdapter {
  std::string name;
  std::string directory;
};

// The model, as far as requests are concerned. Everything it names outlives the server.
struct ServedModel {
  std::vector<std::string> names;  // the first is the model's own, the others are accepted, too
  std::vector<ServedAdapter> adapters = {};  // by number, as Request::adapter counts them
  const Config* config = nullptr;
  const Tokenizer* tokenizer = nullptr;              // null: /v1/completions of ids alone
  const Vocabulary* vocabulary = nullptr;            // of the tokenizer
  std::optional<PreprocessOptions> preprocess = {};  // absent: no pictures
  std::vector<std::int32_t> stop_ids;                // the end of a turn
  std::vector<std::int32_t> banned;                  // never drawn
  SamplingParams sampling;                           // where a request says nothing
  std::int64_t context_tokens = 0;                   // of a prompt and its answer
  std::int64_t created = 0;                          // seconds since 1970
  std::string version;
};

struct ServerOptions {
  std::vector<std::string> api_keys;               // empty: everybody may
  std::optional<std::string> thinking_mode = {};   // where a request says nothing
  std::string media_directory;                     // file:// below it may be read; empty: none
  std::int64_t images_max = 200, videos_max = 20;  // of a request
  double video_fps = 1;
  std::int64_t choices_max = 128;  // n, times prompts
  double request_seconds_max = 0;  // 0: as long as it takes
};

}  // namespace m3
