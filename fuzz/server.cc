// Requests to the server, from their path and body on: whatever comes, it is answered once, by a
// status that is not the server's mistake, in JSON or as events of JSON; and what an engine is
// asked for, it could do.
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string_view>

#include "base/check.h"
#include "model/presets.h"
#include "server/api.h"

namespace {

using namespace m3;

class Reply final : public HttpReply {
 public:
  ~Reply() override { M3_CHECK(status_ != 0 && closed_, "a request has no complete answer"); }
  void send(HttpAnswer answer) override {
    M3_CHECK(status_ == 0, "a request is answered twice");
    status_ = answer.status;
    closed_ = true;
    M3_CHECK(status_ < 500, "status {}: {}", status_, answer.body);
    if (answer.content_type == "application/json")
      M3_CHECK(parse_json(answer.body), "an answer that is no JSON: {}", answer.body);
  }
  void begin(HttpAnswer head) override {
    M3_CHECK(status_ == 0, "a request is answered twice");
    status_ = head.status;
    events_ = head.body;
  }
  void write(std::string_view text) override { events_ += text; }
  void end() override {
    closed_ = true;
    for (std::size_t at = 0; (at = events_.find("data: {", at)) != events_.npos; ++at) {
      const std::string_view json =
          std::string_view(events_).substr(at + 6, events_.find("\n\n", at) - at - 6);
      M3_CHECK(parse_json(json), "an event that is no JSON: {}", json);
    }
  }
  void on_gone(std::function<void()>) override {}

 private:
  int status_ = 0;
  bool closed_ = false;
  std::string events_;
};

// Draws what a hash of the request says, among what its constraint allows.
class Dice final : public Generator {
 public:
  explicit Dice(std::int64_t vocab) : vocab_(vocab) {}
  ApiStatus takes_more() const override { return {}; }
  ApiResult<std::vector<JobId>> submit(std::vector<Job> jobs) override {
    for (Job& job : jobs) waiting_.push_back(std::move(job));
    return std::vector<JobId>(jobs.size());
  }
  std::vector<JobId> submit_more(std::vector<Job> jobs) override {
    return *submit(std::move(jobs));
  }
  void cancel(JobId) override {}
  GeneratorCounts counts() const override { return {}; }

  void run() {
    while (!waiting_.empty()) {
      Job job = std::move(waiting_.back());
      waiting_.pop_back();
      play(job);
    }
  }

 private:
  void play(Job& job) {
    const Request& request = job.request;
    M3_CHECK(!request.prompt.empty() && request.max_tokens >= 1, "a request without tokens");
    M3_CHECK(check_sampling(request.sampling, vocab_), "sampling out of range");
    std::mt19937 random(static_cast<unsigned>(request.prompt.size()));
    std::vector<std::uint64_t> bits(static_cast<std::size_t>((vocab_ + 63) / 64));
    const std::int64_t most = std::min<std::int64_t>(request.max_tokens, 24);
    std::vector<SampledToken> scores;
    if (request.prompt_logprobs >= 0)
      for (std::size_t i = 1; i < request.prompt.size(); ++i)
        scores.push_back({.id = request.prompt[i], .logprob = -1, .rank = 1, .top = {}});
    if (!job.sink->prompt_read({.scores = scores})) return;
    for (std::int64_t i = 1;; ++i) {
      const std::int32_t id = draw(job, bits, random);
      if (job.constraint) job.constraint->accept(id);
      const bool stop = std::ranges::count(request.stop_ids, id) > 0;
      const Finish finish = stop ? Finish::kStop : i == most ? Finish::kLength : Finish::kNo;
      if (!job.sink->token({0, {.id = id}, finish}) || finish != Finish::kNo) return;
      job.sink->tick(1e9);
    }
  }

  std::int32_t draw(Job& job, std::vector<std::uint64_t>& bits, std::mt19937& random) const {
    const bool limited = job.constraint && job.constraint->allowed(bits);
    const auto first = static_cast<std::int64_t>(random() % static_cast<unsigned>(vocab_));
    for (std::int64_t i = 0; i < vocab_; ++i) {
      const std::int64_t id = (first + i) % vocab_;
      if (!limited || (bits[static_cast<std::size_t>(id / 64)] >> (id % 64) & 1) != 0)
        return static_cast<std::int32_t>(id);
    }
    M3_CHECK(false, "a constraint allows nothing");
    return 0;
  }

  std::int64_t vocab_;
  std::vector<Job> waiting_;
};

struct World {
  World() : tokenizer(*Tokenizer::load(directory())), vocabulary(tokenizer) {
    config.vocab = tokenizer.vocab_size();
    config.positions_max = 4096;
    served.names = {"m"};
    served.config = &config;
    served.tokenizer = &tokenizer;
    served.vocabulary = &vocabulary;
    served.context_tokens = 4096;
    if (const auto end = tokenizer.id_of("[e~[")) served.stop_ids = {*end};
  }
  static std::string directory() {
    const char* given = std::getenv("M3_FUZZ_TOKENIZER");
    return given != nullptr ? given : "data/tokenizer";
  }
  Tokenizer tokenizer;
  Vocabulary vocabulary;
  Config config;
  ServedModel served;
  ServerOptions options;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static World world;
  static constexpr const char* kPaths[] = {
      "/v1/chat/completions",      "/v1/completions", "/v1/responses", "/v1/messages",
      "/v1/messages/count_tokens", "/tokenize",       "/detokenize",   "/apply-template"};
  if (size == 0) return 0;
  Dice dice(world.config.vocab);
  Api api(dice, world.served, world.options, [](const Json& line) { (void)json_text(line); });
  HttpRequest request{.method = "POST",
                      .path = kPaths[data[0] % std::size(kPaths)],
                      .body = std::string(reinterpret_cast<const char*>(data) + 1, size - 1)};
  api.handle(std::move(request), std::make_shared<Reply>());
  dice.run();
  return 0;
}
