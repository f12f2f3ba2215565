// HTTP/1.1 for the server: requests in, answers and streams out. Knows no model and no JSON.
//
// One thread moves the bytes of all connections (Boost.Asio), however many streams are open; a few
// workers run the handler, which may take its time and answer later, from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace m3 {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // decoded, without the query
  std::string query;   // as sent, without the '?'
  HttpHeaders headers;
  std::string body;
  std::string peer;  // address of the client

  // The value of a header, whatever its case; empty where there is none.
  std::string_view header(std::string_view name) const;
};

struct HttpAnswer {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  HttpHeaders headers = {};
};

// How one request is answered: by send(), or by begin(), write() as often as needed, and end(). Any
// thread may call; after the client is gone nothing reaches it, which is no error. A reply that is
// dropped unanswered becomes a 500. None may outlive its server.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  virtual void send(HttpAnswer answer) = 0;
  virtual void begin(HttpAnswer head) = 0;  // its body is sent first
  virtual void write(std::string_view text) = 0;
  virtual void end() = 0;
  // Called once, from the network's thread, when the client hangs up or reads too slowly before the
  // answer is complete; at once if that has happened already.
  virtual void on_gone(std::function<void()> call) = 0;
};

// Runs on a worker. Exceptions do not leave it.
using HttpHandler = std::function<void(HttpRequest, std::shared_ptr<HttpReply>)>;

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8000;  // 0: any that is free
  int workers = 2;
  std::int64_t connections_max = 4096;  // one more is told 503
  std::int64_t header_bytes_max = 32 << 10;
  std::int64_t body_bytes_max = 64 << 20;
  std::int64_t bodies_bytes_max = 1 << 30;  // of all requests that are not answered; then 503
  std::int64_t unsent_bytes_max = 8 << 20;  // of an answer whose client does not read
  double read_seconds_max = 60;             // for one request to arrive
  double idle_seconds_max = 75;             // between two requests of a connection
  double write_seconds_max = 60;            // without the client reading anything
  // The answer to a request that HTTP itself refuses; its path is empty where it was not
  // understood.
  std::function<HttpAnswer(int status, const std::string& sentence, const std::string& path)>
      refusal;
};

class HttpServer {
 public:
  // Listens. Errors: an address that cannot be had, with its reason.
  static Result<std::unique_ptr<HttpServer>> create(HttpOptions options, HttpHandler handler);
  virtual ~HttpServer() = default;

  virtual int port() const = 0;
  // Moves bytes until close(); on the calling thread.
  virtual void run() = 0;
  // Accepts nobody any more, and closes connections as soon as they have their answer. Any thread.
  virtual void drain() = 0;
  // Requests that have no complete answer yet.
  virtual std::int64_t open_requests() const = 0;
  // Ends run(), whatever is open. Any thread.
  virtual void close() = 0;
};

}  // namespace m3
