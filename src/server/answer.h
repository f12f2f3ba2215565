// One request's answer: its choices, from tokens to what a writer is told.
#pragma once

#include <functional>
#include <mutex>

#include "output/fragments.h"
#include "output/output_parser.h"
#include "server/answer_options.h"
#include "server/answer_writer.h"
#include "server/generator.h"

namespace m3 {

struct PromptPlan {
  std::vector<std::int32_t> ids;
  std::vector<MediaInput> media = {};
};

struct AnswerPlan {
  std::vector<PromptPlan> prompts;  // each gets options.choices choices, numbered one after another
  AnswerOptions options;
  OutputOptions output = {};
  // The constraint of one choice; empty: none.
  std::function<std::unique_ptr<TokenConstraint>()> constraint = {};
  std::int64_t client = 0;
  double deadline = std::numeric_limits<double>::infinity();  // on the engine's clock
};

// What became of an answer, for logs and metrics.
struct AnswerRecord {
  Usage usage;
  std::string outcome;       // finish reason of the first choice; "error" or "cancelled"
  double first_token_s = 0;  // since it was asked for; 0: there was none
  double seconds = 0;
  std::vector<double> token_gaps_s;  // between the tokens of a choice
};

// Lives as long as anybody will call it: its sinks, and the reply that says the client is gone.
class Answer : public std::enable_shared_from_this<Answer> {
 public:
  using Done = std::function<void(const AnswerRecord&)>;

  // `model` outlives the answer; so does `generator`. `done` is called once.
  Answer(Generator& generator, const ServedModel& model, AnswerPlan plan,
         std::unique_ptr<AnswerWriter> writer, Done done);

  // Hands the jobs over. Errors: those of make_request() and submit(); the writer has then heard
  // nothing.
  ApiStatus start();
  // The client is gone: ends all that is on its way. Any thread.
  void cancel();

 private:
  class Choice;
  ApiResult<Job> make_job(std::size_t prompt, std::int64_t choice);
  void start_others(std::size_t prompt);
  void remember(const std::vector<JobId>& jobs);
  void choice_ended(const std::string& reason);
  void failed(const ApiError& error);
  void finish(const std::string& outcome);

  Generator& generator_;
  const ServedModel& model_;
  AnswerPlan plan_;
  std::unique_ptr<AnswerWriter> writer_;
  Done done_;
  double began_;

  // Of the generator's thread.
  AnswerRecord record_;
  std::int64_t open_ = 0;  // choices
  bool over_ = false;

  std::mutex mutex_;  // of what follows
  std::vector<JobId> jobs_;
  bool cancelled_ = false;
};

}  // namespace m3
