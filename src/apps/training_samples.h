// What a model that is being trained answers to some prompts, now and then.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/model_options.h"
#include "base/result.h"
#include "train/run_log.h"

namespace CLI {
class App;
}

namespace m3 {

struct SampleOptions {
  std::vector<std::string> prompts;
  std::int64_t every = 0;  // steps; 0: as validations
  std::int64_t tokens = 64;
};

void add_sample_options(CLI::App& command, SampleOptions& options);

class TrainingSamples {
 public:
  // Errors: a prompt that leaves no room for an answer.
  static Result<TrainingSamples> create(const SampleOptions& options, const Config& config,
                                        const Tokenizer& tokenizer);
  // To be called before draw(), with the model that answers, which outlives the object.
  void answer_with(LoadedModel& loaded) { loaded_ = &loaded; }

  std::int64_t every() const { return options_.every; }
  // The most probable answer to each prompt, asked as a user's message. Errors: no memory for keys
  // and values; the model's output is not a number.
  Result<std::vector<SampleLine>> draw(std::int64_t step) const;

 private:
  explicit TrainingSamples(const SampleOptions& options) : options_(options) {}
  SampleOptions options_;
  LoadedModel* loaded_ = nullptr;
  std::vector<std::vector<std::int32_t>> ids_;  // of each prompt
};

}  // namespace m3
