#include "server/http_text.h"

#include <fmt/core.h>

#include <boost/beast/http/status.hpp>
#include <cctype>
#include <charconv>

namespace m3 {

std::string http_head(const HttpAnswer& answer, HttpBody body, bool keep_alive) {
  const auto reason =
      boost::beast::http::obsolete_reason(static_cast<boost::beast::http::status>(answer.status));
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", answer.status,
                                 std::string_view(reason.data(), reason.size()));
  if (!answer.content_type.empty())
    head += fmt::format("Content-Type: {}\r\n", answer.content_type);
  for (const auto& [name, value] : answer.headers) head += fmt::format("{}: {}\r\n", name, value);
  if (body != HttpBody::kWhole) {
    head += "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
    if (body == HttpBody::kChunked) head += "Transfer-Encoding: chunked\r\n";
  } else if (answer.status != 204) {  // which has no body, nor its length
    head += fmt::format("Content-Length: {}\r\n", answer.body.size());
  }
  return head + (keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n");
}

std::string http_chunk(std::string_view text) {
  return text.empty() ? "" : fmt::format("{:x}\r\n{}\r\n", text.size(), text);
}

std::string origin_form(std::string_view target) {
  const auto scheme = target.find("://");
  if (target.starts_with('/') || scheme == target.npos) return std::string(target);
  const auto path = target.find('/', scheme + 3);
  return path == target.npos ? "/" : std::string(target.substr(path));
}

std::string decode_percent(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    const char* begin = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(begin, begin + 2, value, 16).ptr == begin + 2) {
      decoded += static_cast<char>(value);
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

}  // namespace m3
