// The parser of the model's output: turns made of markers, tags, pieces of them and any bytes.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/check.h"
#include "output/fragments.h"
#include "output/output_reader.h"
#include "text/control_strings.h"
#include "text/utf8.h"

namespace {

using Kind = m3::OutputEvent::Kind;

#define NS "]<]minimax[>["
constexpr std::string_view kPieces[] = {NS,
                                        NS "<tool_call>",
                                        NS "</tool_call>",
                                        NS "<invoke name=\"f\">",
                                        NS "<invoke name='g'>",
                                        NS "</invoke>",
                                        "<mm:think>",
                                        "</mm:think>",
                                        NS "<s>",
                                        NS "</s>",
                                        NS "<n>",
                                        NS "</n>",
                                        NS "<o>",
                                        NS "</o>",
                                        NS "<l>",
                                        NS "</l>",
                                        NS "<item>",
                                        NS "</item>",
                                        NS "<u>",
                                        NS "</u>",
                                        NS "<x>",
                                        NS "</x>",
                                        NS "<$text>",
                                        "]<]mini",
                                        "max[>[",
                                        "]<]",
                                        "]",
                                        "[",
                                        "<",
                                        ">",
                                        "</",
                                        "<tool_call>",
                                        "mm:",
                                        "think>",
                                        "<invoke name=",
                                        "\u200B",
                                        "\uFEFF",
                                        "\xE2",
                                        "\x80",
                                        "\x8B",
                                        "\xFF",
                                        "\U0001F600",
                                        "null",
                                        "5",
                                        "-1.5e3",
                                        "true",
                                        "{\"a\": [1]}",
                                        "[1, \"x\"]",
                                        "STOP",
                                        "ST",
                                        "OP",
                                        "\\",
                                        "\"",
                                        "\n",
                                        " ",
                                        "k"};
#undef NS

// One tool with values of every form; the other is not declared.
const m3::Json& tools() {
  static const auto parsed = m3::parse_json(R"([{"type":"function","function":{"name":"f",
      "parameters":{"type":"object","properties":{"s":{"type":"string"},"n":{"type":"number"},
      "o":{"type":"object","properties":{"s":{"type":"string"},"o":{"$ref":"#/properties/o"},
           "l":{"$ref":"#/properties/l"}}},
      "l":{"type":"array","items":{"anyOf":[{"type":"integer"},{"$ref":"#/properties/o"}]}},
      "u":{"anyOf":[{"$ref":"#/properties/l"},{"type":"boolean"},{"type":"null"},
           {"$ref":"#/properties/o"}]}}}}}])");
  return *parsed;
}

m3::OutputOptions options_of(std::uint8_t bits) {
  m3::OutputOptions options;
  options.begin = static_cast<m3::OutputState>(bits % 3);
  options.parse_calls = (bits & 4) != 0;
  options.tools = tools();
  options.make_call_id = [n = 0]() mutable { return fmt::format("id{}", n++); };
  if ((bits & 8) != 0) options.stop = {"STOP", "OPS"};
  options.include_stop = (bits & 16) != 0;
  options.stop_anywhere = (bits & 32) != 0;
  options.raw = (bits & 0xC0) == 0xC0;
  return options;
}

std::string turn_of(std::string_view input) {
  std::string turn;
  for (const char c : input) {
    const auto byte = static_cast<std::uint8_t>(c);
    turn +=
        byte < 0x80 ? std::string(1, c) : std::string(kPieces[(byte - 0x80) % std::size(kPieces)]);
  }
  return turn;
}

void append(m3::OutputEvents& all, const m3::OutputEvents& events) {
  for (const m3::OutputEvent& event : events) append_event(all, event);
}

m3::OutputEvents read_by(std::size_t step, std::string_view turn, m3::OutputOptions options) {
  m3::OutputReader reader(std::move(options));
  m3::OutputEvents all;
  for (std::size_t at = 0; at < turn.size(); at += step)
    append(all, reader.push(turn.substr(at, step)));
  append(all, reader.finish());
  return all;
}

void check_characters(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const m3::Utf8Char c = m3::read_utf8(text, at);
    M3_CHECK(c.state == m3::Utf8Char::State::kValid, "byte {} of a text is half a character", at);
    at += c.length;
  }
}

void check_events(const m3::OutputEvents& events, bool raw) {
  std::map<std::pair<Kind, int>, std::string> fields;
  for (const m3::OutputEvent& event : events) {
    check_characters(event.text);
    std::string& field = fields[{event.kind, event.call}];
    field += event.text;
    if (event.kind == Kind::kCallBegin) M3_CHECK(!event.name.empty(), "a call has no name");
    if (event.kind != Kind::kCallEnd) continue;
    const std::string& arguments = fields[{Kind::kArguments, event.call}];
    const auto value = m3::parse_json(arguments);
    M3_CHECK(value && value->is_object(), "arguments are {}", arguments);
  }
  for (const auto& [field, text] : fields)
    M3_CHECK(raw || text.find(m3::control::kNamespace) == text.npos, "shows {}", text);
  M3_CHECK(events.empty() || events.back().kind != Kind::kArguments, "a call does not end");
}

void check_fragments(const m3::OutputEvents& events, std::size_t step) {
  m3::Fragments fragments;
  m3::OutputEvents all;
  double now_s = 0;
  const auto receive = [&](const m3::OutputEvents& sent) {
    for (const m3::OutputEvent& event : sent) {
      check_characters(event.text);
      M3_CHECK(event.text.size() <= 800, "a fragment of {} bytes", event.text.size());
    }
    append(all, sent);
  };
  for (const m3::OutputEvent& event : events) {
    receive(fragments.push({event}, now_s));
    now_s += 0.01 * static_cast<double>(step);
    receive(fragments.flush(now_s));
  }
  receive(fragments.finish());
  M3_CHECK(all == events, "fragments do not make up the events");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string turn =
      turn_of({reinterpret_cast<const char*>(data) + 2, std::min<std::size_t>(size - 2, 600)});
  const std::size_t step = data[1] % 16 + 2U;
  const m3::OutputOptions options = options_of(data[0]);
  const m3::OutputEvents whole = read_by(turn.size() + 1, turn, options);
  M3_CHECK(read_by(1, turn, options) == whole, "cuts by 1 matter");
  M3_CHECK(read_by(step, turn, options) == whole, "cuts by {} matter", step);
  check_events(whole, options.raw);
  check_fragments(whole, step);
  return 0;
}
