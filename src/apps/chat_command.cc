#include "apps/chat_command.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

namespace m3 {
namespace {

constexpr std::string_view kSpace = " \t\r";

bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}

bool continues_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
}

std::string_view trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

}  // namespace

std::optional<ChatCommand> parse_chat_command(std::string_view line) {
  if (!line.starts_with('/')) return std::nullopt;
  const std::string_view word = line.substr(1, line.find_first_of(kSpace) - 1);
  if (word.empty() || !is_letter(word[0]) || !std::ranges::all_of(word, continues_name))
    return std::nullopt;
  return ChatCommand{std::string(word), std::string(trim(line.substr(1 + word.size())))};
}

std::string typed_file(std::string_view text) {
  const bool quoted = text.size() >= 2 && text.front() == text.back() &&
                      (text.front() == '"' || text.front() == '\'');
  if (quoted) text = text.substr(1, text.size() - 2);
  const char* home = std::getenv("HOME");
  if (home != nullptr && text.starts_with("~/")) return home + std::string(text.substr(1));
  return std::string(text);
}

}  // namespace m3
