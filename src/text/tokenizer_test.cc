#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "text/testing.h"

namespace m3 {
namespace {

using ControlTokens = Tokenizer::ControlTokens;
using Ids = std::vector<TokenId>;
using testing::cases;
using testing::error_of;
using testing::small_tokenizer;
using testing::value_of;

Json small_file() {
  return value_of(parse_json(testing::source_file("data/tokenizer/tokenizer.json")));
}

std::string fnv1a(const Ids& ids) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const TokenId id : ids)
    for (int shift = 0; shift < 32; shift += 8)
      hash = (hash ^ (static_cast<std::uint32_t>(id) >> shift & 0xFF)) * 0x100000001B3u;
  return fmt::format("{:016x}", hash);
}

std::string text_of(const Json& c) {
  if (const Json* text = find_member(c, "text")) return *text;
  std::string text;
  for (int i = 0; i < c["repeat"]["count"]; ++i) text += c["repeat"]["unit"].get<std::string>();
  return text;
}

void expect_ids(const Json& c, const std::string& key, const Ids& ids) {
  if (const Json* expected = find_member(c, key)) {
    EXPECT_EQ(ids, expected->get<Ids>()) << c["name"];
  } else {
    EXPECT_EQ(ids.size(), c[key + "_count"].get<std::size_t>()) << c["name"];
    EXPECT_EQ(fnv1a(ids), c[key + "_fnv1a"].get<std::string>()) << c["name"];
  }
}

void expect_case(const Tokenizer& tokenizer, const Json& c) {
  const std::string text = text_of(c);
  const Ids ids = value_of(tokenizer.encode(text, ControlTokens::kHonoured));
  const Ids plain = value_of(tokenizer.encode(text, ControlTokens::kPlain));
  expect_ids(c, "ids", ids);
  expect_ids(c, "ids_plain", plain);
  EXPECT_EQ(tokenizer.decode(ids), text) << c["name"];
  EXPECT_EQ(tokenizer.decode(plain), text) << c["name"];
}

TEST(Tokenizer, AnswersAsTheReference) {
  for (const Json& c : cases("tokenizer_cases.jsonl")) expect_case(small_tokenizer(), c);
}

// The other released form of the pattern, and the other spelling of merges.
TEST(Tokenizer, TakesThePatternFromTheFile) {
  Json file = small_file();
  Json& pattern = file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"];
  std::string slash_tail = pattern;
  slash_tail.insert(slash_tail.find("]*|\\s*[\\r\\n]+"), 1, '/');
  pattern = slash_tail;
  for (Json& merge : file["model"]["merges"])
    merge = fmt::format("{} {}", merge[0].get<std::string>(), merge[1].get<std::string>());
  const auto tokenizer = Tokenizer::parse(python_json(file));
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  for (const Json& c : cases("slash_tail_cases.jsonl")) {
    expect_case(*tokenizer, c);
    EXPECT_NE(value_of(small_tokenizer().encode(text_of(c), ControlTokens::kHonoured)),
              c["ids"].get<Ids>());
  }
}

TEST(Tokenizer, BytesThatAreNoUtf8ComeBack) {
  const std::string text =
      "ab\xff\xfe"
      "cd \xe2\x82 \xed\xa0\x80";
  const Ids ids = value_of(small_tokenizer().encode(text, ControlTokens::kHonoured));
  std::string bytes;
  for (const TokenId id : ids) bytes += small_tokenizer().bytes(id);
  EXPECT_EQ(bytes, text);
}

TEST(Tokenizer, KnowsItsIds) {
  const Tokenizer& t = small_tokenizer();
  EXPECT_EQ(t.vocab_size(), 4093);
  EXPECT_EQ(t.id_of("[e~["), 4052);
  EXPECT_EQ(t.id_of("]<]minimax[>["), 4090);
  EXPECT_EQ(t.id_of("a"), 64);
  EXPECT_EQ(t.id_of("no such token"), std::nullopt);
  EXPECT_EQ(t.bytes(4052), "[e~[");
  EXPECT_TRUE(t.is_special(4052));
  for (const TokenId id : {4084, 4085, 4090, 4091, 4092, 64}) EXPECT_FALSE(t.is_special(id)) << id;
  for (const TokenId id : {-1, 4093, 4095, INT32_MAX, INT32_MIN}) {
    EXPECT_FALSE(t.has_string(id));
    EXPECT_FALSE(t.is_special(id));
    EXPECT_EQ(t.bytes(id), "");
  }
}

// ---- Control strings beside a client's text.

Ids encode_marked(std::string_view text, std::vector<TextRange> client) {
  return value_of(small_tokenizer().encode(text, client));
}

TEST(Tokenizer, ControlStringsOfClientsAreText) {
  const Ids ids = encode_marked("[e~[x[e~[", {{0, 5}});
  EXPECT_EQ(ids.back(), 4052);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 4052), 1);
}

TEST(Tokenizer, UnfinishedControlStringsDoNotSwallowTheTemplates) {
  for (const std::string_view content : {"]!p~", "]~!b", "]!d~", "[e~", "]~b", "["}) {
    const std::string text = std::string(content) + "[e~[";
    const Ids ids = encode_marked(text, {{0, content.size()}});
    Ids expected = value_of(small_tokenizer().encode(content, ControlTokens::kPlain));
    expected.push_back(4052);
    EXPECT_EQ(ids, expected) << content;
  }
}

TEST(Tokenizer, ATokenThatEndsInAClientsTextDoesNotCount) {
  // The template's "<", a key, and the template's ">".
  EXPECT_EQ(encode_marked("<mm:think>", {{1, 9}}),
            value_of(small_tokenizer().encode("<mm:think>", ControlTokens::kPlain)));
  EXPECT_EQ(encode_marked("]~b]", {{3, 4}}),
            value_of(small_tokenizer().encode("]~b]", ControlTokens::kPlain)));
}

TEST(Tokenizer, MergesCrossTheSeams) {
  const std::string text = "user\nHi there\n\n# Tools";
  for (std::size_t begin = 0; begin < text.size(); ++begin)
    EXPECT_EQ(encode_marked(text, {{begin, text.size()}}),
              value_of(small_tokenizer().encode(text, ControlTokens::kPlain)));
}

// ---- Files of the world.

Result<Tokenizer> parse_changed(const std::function<void(Json&)>& change) {
  Json file = small_file();
  change(file);
  return Tokenizer::parse(python_json(file));
}

TEST(Tokenizer, TakesPiecesWholeWhenTheFileSaysSo) {
  const auto tokenizer = parse_changed([](Json& file) {
    file["model"]["vocab"]["Ġzyzzyva"] = 5000;  // no merges lead to it
    file["model"]["ignore_merges"] = true;
  });
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  EXPECT_EQ(value_of(tokenizer->encode("a zyzzyva", ControlTokens::kPlain)), (Ids{64, 5000}));
}

TEST(Tokenizer, TakesTheInvertedFormOfTheSplit) {
  const auto tokenizer = parse_changed([](Json& file) {
    Json& split = file["pre_tokenizer"]["pretokenizers"][0];
    split["behavior"] = "Removed";
    split["invert"] = true;
  });
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  for (const Json& c : cases("tokenizer_cases.jsonl"))
    if (find_member(c, "text") != nullptr) expect_case(*tokenizer, c);
}

TEST(Tokenizer, AnAddedTokenMayBeInTheVocabulary) {
  const auto tokenizer =
      parse_changed([](Json& file) { file["model"]["vocab"]["<think>"] = 4082; });
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  EXPECT_EQ(value_of(tokenizer->encode("<think>", ControlTokens::kHonoured)), (Ids{4082}));
}

TEST(Tokenizer, RefusesOtherTokenizersInOneSentence) {
  struct Case {
    const char* said;
    std::function<void(Json&)> change;
  };
  const std::vector<Case> changes = {
      {"normalizer",
       [](Json& f) {
         f["normalizer"] = {{"type", "NFC"}};
       }},
      {"decoder",
       [](Json& f) {
         f["decoder"] = {{"type", "WordPiece"}};
       }},
      {"decoder", [](Json& f) { f.erase("decoder"); }},
      {"pre_tokenizer", [](Json& f) { f["pre_tokenizer"] = nullptr; }},
      {"pre_tokenizer",
       [](Json& f) {
         f["pre_tokenizer"] = {{"type", "Whitespace"}};
       }},
      {"Isolated", [](Json& f) { f["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }},
      {"Regex", [](Json& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"] = "x"; }},
      {"property Han",
       [](Json& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\p{Han}"; }},
      {"use_regex", [](Json& f) { f["pre_tokenizer"]["pretokenizers"][1].erase("use_regex"); }},
      {"add_prefix_space",
       [](Json& f) { f["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; }},
      {"\"BPE\"", [](Json& f) { f["model"]["type"] = "Unigram"; }},
      {"\"BPE\"", [](Json& f) { f.erase("model"); }},
      {"dropout", [](Json& f) { f["model"]["dropout"] = 0.1; }},
      {"byte_fallback", [](Json& f) { f["model"]["byte_fallback"] = true; }},
      {"ignore_merges", [](Json& f) { f["model"]["ignore_merges"] = "yes"; }},
      {"vocab", [](Json& f) { f["model"]["vocab"] = Json::array(); }},
      {"merges", [](Json& f) { f["model"].erase("merges"); }},
      {"merge 0", [](Json& f) { f["model"]["merges"][0] = "a"; }},
      {"merge 0", [](Json& f) { f["model"]["merges"][0] = "a b c"; }},
      {"merge 0", [](Json& f) { f["model"]["merges"][0] = {"a"}; }},
      {"merge 0", [](Json& f) { f["model"]["merges"][0] = 7; }},
      {"not in the vocabulary",
       [](Json& f) {
         f["model"]["merges"][3] = {"zq", "zq"};
       }},
      {"not in the vocabulary",
       [](Json& f) {
         f["model"]["merges"][3] = {"q", "z"};
       }},
      {"byte 0x61", [](Json& f) { f["model"]["vocab"].erase("a"); }},
      {"id from 0", [](Json& f) { f["model"]["vocab"]["a"] = -1; }},
      {"id from 0", [](Json& f) { f["model"]["vocab"]["a"] = 1.5; }},
      {"id from 0", [](Json& f) { f["model"]["vocab"]["a"] = "64"; }},
      {"id from 0", [](Json& f) { f["model"]["vocab"]["a"] = 1LL << 31; }},
      {"id from 0", [](Json& f) { f["model"]["vocab"]["a"] = *parse_json(std::string(30, '9')); }},
      {"too far above", [](Json& f) { f["model"]["vocab"]["a"] = 1 << 30; }},
      {"two tokens have the id 65", [](Json& f) { f["model"]["vocab"]["a"] = 65; }},
      {"two tokens have the id 4053", [](Json& f) { f["added_tokens"][20]["id"] = 4053; }},
      {"two ids", [](Json& f) { f["added_tokens"][20]["content"] = "a"; }},
      {"two ids", [](Json& f) { f["added_tokens"][20]["content"] = "]~b]"; }},
      {"content", [](Json& f) { f["added_tokens"][20]["content"] = ""; }},
      {"content", [](Json& f) { f["added_tokens"][20] = "[e~["; }},
      {"id from 0", [](Json& f) { f["added_tokens"][20].erase("id"); }},
      {"special", [](Json& f) { f["added_tokens"][20]["special"] = 1; }},
      {"single_word", [](Json& f) { f["added_tokens"][20]["single_word"] = true; }},
      {"added_tokens", [](Json& f) { f["added_tokens"] = 3; }},
      {"an object", [](Json& f) { f = Json::array(); }},
  };
  for (const Case& c : changes) {
    const std::string message = error_of(parse_changed(c.change));
    EXPECT_NE(message.find(c.said), std::string::npos) << c.said << ": " << message;
  }
  EXPECT_NE(error_of(Tokenizer::parse("{\"model\": ")).find("JSON ends at byte 10"),
            std::string::npos);
}

TEST(Tokenizer, LoadNamesThePath) {
  EXPECT_NE(
      error_of(Tokenizer::load("/no/such/directory")).find("/no/such/directory/tokenizer.json"),
      std::string::npos);
}

}  // namespace
}  // namespace m3
