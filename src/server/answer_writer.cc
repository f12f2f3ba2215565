#include "server/answer_writer.h"

#include <random>

namespace m3 {

std::string random_id(const std::string& prefix) {
  thread_local std::random_device device;
  std::string id = prefix;
  for (int i = 0; i < 3; ++i) id += fmt::format("{:08x}", device());
  return id;
}

std::string sse_event(const Json& data, const std::string& name) {
  return (name.empty() ? "" : "event: " + name + "\n") + "data: " + json_text(data) + "\n\n";
}

HttpAnswer sse_head(const std::string& request_id) {
  HttpAnswer head{.content_type = "text/event-stream; charset=utf-8"};
  if (!request_id.empty()) head.headers.emplace_back("X-Request-Id", request_id);
  return head;
}

}  // namespace m3
