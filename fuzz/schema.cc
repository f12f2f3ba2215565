// Schemas of requests: whatever the text, an error with a sentence, or a grammar under which any
// choice of allowed tokens goes on until the output may end. The JSON stands before the first NUL,
// the bytes behind it choose.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "grammar/compile.h"
#include "grammar/output_constraint.h"

namespace {

using m3::TokenId;

struct Setting {
  m3::Tokenizer tokenizer;
  m3::Vocabulary vocabulary{tokenizer};
  m3::ControlIds ids = *m3::find_control_ids(tokenizer);
};

const Setting& setting() {
  static const Setting loaded = [] {
    const char* directory = std::getenv("M3_FUZZ_TOKENIZER");
    auto tokenizer = m3::Tokenizer::load(directory != nullptr ? directory : "data/tokenizer");
    M3_CHECK(tokenizer.has_value(), "{}", tokenizer.error().message);
    return Setting{std::move(*tokenizer)};
  }();
  return loaded;
}

// One token for each byte.
void walk(m3::OutputConstraint constraint, std::string_view choices) {
  constexpr std::size_t kStepsMax = 64;
  std::vector<std::uint64_t> bits(setting().vocabulary.mask_words());
  for (const char choice : choices.substr(0, kStepsMax)) {
    if (constraint.is_done()) return;
    M3_CHECK(constraint.allowed(bits), "a grammar that asks for nothing");
    std::vector<TokenId> allowed;
    for (TokenId id = 0; id < setting().tokenizer.vocab_size(); ++id)
      if (m3::has_bit(bits, id)) allowed.push_back(id);
    M3_CHECK(!allowed.empty(), "nothing is allowed before the end");
    // Spread over all of them; low bytes are the tokens of single bytes.
    const std::size_t which = static_cast<std::uint8_t>(choice) * allowed.size() / 256;
    M3_CHECK(constraint.accept(allowed[which]), "token {} is allowed and refused", allowed[which]);
  }
}

void check(m3::Result<m3::Grammar> grammar, bool is_block, std::string_view choices) {
  if (!grammar) {
    M3_CHECK(!grammar.error().message.empty(), "an error without a sentence");
    return;
  }
  m3::OutputRules rules{.begin = m3::OutputRules::Begin::kContent, .tools_required = is_block};
  (is_block ? rules.tools : rules.content) =
      std::make_shared<const m3::Grammar>(std::move(*grammar));
  walk(*m3::OutputConstraint::make(rules, setting().vocabulary), choices);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t border = std::min(input.find('\0'), size);
  const std::string_view choices = input.substr(std::min(border + 1, size));
  const auto schema = m3::parse_json(input.substr(0, border));
  if (!schema) {
    check(m3::regex_grammar(input.substr(0, border), "regex"), false, choices);
    return 0;
  }
  check(m3::schema_grammar(*schema, "schema"), false, choices);
  m3::Json tool = {{"name", "f"}};
  tool["parameters"] = *schema;
  const m3::Json tools = m3::Json::array({m3::Json{{"function", std::move(tool)}}});
  check(m3::tool_grammar(tools, {}, setting().ids), true, choices);
  return 0;
}
