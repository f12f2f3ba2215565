// What is likely a mistake in a record that can be trained on nevertheless.
#pragma once

#include <string>
#include <vector>

#include "text/chat.h"

namespace m3 {

// Keys of a conversation's record that nobody reads, a sentence for each kind: all unknown ones of
// messages, and those beside them that are a slip away from a known one. Tables have columns of
// their own, and what OpenAI answers has keys that mean nothing here: neither is remarked on.
std::vector<std::string> remarks_on_keys(const Json& record);

// What the conversation teaches, `learnt` of each assistant message: empty answers, answers to
// nobody, think tags that are text, calls of tools that are not declared, "<image>" as a word.
std::vector<std::string> remarks_on_chat(const ChatInput& chat, const std::vector<bool>& learnt);

}  // namespace m3
