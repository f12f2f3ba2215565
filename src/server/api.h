// What the server answers: its endpoints (spec: chat-and-api §8.1), independent of the network and
// of the engine.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "server/answer.h"
#include "server/generator.h"
#include "server/http.h"
#include "server/metrics.h"

namespace m3 {

// One line a request, as JSON, when its answer is complete.
using LogLine = std::function<void(const Json&)>;

class Api {
 public:
  // All outlive the API and its answers. `log` is called from several threads, one at a time.
  Api(Generator& generator, const ServedModel& model, const ServerOptions& options, LogLine log);

  // Answers one request, now or later. Any thread.
  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply);

  // The answer to what HTTP itself refuses.
  static HttpAnswer refusal(int status, const std::string& sentence, const std::string& path);

 private:
  // A request on its way.
  struct Call {
    HttpRequest request;
    std::shared_ptr<HttpReply> reply;
    std::string id;
    double began = 0;
    bool anthropic = false;  // errors in Anthropic's form
  };
  using Endpoint = ApiStatus (Api::*)(Call&);

  struct Route {
    std::string method;
    Endpoint endpoint;
    enum Kind { kOpen, kPlain, kGenerates } kind;  // open: without a key
  };
  const Route* find_route(const Call& call, bool& path_exists) const;
  ApiError wrong_method(const Call& call) const;
  ApiStatus admit(const Route& route, const HttpRequest& request) const;
  ApiStatus check_key(const HttpRequest& request) const;
  ApiResult<Json> read_body(const Call& call) const;
  void answer(Call& call, HttpAnswer what);
  void answer(Call& call, const Json& body);
  void refuse(Call& call, const ApiError& error);
  void log(const Call& call, int status, const Json& more);
  ApiStatus run(Call& call, AnswerPlan plan, std::unique_ptr<AnswerWriter> writer);
  AnswerLabel label(const std::string& prefix, const AnswerPlan& plan) const;
  std::int64_t client_of(const Call& call, const std::string& user) const;
  ApiStatus need_tokenizer() const;
  Json model_entry(const NamedModel& model) const;

  ApiStatus health(Call& call);
  ApiStatus version(Call& call);
  ApiStatus load(Call& call);
  ApiStatus metrics_text(Call& call);
  ApiStatus models(Call& call);
  ApiStatus one_model(Call& call);
  ApiStatus tokenize(Call& call);
  ApiStatus detokenize(Call& call);
  ApiStatus apply_template(Call& call);
  ApiStatus chat_completions(Call& call);
  ApiStatus completions(Call& call);
  ApiStatus messages(Call& call);
  ApiStatus count_tokens(Call& call);
  ApiStatus responses(Call& call);
  ApiStatus openapi(Call& call);

  Generator& generator_;
  const ServedModel& model_;
  const ServerOptions& options_;
  LogLine log_;
  std::mutex log_mutex_;
  Metrics metrics_;
  std::multimap<std::string, Route> routes_;
};

}  // namespace m3
