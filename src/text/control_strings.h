// The control strings that the template writes and the parsers of its output look for (spec:
// chat-and-api §1.4). Their ids are the tokenizer's business.
#pragma once

#include <string_view>

namespace m3::control {

constexpr std::string_view kDocumentBegin = "]~!b[";
constexpr std::string_view kTurnBegin = "]~b]";
constexpr std::string_view kTurnEnd = "[e~[";
constexpr std::string_view kNamespace = "]<]minimax[>[";  // stands before every tag of a tool call
constexpr std::string_view kToolCallBegin = "<tool_call>";
constexpr std::string_view kToolCallEnd = "</tool_call>";
constexpr std::string_view kThinkBegin = "<mm:think>";
constexpr std::string_view kThinkEnd = "</mm:think>";
constexpr std::string_view kImage = "]<]image[>[";
constexpr std::string_view kVideo = "]<]video[>[";
// Around the placeholders of a picture, and around those of each temporal group of a clip.
constexpr std::string_view kImageBegin = "]<]start of image[>[";
constexpr std::string_view kImageEnd = "]<]end of image[>[";

}  // namespace m3::control
