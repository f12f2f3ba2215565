// The network's side alone: a handler that the test writes, clients on sockets.
#include "server/http.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <thread>

#include "server/http_text.h"
#include "server/testing.h"

namespace m3 {
namespace {

// A client that says exactly what it is told to.
class Client {
 public:
  explicit Client(int port) : socket_(testing::connect_to_loopback(port)) {
    const timeval patience{.tv_sec = 20, .tv_usec = 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  ~Client() { hang_up(); }
  void hang_up() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  void say(std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return;  // the server has had enough
      text.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  // What comes until `end` has come, or the server closes.
  std::string hear(std::string_view end) {
    std::string heard;
    char buffer[4096];
    while (heard.find(end) == std::string::npos || end.empty()) {
      const ssize_t n = ::recv(socket_, buffer, sizeof buffer, 0);
      if (n <= 0) break;
      heard.append(buffer, static_cast<std::size_t>(n));
    }
    return heard;
  }
  std::string hear_all() { return hear(""); }

 private:
  int socket_;
};

class Server {
 public:
  explicit Server(HttpHandler handler, HttpOptions options = {}) {
    options.port = 0;
    auto made = HttpServer::create(std::move(options), std::move(handler));
    EXPECT_TRUE(made);
    http = std::move(*made);
    thread_ = std::thread([this] { http->run(); });
  }
  ~Server() {
    http->close();
    thread_.join();
  }
  std::unique_ptr<HttpServer> http;

 private:
  std::thread thread_;
};

void echo(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  reply->send({.body = request.method + " " + request.path + " " + request.body});
}

constexpr std::string_view kGet = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
constexpr std::string_view kLast = "GET /z HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

bool soon(const std::function<bool()>& condition) {
  for (int i = 0; i < 2000 && !condition(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return condition();
}

TEST(Http, AnswersSeveralRequestsOfOneConnection) {
  Server server(echo);
  Client client(server.http->port());
  client.say(kGet);
  EXPECT_NE(client.hear("GET /a ").find("200 OK"), std::string::npos);
  client.say("POST /b%20c?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
  EXPECT_NE(client.hear("hello").find("POST /b c hello"), std::string::npos);
  client.say(kLast);
  EXPECT_NE(client.hear_all().find("Connection: close"), std::string::npos);
}

TEST(Http, RequestsSentTogetherAreAnsweredInTheirOrder) {
  Server server(echo);
  Client client(server.http->port());
  client.say(std::string(kGet) + std::string(kGet) + std::string(kLast));
  const std::string heard = client.hear_all();
  EXPECT_LT(heard.find("GET /a"), heard.rfind("GET /a"));
  EXPECT_LT(heard.rfind("GET /a"), heard.find("GET /z"));
}

TEST(Http, RefusesWhatIsTooLargeOrNoHttp) {
  Server server(echo, {.header_bytes_max = 2000, .body_bytes_max = 1000});
  const auto answer = [&](const std::string& text) {
    Client client(server.http->port());
    client.say(text);
    return client.hear_all().substr(0, 12);
  };
  EXPECT_EQ(answer("POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n"), "HTTP/1.1 413");
  EXPECT_EQ(answer("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" +
                   std::string(2000, 'a') + "\r\n0\r\n\r\n"),
            "HTTP/1.1 413");
  EXPECT_EQ(answer("GET / HTTP/1.1\r\nX: " + std::string(4000, 'a') + "\r\n\r\n"), "HTTP/1.1 431");
  EXPECT_EQ(answer("what is this\r\n\r\n"), "HTTP/1.1 400");
  EXPECT_EQ(answer("GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"), "HTTP/1.1 400");
}

TEST(Http, BodiesOfAllRequestsTogetherAreBounded) {
  Server server(echo, {.body_bytes_max = 1000, .bodies_bytes_max = 1500});
  Client first(server.http->port());
  first.say("POST /1 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n");
  first.hear("100 Continue");
  const auto second = [&] {
    Client client(server.http->port());
    client.say("POST /2 HTTP/1.1\r\nConnection: close\r\nContent-Length: 600\r\n\r\n" +
               std::string(600, 'b'));
    return client.hear_all().substr(0, 12);
  };
  EXPECT_EQ(second(), "HTTP/1.1 503");
  first.say(std::string(1000, 'a'));
  first.hear("POST /1");
  EXPECT_TRUE(soon([&] { return second() == "HTTP/1.1 200"; }));
}

TEST(Http, ABodyIsAskedForWhereTheClientWaitsForThat) {
  Server server(echo);
  Client client(server.http->port());
  client.say("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_NE(client.hear("\r\n\r\n").find("100 Continue"), std::string::npos);
  client.say("ok");
  EXPECT_NE(client.hear("POST / ok").find("200"), std::string::npos);
}

// A proxy in front may have taken these bytes for the body.
TEST(Http, ABodyOfAnotherCodingIsRefusedAndWhatFollowsIsNoRequest) {
  Server server(echo);
  for (const std::string line :
       {"HTTP/1.1\r\nTransfer-Encoding: gzip", "HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
        "HTTP/1.1\r\nTransfer-Encoding: identity", "HTTP/1.0\r\nTransfer-Encoding: chunked"}) {
    Client client(server.http->port());
    client.say("POST /a " + line + "\r\nConnection: keep-alive\r\n\r\n" + std::string(kGet));
    const std::string heard = client.hear_all();
    EXPECT_TRUE(heard.starts_with("HTTP/1.1 400")) << line;
    EXPECT_EQ(heard.find("GET /a"), std::string::npos) << line;
  }
}

TEST(Http, SaysNothingThatTheVersionOrStatusForbids) {
  Server server([](HttpRequest, std::shared_ptr<HttpReply> reply) {
    reply->send({.status = 204, .content_type = ""});
  });
  Client old(server.http->port());
  old.say("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok");
  const std::string heard = old.hear_all();
  EXPECT_TRUE(heard.starts_with("HTTP/1.1 204")) << heard;  // no 100 before it
  EXPECT_EQ(heard.find("Content-Length"), std::string::npos);
}

TEST(Http, AStreamComesInChunksAndLeavesTheConnectionOpen) {
  const auto streams = std::make_shared<std::atomic<int>>(0);
  Server server([streams](HttpRequest request, std::shared_ptr<HttpReply> reply) {
    if (request.path != "/stream") return echo(std::move(request), std::move(reply));
    reply->begin({.body = "one", .content_type = "text/plain"});
    std::thread([streams, reply = std::move(reply)]() mutable {
      reply->write("two");
      reply->write("");
      reply->end();
      reply.reset();  // before the server ends
      ++*streams;
    }).detach();
  });
  Client client(server.http->port());
  client.say("GET /stream HTTP/1.1\r\n\r\n");
  const std::string heard = client.hear("0\r\n\r\n");
  EXPECT_NE(heard.find("3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"), std::string::npos) << heard;
  client.say(kLast);
  EXPECT_NE(client.hear_all().find("GET /z"), std::string::npos);
  // A client of HTTP/1.0 knows no chunks.
  Client old(server.http->port());
  old.say("GET /stream HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(old.hear_all().ends_with("\r\n\r\nonetwo"));
  EXPECT_TRUE(soon([&] { return *streams == 2; }));
}

TEST(Http, HearsOfClientsThatHangUp) {
  std::atomic<int> gone{0};
  std::vector<std::shared_ptr<HttpReply>> open;
  std::mutex mutex;
  Server server([&](HttpRequest request, std::shared_ptr<HttpReply> reply) {
    reply->on_gone([&] { ++gone; });
    if (request.path == "/stream") reply->begin({.body = "x"});
    const std::lock_guard lock(mutex);
    open.push_back(std::move(reply));
  });
  for (const std::string path : {"/stream", "/silent"}) {
    Client client(server.http->port());
    client.say("GET " + path + " HTTP/1.1\r\n\r\n");
    ASSERT_TRUE(soon([&] { return server.http->open_requests() == 1; }));
    if (path == "/stream") client.hear("x");
    client.hang_up();
    const int expected = path == "/stream" ? 1 : 2;
    EXPECT_TRUE(soon([&] { return gone == expected; })) << path;
    EXPECT_TRUE(soon([&] { return server.http->open_requests() == 0; }));
  }
  // A client may be gone before the handler has kept its reply, which must not outlive the server.
  ASSERT_TRUE(soon([&] {
    const std::lock_guard lock(mutex);
    return open.size() == 2;
  }));
  const std::lock_guard lock(mutex);
  for (const auto& reply : open) reply->write("into the void");
  open.clear();
}

TEST(Http, HearsOfClientsThatHangUpBehindTheirNextRequest) {
  std::atomic<bool> gone{false};
  std::atomic<int> asked{0};
  std::shared_ptr<HttpReply> open;
  Server server([&](HttpRequest, std::shared_ptr<HttpReply> reply) {
    reply->on_gone([&] { gone = true; });
    open = std::move(reply);
    ++asked;
  });
  Client client(server.http->port());
  client.say(kGet);
  ASSERT_TRUE(soon([&] { return asked == 1; }));
  client.say(kGet);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(gone);
  client.hang_up();
  EXPECT_TRUE(soon([&] { return gone.load(); }));
  EXPECT_EQ(asked, 1);
  open.reset();
}

TEST(Http, AClientThatDoesNotReadIsLetGo) {
  const auto gone = std::make_shared<std::atomic<bool>>(false);
  const auto written = std::make_shared<std::promise<void>>();
  Server server(
      [=](HttpRequest, std::shared_ptr<HttpReply> reply) {
        reply->on_gone([gone] { *gone = true; });
        reply->begin({.body = ""});
        std::thread([=]() mutable {
          const std::string much(1 << 20, 'x');
          for (int i = 0; i < 200 && !*gone; ++i) {
            reply->write(much);
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
          }
          reply.reset();  // before the server ends
          written->set_value();
        }).detach();
      },
      {.unsent_bytes_max = 8 << 20});
  Client client(server.http->port());
  client.say("GET / HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(soon([&] { return gone->load(); }));
  written->get_future().wait();
}

TEST(Http, ARequestThatNeverComesIsNotWaitedForForever) {
  Server server(echo, {.read_seconds_max = 0.2, .idle_seconds_max = 0.2});
  Client silent(server.http->port()), slow(server.http->port());
  slow.say("POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
  silent.hear_all();
  slow.hear_all();
  EXPECT_EQ(server.http->open_requests(), 0);
}

TEST(Http, AReplyThatIsDroppedIsA500) {
  Server server([](HttpRequest, std::shared_ptr<HttpReply>) {});
  Client client(server.http->port());
  client.say(kLast);
  EXPECT_TRUE(client.hear_all().starts_with("HTTP/1.1 500"));
}

TEST(Http, DrainingEndsOpenAnswersAndNothingElse) {
  std::shared_ptr<HttpReply> held;
  std::mutex mutex;
  Server server([&](HttpRequest, std::shared_ptr<HttpReply> reply) {
    const std::lock_guard lock(mutex);
    held = std::move(reply);
  });
  const int port = server.http->port();
  Client open(port), idle(port);
  open.say(kGet);
  // The request is counted before the handler has its reply.
  ASSERT_TRUE(soon([&] {
    const std::lock_guard lock(mutex);
    return held != nullptr;
  }));
  server.http->drain();
  EXPECT_EQ(idle.hear_all(), "");
  {
    const std::lock_guard lock(mutex);
    held->send({.body = "late"});
    held.reset();
  }
  EXPECT_NE(open.hear_all().find("late"), std::string::npos);
}

TEST(Http, TooManyConnectionsAreTurnedAway) {
  Server server(echo, {.connections_max = 2});
  Client one(server.http->port()), two(server.http->port());
  one.say(kGet);
  one.hear("GET /a");
  two.say(kGet);
  two.hear("GET /a");
  Client three(server.http->port());
  EXPECT_TRUE(three.hear_all().starts_with("HTTP/1.1 503"));
}

TEST(Http, ManyClientsAtOnce) {
  Server server(echo);
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        Client client(server.http->port());
        client.say("POST /x HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n" +
                   std::to_string(10 + t));
        right += client.hear_all().ends_with("POST /x " + std::to_string(10 + t));
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 200);
}

TEST(HttpText, DecodesPercentSigns) {
  EXPECT_EQ(decode_percent("a%41%2fb"), "aA/b");
  EXPECT_EQ(decode_percent("%4"), "%4");
  EXPECT_EQ(decode_percent("%zz%"), "%zz%");
}

TEST(HttpText, TakesThePathOutOfAWholeAddress) {
  EXPECT_EQ(origin_form("http://example.org:80/a?b=c://d"), "/a?b=c://d");
  EXPECT_EQ(origin_form("https://example.org"), "/");
  EXPECT_EQ(origin_form("/a?b=http://example.org/"), "/a?b=http://example.org/");
  EXPECT_EQ(origin_form("*"), "*");
}

TEST(HttpText, AnAddressThatCannotBeHadIsAnError) {
  const auto made = HttpServer::create({.host = "203.0.113.1", .port = 1}, echo);
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message.find("cannot listen at 203.0.113.1:1"), std::string::npos);
}

}  // namespace
}  // namespace m3
