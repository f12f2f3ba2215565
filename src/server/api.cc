#include "server/api.h"

#include <chrono>
#include <ctime>

#include "base/random.h"
#include "server/collected_answer.h"

namespace m3 {
namespace {

std::int64_t unix_seconds() {
  return static_cast<std::int64_t>(std::time(nullptr));
}

// Takes as long for every key of a length.
bool same_key(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned different = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    different |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  return different == 0;
}

std::string_view key_of(const HttpRequest& request) {
  constexpr std::string_view kBearer = "bearer ";
  const std::string_view given = request.header("Authorization");
  if (given.size() > kBearer.size() &&
      std::equal(kBearer.begin(), kBearer.end(), given.begin(), [](char a, char b) {
        return a == static_cast<char>(std::tolower(static_cast<unsigned char>(b)));
      }))
    return given.substr(kBearer.size());
  return request.header("x-api-key");
}

// A client's own id of its request is used where it is fit to be printed.
std::string request_id(const HttpRequest& request) {
  const std::string_view given = request.header("X-Request-Id");
  const bool fit =
      !given.empty() && given.size() <= 128 && std::all_of(given.begin(), given.end(), [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' ||
               c == '.' || c == ':';
      });
  return fit ? std::string(given) : random_id("req-");
}

// What the routes know a path by.
std::string route_path(const std::string& path) {
  return path.starts_with("/v1/models/") ? "/v1/models/" : path;
}

// Errors there have Anthropic's form.
bool is_anthropic(std::string_view path) {
  return path.starts_with("/v1/messages");
}

// The request's id, and what a browser is told of requests from other pages.
void label_answer(HttpAnswer& answer, const std::string& id) {
  answer.headers.emplace_back("X-Request-Id", id);
  answer.headers.emplace_back("Request-Id", id);  // where Anthropic's clients look
  answer.headers.emplace_back("Access-Control-Allow-Origin", "*");
  answer.headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  // The star does not stand for Authorization.
  answer.headers.emplace_back("Access-Control-Allow-Headers",
                              "Authorization, Content-Type, X-Api-Key, X-Request-Id, *");
  answer.headers.emplace_back("Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
  answer.headers.emplace_back("Access-Control-Max-Age", "86400");
}

}  // namespace

// Every answer carries the request's id and the headers for browsers.
class LabelledReply final : public HttpReply {
 public:
  LabelledReply(std::shared_ptr<HttpReply> reply, std::string id)
      : reply_(std::move(reply)), id_(std::move(id)) {}
  void send(HttpAnswer answer) override { reply_->send(labelled(std::move(answer))); }
  void begin(HttpAnswer head) override { reply_->begin(labelled(std::move(head))); }
  void write(std::string_view text) override { reply_->write(text); }
  void end() override { reply_->end(); }
  void on_gone(std::function<void()> call) override { reply_->on_gone(std::move(call)); }

 private:
  HttpAnswer labelled(HttpAnswer answer) const {
    label_answer(answer, id_);
    return answer;
  }
  std::shared_ptr<HttpReply> reply_;
  std::string id_;
};

Api::Api(Generator& generator, const ServedModel& model, const ServerOptions& options, LogLine log)
    : generator_(generator),
      model_(model),
      options_(options),
      log_(std::move(log)),
      metrics_(model.names.front()) {
  const auto add = [&](const char* method, const char* path, Endpoint endpoint,
                       Route::Kind kind = Route::kPlain) {
    routes_.emplace(path, Route{method, endpoint, kind});
  };
  for (const char* path : {"/health", "/ping"}) add("GET", path, &Api::health, Route::kOpen);
  add("GET", "/version", &Api::version, Route::kOpen);
  add("GET", "/load", &Api::load);
  add("GET", "/metrics", &Api::metrics_text);
  add("GET", "/openapi.json", &Api::openapi, Route::kOpen);
  add("GET", "/v1/models", &Api::models);
  add("GET", "/v1/models/", &Api::one_model);
  add("POST", "/v1/chat/completions", &Api::chat_completions, Route::kGenerates);
  add("POST", "/v1/completions", &Api::completions, Route::kGenerates);
  add("POST", "/v1/responses", &Api::responses, Route::kGenerates);
  add("POST", "/v1/messages", &Api::messages, Route::kGenerates);
  add("POST", "/v1/messages/count_tokens", &Api::count_tokens);
  add("POST", "/tokenize", &Api::tokenize);
  add("POST", "/detokenize", &Api::detokenize);
  add("POST", "/apply-template", &Api::apply_template);
}

HttpAnswer Api::refusal(int status, const std::string& sentence, const std::string& path) {
  const ApiError error(status, sentence);
  HttpAnswer answer =
      error_answer(error, is_anthropic(path) ? anthropic_error(error) : openai_error(error));
  label_answer(answer, random_id("req-"));
  return answer;
}

const Api::Route* Api::find_route(const Call& call, bool& path_exists) const {
  const auto [begin, end] = routes_.equal_range(route_path(call.request.path));
  path_exists = begin != end;
  const std::string& method = call.request.method;
  for (auto route = begin; route != end; ++route)
    if (route->second.method == method || (route->second.method == "GET" && method == "HEAD"))
      return &route->second;
  return nullptr;
}

ApiError Api::wrong_method(const Call& call) const {
  ApiError error(405, fmt::format("\"{}\" cannot be asked by {}", call.request.path,
                                  call.request.method.substr(0, 20)));
  const auto [begin, end] = routes_.equal_range(route_path(call.request.path));
  for (auto route = begin; route != end; ++route)
    error.allow += route->second.method + (route->second.method == "GET" ? ", HEAD, " : ", ");
  error.allow += "OPTIONS";
  return error;
}

ApiStatus Api::check_key(const HttpRequest& request) const {
  if (options_.api_keys.empty()) return {};
  const std::string_view given = key_of(request);
  for (const std::string& key : options_.api_keys)
    if (same_key(given, key)) return {};
  return tl::unexpected(ApiError(401, given.empty() ? "this server wants an API key: send it as "
                                                      "\"Authorization: Bearer KEY\""
                                                    : "this API key is not known here"));
}

// A server that is full says so before it reads a request.
ApiStatus Api::admit(const Route& route, const HttpRequest& request) const {
  if (route.kind == Route::kOpen) return {};
  M3_TRY_STATUS(check_key(request));
  return route.kind == Route::kGenerates ? generator_.takes_more() : ApiStatus();
}

void Api::handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  Call call{.request = std::move(request), .reply = nullptr};
  call.id = request_id(call.request);
  call.reply = std::make_shared<LabelledReply>(std::move(reply), call.id);
  call.began = steady_seconds();
  call.anthropic = is_anthropic(call.request.path);
  if (call.request.method == "OPTIONS")
    return answer(call, HttpAnswer{.status = 204, .content_type = ""});
  bool path_exists = false;
  const Route* route = find_route(call, path_exists);
  if (!path_exists)
    return refuse(call, ApiError(404, fmt::format("there is no \"{}\" here; /openapi.json lists "
                                                  "what there is",
                                                  call.request.path.substr(0, 200))));
  if (route == nullptr) return refuse(call, wrong_method(call));
  if (const ApiStatus allowed = admit(*route, call.request); !allowed)
    return refuse(call, allowed.error());
  try {
    const ApiStatus done = (this->*route->endpoint)(call);
    if (!done) refuse(call, done.error());
  } catch (const std::bad_alloc&) {
    refuse(call, ApiError(503, "there is no memory left for this request"));
  } catch (const std::exception& error) {
    refuse(call, ApiError(500, fmt::format("the server made a mistake: {}", error.what())));
  }
}

// ------------------------------------------------------------------------------- answers

void Api::answer(Call& call, HttpAnswer what) {
  const int status = what.status;
  call.reply->send(std::move(what));
  log(call, status, Json::object());
}

void Api::answer(Call& call, const Json& body) {
  answer(call, HttpAnswer{.body = json_text(body)});
}

void Api::refuse(Call& call, const ApiError& error) {
  metrics_.refused(error.status);
  call.reply->send(
      error_answer(error, call.anthropic ? anthropic_error(error) : openai_error(error)));
  log(call, error.status, {{"error", error.message}});
}

void Api::log(const Call& call, int status, const Json& more) {
  if (!log_ || (status == 200 && call.request.method == "GET")) return;
  Json line = {{"time", unix_seconds()},
               {"id", call.id},
               {"peer", call.request.peer},
               {"method", call.request.method},
               {"path", call.request.path},
               {"status", status},
               {"ms", static_cast<std::int64_t>(1000 * (steady_seconds() - call.began))}};
  line.update(more);
  const std::lock_guard lock(log_mutex_);
  log_(line);
}

ApiResult<Json> Api::read_body(const Call& call) const {
  auto body = parse_json(call.request.body);
  if (!body)
    return tl::unexpected(
        ApiError(400, fmt::format("the body is no JSON: {}", body.error().message)));
  if (!body->is_object())
    return tl::unexpected(
        ApiError(400, fmt::format("the body must be an object, it is {}", kind_name(*body))));
  return std::move(*body);
}

AnswerLabel Api::label(const std::string& prefix, const AnswerPlan& plan) const {
  return {random_id(prefix), plan.options.model, unix_seconds()};
}

// Requests of one key, or of one address, take turns with those of others; `user` tells apart who
// shares a key.
std::int64_t Api::client_of(const Call& call, const std::string& user) const {
  const std::string_view key = key_of(call.request);
  const std::string who = (key.empty() ? call.request.peer : std::string(key)) + '\0' + user;
  std::uint64_t hash = 0;
  for (const char c : who) hash = mix64(hash * 31 + static_cast<unsigned char>(c) + kGolden);
  return static_cast<std::int64_t>(hash >> 1);
}

ApiStatus Api::run(Call& call, AnswerPlan plan, std::unique_ptr<AnswerWriter> writer) {
  plan.client = client_of(call, plan.options.user);
  if (options_.request_seconds_max > 0)
    plan.deadline = steady_seconds() + options_.request_seconds_max;
  const auto done = [this,
                     logged = Call{.request = {.method = call.request.method,
                                               .path = call.request.path,
                                               .peer = call.request.peer},
                                   .id = call.id,
                                   .began = call.began},
                     model = plan.options.model](const AnswerRecord& record) {
    metrics_.answered(record);
    log(logged, record.outcome == "cancelled" ? kClientGone : 200,
        {{"model", model},
         {"outcome", record.outcome},
         {"prompt_tokens", record.usage.prompt_tokens},
         {"cached_tokens", record.usage.cached_tokens},
         {"completion_tokens", record.usage.completion_tokens},
         {"first_token_ms", static_cast<std::int64_t>(1000 * record.first_token_s)}});
  };
  auto answer =
      std::make_shared<Answer>(generator_, model_, std::move(plan), std::move(writer), done);
  M3_TRY_STATUS(answer->start());
  call.reply->on_gone([answer] { answer->cancel(); });
  return {};
}

ApiStatus Api::need_tokenizer() const {
  if (model_.tokenizer != nullptr) return {};
  return tl::unexpected(ApiError(
      400, "this model has no tokenizer.json: only /v1/completions of token ids is served"));
}

}  // namespace m3
