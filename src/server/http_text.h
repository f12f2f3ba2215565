// The text of HTTP/1.1 answers, and of addresses.
#pragma once

#include <string>
#include <string_view>

#include "server/http.h"

namespace m3 {

// Where a body ends: of a stream the length is not known yet, and HTTP/1.0 knows no chunks.
enum class HttpBody { kWhole, kChunked, kUntilClosed };
// Status line and headers, to the empty line.
std::string http_head(const HttpAnswer& answer, HttpBody body, bool keep_alive);
// One chunk of a chunked body; nothing for an empty text, which would end the body.
std::string http_chunk(std::string_view text);
inline constexpr std::string_view kLastHttpChunk = "0\r\n\r\n";

// Of http://example.org/a?b, as proxies are asked, /a?b; all else stays as it is.
std::string origin_form(std::string_view target);

// %41 becomes A. What is no escape stays as it is.
std::string decode_percent(std::string_view text);

}  // namespace m3
