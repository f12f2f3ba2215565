#include "server/http.h"

#include <fmt/core.h>
#include <poll.h>

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <deque>
#include <optional>
#include <set>

#include "server/http_text.h"

namespace m3 {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using Error = boost::system::error_code;

std::chrono::nanoseconds duration(double seconds) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
}

std::string text_of(boost::beast::string_view text) {
  return {text.data(), text.size()};
}

class Connection;

// What connections share. All but `open_requests` belongs to the network's thread.
struct Shared {
  HttpOptions options;
  HttpHandler handler;
  asio::io_context io{1};
  asio::thread_pool workers;
  std::set<std::shared_ptr<Connection>> connections;
  std::atomic<std::int64_t> open_requests{0};
  std::int64_t body_bytes = 0;  // of bodies that came, or were promised
  bool draining = false;

  Shared(HttpOptions o, HttpHandler h)
      : options(std::move(o)),
        handler(std::move(h)),
        workers(static_cast<std::size_t>(options.workers)) {}
};

// One client. Requests of a connection are answered one after the other. Everything here runs on
// the network's thread; Reply brings the handler's calls there.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Shared& shared, tcp::socket socket)
      : shared_(shared), stream_(std::move(socket)), next_look_(shared.io) {
    Error error;
    const auto peer = stream_.socket().remote_endpoint(error);
    if (!error) peer_ = peer.address().to_string();
  }

  void start() { read(); }
  // Lets go of who waits for the client to hang up, who holds this connection in turn.
  void abandon() { on_gone_ = nullptr; }
  void refuse() {
    closing_ = true;
    send_error(503, "this server has as many connections as it takes; try again later");
  }
  bool idle() const { return !replying_; }
  void close() {
    Error ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
    stream_.close();
    forget();
  }

  // ------------------------------------------------------------------ what replies ask for

  void send(std::uint64_t request, HttpAnswer answer) {
    if (!answers(request) || begun_) return;
    begun_ = true;
    keep_alive_ = keep_alive_ && !shared_.draining;
    std::string text = http_head(answer, HttpBody::kWhole, keep_alive_);
    if (!head_only_) text += answer.body;
    push(std::move(text));
    complete_ = true;
    finish_if_sent();
  }
  void begin(std::uint64_t request, HttpAnswer head) {
    if (!answers(request) || begun_) return;
    begun_ = true;
    keep_alive_ = keep_alive_ && !shared_.draining;
    const HttpBody body = chunked_ ? HttpBody::kChunked : HttpBody::kUntilClosed;
    push(http_head(head, body, keep_alive_ && chunked_) + body_text(head.body));
  }
  void write(std::uint64_t request, std::string_view text) {
    if (answers(request) && begun_ && !complete_) push(body_text(text));
  }
  void end(std::uint64_t request) {
    if (!answers(request) || !begun_ || complete_) return;
    if (chunked_ && !head_only_) push(std::string(kLastHttpChunk));
    if (!chunked_) keep_alive_ = false;
    complete_ = true;
    finish_if_sent();
  }
  void on_gone(std::uint64_t request, std::function<void()> call) {
    if (request == request_ && !gone_ && !complete_) {
      on_gone_ = std::move(call);
    } else if (gone_ || request != request_) {
      call();
    }
  }
  void dropped(std::uint64_t request) {
    if (answers(request) && !begun_)
      send(request, refusal(500, "the server failed to answer this request"));
    else if (answers(request) && !complete_)
      lose();
  }

 private:
  class Reply;

  bool answers(std::uint64_t request) const { return request == request_ && replying_ && !gone_; }
  HttpAnswer refusal(int status, const std::string& sentence) const {
    if (!shared_.options.refusal) return {.status = status, .body = sentence};
    const std::string path = parser_ ? text_of(parser_->get().target()) : path_;
    return shared_.options.refusal(status, sentence, path);
  }
  std::string body_text(std::string_view text) const {
    if (head_only_) return "";
    return chunked_ ? http_chunk(text) : std::string(text);
  }

  // ------------------------------------------------------------------ requests

  void read() {
    if (shared_.draining && !first_) return close();
    parser_.emplace();
    parser_->header_limit(static_cast<std::uint32_t>(shared_.options.header_bytes_max));
    parser_->body_limit(static_cast<std::uint64_t>(shared_.options.body_bytes_max));
    // Until its first byte a connection is idle; then a request has its time.
    stream_.expires_after(
        duration(first_ ? shared_.options.read_seconds_max : shared_.options.idle_seconds_max));
    first_ = false;
    http::async_read_header(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](Error error, std::size_t) { self->header_read(error); });
  }

  void header_read(Error error) {
    if (error) return read_failed(error);
    stream_.expires_after(duration(shared_.options.read_seconds_max));
    if (!knows_end()) {
      closing_ = true;
      return send_error(400, "a Transfer-Encoding must be \"chunked\", and of HTTP/1.1");
    }
    if (!reserve_body()) {
      closing_ = true;
      return send_error(503, "this server holds as many bytes of requests as it takes; try again");
    }
    const auto& head = parser_->get();
    if (head.version() >= 11 && beast::iequals(head[http::field::expect], "100-continue"))
      return continue_body();
    read_body();
  }

  // Where a body ends that is coded otherwise is anybody's guess: what one takes for its bytes is
  // the next request to another.
  bool knows_end() const {
    const auto& head = parser_->get();
    const auto coding = head.find(http::field::transfer_encoding);
    return coding == head.end() ||
           (head.version() >= 11 && beast::iequals(coding->value(), "chunked"));
  }

  // A body without a length may be as long as any.
  bool reserve_body() {
    const auto length = parser_->content_length();
    std::int64_t bytes = shared_.options.body_bytes_max;
    if (length) bytes = static_cast<std::int64_t>(*length);
    if (!length && !parser_->chunked()) bytes = 0;
    if (shared_.body_bytes + bytes > shared_.options.bodies_bytes_max) return false;
    shared_.body_bytes += bytes;
    reserved_ = bytes;
    return true;
  }
  void release_body() { shared_.body_bytes -= std::exchange(reserved_, 0); }

  void continue_body() {
    static constexpr std::string_view kGoOn = "HTTP/1.1 100 Continue\r\n\r\n";
    asio::async_write(stream_, asio::buffer(kGoOn.data(), kGoOn.size()),
                      [self = shared_from_this()](Error error, std::size_t) {
                        error ? self->close() : self->read_body();
                      });
  }

  void read_body() {
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](Error error, std::size_t) {
                       error ? self->read_failed(error) : self->handle();
                     });
  }

  void read_failed(Error error) {
    closing_ = true;
    if (error == http::error::body_limit)
      return send_error(413, fmt::format("the body has more than {} bytes, the most that this "
                                         "server takes",
                                         shared_.options.body_bytes_max));
    if (error == http::error::header_limit || error == http::error::buffer_overflow)
      return send_error(431, fmt::format("the headers have more than {} bytes, the most that this "
                                         "server takes",
                                         shared_.options.header_bytes_max));
    const bool http_error =
        error.category() == http::make_error_code(http::error::bad_method).category();
    if (http_error && error != http::error::end_of_stream && error != http::error::partial_message)
      return send_error(400, fmt::format("this is no HTTP request: {}", error.message()));
    close();
  }

  // Answers what never became a request, and closes.
  void send_error(int status, const std::string& sentence) {
    begin_reply(/*keep_alive=*/false, /*version=*/11, /*head_only=*/false);
    send(request_, refusal(status, sentence));
  }

  void begin_reply(bool keep_alive, unsigned version, bool head_only) {
    ++request_;
    ++shared_.open_requests;
    replying_ = true;
    begun_ = complete_ = false;
    keep_alive_ = keep_alive;
    chunked_ = version >= 11;
    head_only_ = head_only;
  }

  void handle() {
    auto& message = parser_->get();
    HttpRequest request{.method = text_of(message.method_string()),
                        .path = origin_form(text_of(message.target()))};
    if (const auto mark = request.path.find('?'); mark != std::string::npos) {
      request.query = request.path.substr(mark + 1);
      request.path.resize(mark);
    }
    request.path = path_ = decode_percent(request.path);
    for (const auto& field : message)
      request.headers.emplace_back(text_of(field.name_string()), text_of(field.value()));
    request.body = std::move(message.body());
    request.peer = peer_;
    begin_reply(message.keep_alive(), message.version(), request.method == "HEAD");
    parser_.reset();
    watch();
    hand_over(std::move(request));
  }

  void hand_over(HttpRequest request);

  // ------------------------------------------------------------------ the client's end

  // While an answer is made, a socket that can be read has hung up, or sends its next request;
  // behind that one it may hang up later.
  void watch() {
    stream_.socket().async_wait(tcp::socket::wait_read,
                                [self = shared_from_this(), request = request_](Error error) {
                                  if (!error && request == self->request_) self->look();
                                });
  }
  void look() {
    if (!replying_ || gone_) return;
    pollfd end{.fd = stream_.socket().native_handle(), .events = POLLRDHUP, .revents = 0};
    if (::poll(&end, 1, /*timeout=*/0) > 0) return lose();
    next_look_.expires_after(std::chrono::milliseconds(500));
    next_look_.async_wait([self = shared_from_this(), request = request_](Error error) {
      if (!error && request == self->request_) self->look();
    });
  }

  // Nothing reaches the client any more.
  void lose() {
    if (gone_) return;
    gone_ = true;
    unsent_.clear();
    if (auto call = std::exchange(on_gone_, nullptr)) call();
    finish_request();
    close();
  }

  // ------------------------------------------------------------------ bytes out

  void push(std::string text) {
    if (text.empty()) return;
    unsent_bytes_ += static_cast<std::int64_t>(text.size());
    unsent_.push_back(std::move(text));
    // A whole answer may be large; a stream that piles up has nobody who reads it.
    if (unsent_.size() > 1 && unsent_bytes_ > shared_.options.unsent_bytes_max) return lose();
    if (!writing_) write_next();
  }

  void write_next() {
    writing_ = true;
    sending_.clear();
    while (!unsent_.empty() && sending_.size() < (64u << 10)) {
      sending_ += unsent_.front();
      unsent_.pop_front();
    }
    stream_.expires_after(duration(shared_.options.write_seconds_max));
    asio::async_write(
        stream_, asio::buffer(sending_),
        [self = shared_from_this()](Error error, std::size_t) { self->written(error); });
  }

  void written(Error error) {
    writing_ = false;
    if (gone_) return;
    if (error) return lose();
    unsent_bytes_ -= static_cast<std::int64_t>(sending_.size());
    if (!unsent_.empty()) return write_next();
    finish_if_sent();
  }

  void finish_if_sent() {
    if (!complete_ || writing_ || !unsent_.empty() || !replying_) return;
    finish_request();
    if (keep_alive_ && !closing_ && !shared_.draining) {
      Error ignored;
      stream_.socket().cancel(ignored);  // watch()
      return read();
    }
    linger();
  }
  void finish_request() {
    if (!replying_) return;
    replying_ = false;
    release_body();
    on_gone_ = nullptr;
    --shared_.open_requests;
  }

  // Closing a socket with unread bytes would make the client lose the answer: reads what comes, for
  // a moment.
  void linger() {
    Error ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    stream_.expires_after(std::chrono::seconds(2));
    discard();
  }
  void discard() {
    sink_.resize(64 << 10);
    stream_.async_read_some(asio::buffer(sink_),
                            [self = shared_from_this()](Error error, std::size_t) {
                              error ? self->close() : self->discard();
                            });
  }

  void forget() {
    release_body();
    shared_.connections.erase(shared_from_this());
  }

  Shared& shared_;
  beast::tcp_stream stream_;
  asio::steady_timer next_look_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  std::string peer_;
  bool first_ = true;     // no request has been read yet
  bool closing_ = false;  // what was read last leaves nothing that could follow

  std::int64_t reserved_ = 0;  // of shared_.body_bytes

  // Of the request that is being answered.
  std::string path_;
  std::uint64_t request_ = 0;
  bool replying_ = false, begun_ = false, complete_ = false, gone_ = false;
  bool keep_alive_ = false, chunked_ = false, head_only_ = false;
  std::function<void()> on_gone_;

  std::deque<std::string> unsent_;
  std::int64_t unsent_bytes_ = 0;
  std::string sending_, sink_;
  bool writing_ = false;
};

class Connection::Reply final : public HttpReply {
 public:
  Reply(std::shared_ptr<Connection> connection, std::uint64_t request)
      : connection_(std::move(connection)), request_(request) {}
  ~Reply() override {
    post([](Connection& c, std::uint64_t request) { c.dropped(request); });
  }
  void send(HttpAnswer answer) override {
    post([answer = std::move(answer)](Connection& c, std::uint64_t request) mutable {
      c.send(request, std::move(answer));
    });
  }
  void begin(HttpAnswer head) override {
    post([head = std::move(head)](Connection& c, std::uint64_t request) mutable {
      c.begin(request, std::move(head));
    });
  }
  void write(std::string_view text) override {
    post([text = std::string(text)](Connection& c, std::uint64_t request) {
      c.write(request, text);
    });
  }
  void end() override {
    post([](Connection& c, std::uint64_t request) { c.end(request); });
  }
  void on_gone(std::function<void()> call) override {
    post([call = std::move(call)](Connection& c, std::uint64_t request) mutable {
      c.on_gone(request, std::move(call));
    });
  }

 private:
  template <typename Call>
  void post(Call call) {
    asio::post(connection_->stream_.get_executor(),
               [connection = connection_, request = request_, call = std::move(call)]() mutable {
                 call(*connection, request);
               });
  }

  std::shared_ptr<Connection> connection_;
  std::uint64_t request_;
};

void Connection::hand_over(HttpRequest request) {
  auto reply = std::make_shared<Reply>(shared_from_this(), request_);
  asio::post(shared_.workers, [&handler = shared_.handler, request = std::move(request),
                               reply = std::move(reply)]() mutable {
    handler(std::move(request), std::move(reply));
  });
}

class BeastServer final : public HttpServer {
 public:
  BeastServer(HttpOptions options, HttpHandler handler)
      : shared_(std::move(options), std::move(handler)),
        acceptor_(shared_.io),
        retry_(shared_.io) {}
  ~BeastServer() override {
    close();
    shared_.workers.join();
    for (const auto& connection : shared_.connections) connection->abandon();
    shared_.connections.clear();
  }

  Status listen() {
    const HttpOptions& o = shared_.options;
    const auto failed = [&](const Error& error) {
      return fail("cannot listen at {}:{}: {}", o.host, o.port, error.message());
    };
    Error error;
    tcp::resolver resolver(shared_.io);
    const auto found = resolver.resolve(o.host, std::to_string(o.port), error);
    if (error || found.empty()) return failed(error);
    const tcp::endpoint endpoint = found.begin()->endpoint();
    if (acceptor_.open(endpoint.protocol(), error)) return failed(error);
    acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (acceptor_.bind(endpoint, error)) return failed(error);
    if (acceptor_.listen(1024, error)) return failed(error);
    return {};
  }

  int port() const override { return acceptor_.local_endpoint().port(); }

  void run() override {
    accept();
    auto work = asio::make_work_guard(shared_.io);
    shared_.io.run();
  }

  void drain() override {
    asio::post(shared_.io, [this] {
      shared_.draining = true;
      Error ignored;
      acceptor_.close(ignored);
      const auto connections = shared_.connections;  // close() takes itself out
      for (const auto& connection : connections)
        if (connection->idle()) connection->close();
    });
  }
  std::int64_t open_requests() const override { return shared_.open_requests; }
  void close() override { shared_.io.stop(); }

 private:
  void accept() {
    acceptor_.async_accept([this](Error error, tcp::socket socket) {
      if (error == asio::error::operation_aborted || !acceptor_.is_open()) return;
      if (error) return accept_later();  // out of descriptors: closing ones will free some
      socket.set_option(tcp::no_delay(true), error);
      auto connection = std::make_shared<Connection>(shared_, std::move(socket));
      shared_.connections.insert(connection);
      const auto open = static_cast<std::int64_t>(shared_.connections.size());
      open > shared_.options.connections_max ? connection->refuse() : connection->start();
      accept();
    });
  }
  void accept_later() {
    retry_.expires_after(std::chrono::milliseconds(100));
    retry_.async_wait([this](Error error) {
      if (!error) accept();
    });
  }

  Shared shared_;
  tcp::acceptor acceptor_;
  asio::steady_timer retry_;
};

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers)
    if (beast::iequals({key.data(), key.size()}, {name.data(), name.size()})) return value;
  return {};
}

Result<std::unique_ptr<HttpServer>> HttpServer::create(HttpOptions options, HttpHandler handler) {
  auto server = std::make_unique<BeastServer>(std::move(options), std::move(handler));
  M3_TRY_STATUS(server->listen());
  return server;
}

}  // namespace m3
