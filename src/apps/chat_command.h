// What a line typed in `m3 chat` asks for.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace m3 {

struct ChatCommand {
  std::string name;      // "image"
  std::string argument;  // what follows, without white space around it; may be empty
};

// A line whose first word is '/' and a name: "/image a.jpg". Nothing where the line is a message,
// as "/usr/bin/m3 is what?" is, or a line that begins with a space.
std::optional<ChatCommand> parse_chat_command(std::string_view line);

// A file as people type it: one pair of quotes around it is taken away, and ~/ becomes $HOME/.
std::string typed_file(std::string_view text);

}  // namespace m3
