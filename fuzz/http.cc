// The bytes of a connection, to the real server over loopback: whatever comes, the server answers
// it by well-formed responses or hangs up, holds nothing afterwards, and serves the next client.
//
// An input's first line says how the client behaves, the rest is what it sends. The line's first
// character is how it ends ('l': listens till the end, 's': shuts its side at once, 'h': hangs up
// at once), the codes of the others are the sizes of its first pieces.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"
#include "server/http.h"
#include "server/testing.h"

namespace {

using namespace m3;

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPatience(10);  // with whatever the server does
constexpr std::size_t kPiecesMax = 16;         // each costs a moment
constexpr std::int64_t kBodyMax = 4096;

// Echoes, streams, answers late, or drops the request, as its path says.
class Handler {
 public:
  void handle(const HttpRequest& request, std::shared_ptr<HttpReply> reply) {
    if (const std::string wrong = what_is_wrong(request); !wrong.empty()) {
      const std::lock_guard lock(mutex_);
      wrong_ = wrong;
    }
    const bool head = request.method == "HEAD";
    const HttpHeaders headers = {{"Has-Body", head ? "no" : "yes"}};
    if (request.path == "/stream") {
      reply->begin({.body = "begin", .content_type = "text/event-stream", .headers = headers});
      reply->write(request.body);
      keep(std::move(reply));
    } else if (request.path == "/late" && !head) {
      keep(std::move(reply));
    } else if (request.path != "/drop" || head) {
      reply->send({.body = request.method + request.path + request.body, .headers = headers});
    }
  }
  // For a stream the first call has no effect, for others the rest has none.
  void answer_late() {
    for (const auto& reply : take_late()) {
      reply->send({.body = "late", .headers = {{"Has-Body", "yes"}}});
      reply->write("end");
      reply->end();
    }
  }
  // The fuzzer notes its input where its own thread stops.
  void check() {
    const std::lock_guard lock(mutex_);
    M3_CHECK(wrong_.empty(), "{}", wrong_);
  }

 private:
  static std::string what_is_wrong(const HttpRequest& request) {
    if (request.method.empty()) return "a request without a method";
    if (std::ssize(request.body) > kBodyMax) return "a body longer than any may be";
    for (const auto& [name, value] : request.headers)
      if ((name + value).find_first_of("\r\n") != std::string::npos) return "a header of two lines";
    return "";
  }
  void keep(std::shared_ptr<HttpReply> reply) {
    const std::lock_guard lock(mutex_);
    late_.push_back(std::move(reply));
  }
  std::vector<std::shared_ptr<HttpReply>> take_late() {
    const std::lock_guard lock(mutex_);
    return std::exchange(late_, {});
  }

  std::mutex mutex_;  // of what follows
  std::string wrong_;
  std::vector<std::shared_ptr<HttpReply>> late_;
};

class Client {
 public:
  explicit Client(int port) : socket_(testing::connect_to_loopback(port)) {
    const linger reset{.l_onoff = 1, .l_linger = 0};  // leaves no port behind that waits
    ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  }
  ~Client() { ::close(socket_); }

  void say(std::string_view text) {
    (void)!::send(socket_, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  void say_no_more() { ::shutdown(socket_, SHUT_WR); }

  // What comes until the server hangs up. After a while of silence this side says no more.
  std::string hear_all(Handler& handler, std::chrono::milliseconds silence) {
    std::string heard;
    const auto end = Clock::now() + kPatience;
    for (;;) {
      handler.answer_late();
      pollfd waiting{.fd = socket_, .events = POLLIN, .revents = 0};
      char buffer[4096];
      if (::poll(&waiting, 1, static_cast<int>(silence.count())) == 0) {
        say_no_more();
      } else if (const ssize_t n = ::recv(socket_, buffer, sizeof buffer, 0); n > 0) {
        heard.append(buffer, static_cast<std::size_t>(n));
      } else {
        return heard;
      }
      M3_CHECK(Clock::now() < end, "the server neither answers nor hangs up");
    }
  }

 private:
  int socket_;
};

// Reads responses. The last may be cut off: the client may have been the first to hang up.
class Responses {
 public:
  explicit Responses(std::string_view text) : text_(text) {
    for (bool last = false; !text_.empty();) {
      const std::string_view head = until("\r\n\r\n");
      if (head.empty()) return;
      M3_CHECK(head.starts_with("HTTP/1.1 ") && head.size() > 12, "no response: {}", head);
      M3_CHECK(!last, "something follows the last answer: {}", head);
      const int status = number(head.substr(9, 3), 10);
      M3_CHECK(status == 100 || (status >= 200 && status <= 599), "status {}", status);
      if (status == 100) continue;
      last = head.ends_with("Connection: close");
      if (head.find("Has-Body: no") == head.npos) skip_body(head);
    }
  }

 private:
  static int number(std::string_view digits, int base) {
    int value = -1;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    M3_CHECK(error == std::errc() && end == digits.data() + digits.size(), "no number: {}", digits);
    return value;
  }
  // The text before the next `mark`, which is skipped; empty, and all is read, where none follows.
  std::string_view until(std::string_view mark) {
    const auto at = text_.find(mark);
    const std::string_view before = text_.substr(0, at == text_.npos ? 0 : at);
    text_.remove_prefix(at == text_.npos ? text_.size() : at + mark.size());
    return before;
  }
  void skip(std::size_t size) { text_.remove_prefix(std::min(size, text_.size())); }

  void skip_body(std::string_view head) {
    constexpr std::string_view kLength = "\r\nContent-Length: ";
    if (const auto at = head.find(kLength); at != head.npos) {
      const std::string_view rest = head.substr(at + kLength.size());
      skip(static_cast<std::size_t>(number(rest.substr(0, rest.find('\r')), 10)));
    } else {
      M3_CHECK(head.find("chunked") != head.npos || head.ends_with("close"), "no end: {}", head);
      head.find("chunked") != head.npos ? skip_chunks() : skip(text_.size());
    }
  }
  void skip_chunks() {
    for (int size = 1; size != 0 && !text_.empty();) {
      const std::string_view digits = until("\r\n");
      if (digits.empty()) return;
      size = number(digits, 16);
      skip(static_cast<std::size_t>(size));
      M3_CHECK(text_.substr(0, 2) == std::string_view("\r\n").substr(0, text_.size()),
               "a chunk that does not end");
      skip(2);
    }
  }

  std::string_view text_;
};

// Lives as long as the process: its threads do.
struct World {
  World() {
    HttpOptions options{.port = 0,
                        .header_bytes_max = 2048,
                        .body_bytes_max = kBodyMax,
                        .bodies_bytes_max = kBodyMax};  // a byte not given back is missed
    auto made = HttpServer::create(options, [this](const HttpRequest& request, auto reply) {
      handler.handle(request, std::move(reply));
    });
    M3_CHECK(made, "{}", made.error().message);
    http = std::move(*made);
    std::thread([this] { http->run(); }).detach();
  }
  void wait_until_idle() {
    const auto end = Clock::now() + kPatience;
    for (handler.answer_late(); http->open_requests() != 0; handler.answer_late()) {
      M3_CHECK(Clock::now() < end, "{} requests are open", http->open_requests());
      std::this_thread::yield();
    }
  }
  Handler handler;
  std::unique_ptr<HttpServer> http;
};

void try_bytes(World& world, char ending, std::string_view sizes, std::string_view text) {
  Client client(world.http->port());
  for (const char size : sizes.substr(0, kPiecesMax)) {
    client.say(text.substr(0, static_cast<unsigned char>(size)));
    text.remove_prefix(std::min<std::size_t>(static_cast<unsigned char>(size), text.size()));
    ::usleep(1);  // or the pieces come as one
  }
  client.say(text);
  if (ending == 'h') return;
  if (ending == 's') client.say_no_more();
  const std::string heard = client.hear_all(world.handler, std::chrono::milliseconds(2));
  const Responses responses(heard);
}

std::string next_client(World& world) {
  Client client(world.http->port());
  client.say(
      "POST /next HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
      "2\r\nok\r\n0\r\n\r\n");
  return client.hear_all(world.handler, kPatience);
}

// A body in chunks asks for all the room that there is. Those who hung up may have some for a
// moment more.
void try_next_client(World& world) {
  const auto end = Clock::now() + kPatience;
  for (;;) {
    const std::string heard = next_client(world);
    if (heard.starts_with("HTTP/1.1 200 OK\r\n") && heard.ends_with("\r\n\r\nPOST/nextok")) return;
    M3_CHECK(heard.starts_with("HTTP/1.1 503") && Clock::now() < end, "the next client hears: {}",
             heard);
  }
}

}  // namespace

// No two runs meet the same edges where threads take turns: weighing how rare each is, and looking
// for leaks after inputs instead of at the end, would take most of the time.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  static std::vector<char*> words(*argv, *argv + *argc);
  static char rarity[] = "-entropic=0", leaks[] = "-detect_leaks=0";
  words.insert(words.end(), {rarity, leaks, nullptr});
  *argc += 2;
  *argv = words.data();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static World* const world = new World;
  static int inputs = 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t line = std::min(input.find('\n'), size);
  if (line == 0 || line == size) return 0;
  try_bytes(*world, input[0], input.substr(1, line - 1), input.substr(line + 1));
  world->wait_until_idle();
  world->handler.check();
  if (++inputs % 16 == 0) try_next_client(*world);
  return 0;
}
