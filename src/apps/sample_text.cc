#include "apps/sample_text.h"

#include "text/utf8.h"

namespace m3 {
namespace {

// Repeated special tokens are counted.
std::string text_of(std::span<const TokenId> ids, const Tokenizer& tokenizer) {
  std::string text;
  for (std::size_t begin = 0; begin < ids.size();) {
    const bool special = tokenizer.is_special(ids[begin]);
    std::size_t end = begin + 1;
    while (end < ids.size() && (special ? ids[end] == ids[begin] : !tokenizer.is_special(ids[end])))
      ++end;
    text += visible_text(tokenizer.decode(ids.subspan(begin, special ? 1 : end - begin)));
    if (special && end - begin > 1) text += fmt::format("×{}", end - begin);
    begin = end;
  }
  return text;
}

}  // namespace

std::string visible_text(std::string_view text) {
  std::string shown;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = read_utf8(text, at);
    const bool control = c.state != Utf8Char::State::kValid || c.code_point == 0x7f ||
                         (c.code_point < 0x20 && c.code_point != '\n' && c.code_point != '\t') ||
                         (c.code_point >= 0x80 && c.code_point < 0xa0);
    for (const char byte : text.substr(at, c.length)) {
      if (control)
        shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
      else
        shown += byte;
    }
    at += c.length;
  }
  return shown;
}

std::string sample_text(const Sample& sample, const Tokenizer& tokenizer, bool colour) {
  const std::string_view open = colour ? "\x1b[32m" : "⟦", close = colour ? "\x1b[0m" : "⟧";
  const std::span<const TokenId> ids = sample.ids;
  const auto text = [&](std::int64_t begin, std::int64_t end) {
    return text_of(
        ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
        tokenizer);
  };
  std::string shown;
  std::int64_t at = 0;
  for (const IdRange& range : sample.scored) {
    shown += text(at, range.begin);
    shown += open;
    shown += text(range.begin, range.end);
    shown += close;
    at = range.end;
  }
  return shown + text(at, std::ssize(ids));
}

}  // namespace m3
