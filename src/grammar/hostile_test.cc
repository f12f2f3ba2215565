// Requests that ask for too much: an error, or a grammar that works. What would take hours is
// stopped by the test's limit of time.
#include <gtest/gtest.h>

#include "grammar/testing.h"

namespace m3 {
namespace {

void ask_for_masks(const std::shared_ptr<const Grammar>& grammar, std::string_view name) {
  Matcher matcher(grammar, testing::small_vocabulary());
  testing::Dice dice(1);
  std::vector<std::uint64_t> bits(testing::small_vocabulary().mask_words());
  for (int i = 0; i < 20 && !matcher.is_complete(); ++i) {
    std::fill(bits.begin(), bits.end(), 0);
    matcher.allow(bits);
    std::vector<TokenId> allowed;
    for (TokenId id = 0; id < testing::small_tokenizer().vocab_size(); ++id)
      if (has_bit(bits, id)) allowed.push_back(id);
    ASSERT_FALSE(allowed.empty()) << name;
    ASSERT_TRUE(matcher.accept(allowed[dice.below(allowed.size())])) << name;
  }
}

// Compiles, and asks for masks where that succeeds. Returns whether it does.
bool compiles(const Json& schema, std::string_view name) {
  auto grammar = schema_grammar(schema, "schema");
  const bool compiled = grammar.has_value();
  if (compiled) {
    ask_for_masks(std::make_shared<const Grammar>(std::move(*grammar)), name);
  } else {
    EXPECT_TRUE(grammar.error().message.starts_with("schema")) << grammar.error().message;
  }
  return compiled;
}

void expect_refused(const Json& schema, std::string_view name) {
  EXPECT_FALSE(compiles(schema, name)) << name;
}

Json text_schema(std::string_view pattern) {
  return Json{{"type", "string"}, {"pattern", pattern}};
}

TEST(HostileSchemas, Patterns) {
  expect_refused(text_schema("^(a|b)*a(a|b){30}$"), "exponential automaton");
  expect_refused(text_schema("^((a{1,1000}){1,1000}){1,1000}$"), "nested repetition");
  expect_refused(text_schema("^(.{1,90000}){1,9}$"), "long repetition");
  expect_refused(text_schema(std::string(50'000, '(')), "many groups");
  expect_refused(text_schema(std::string(100'000, 'a')), "long");
  compiles(text_schema("^([a-z]|[a-y]|[a-x])*[a-w]{300}$"), "ambiguous");
}

TEST(HostileSchemas, HugeNumbers) {
  compiles(testing::value_of(parse_json(R"({"type":"string","maxLength":1000000000000000000000})")),
           "maxLength");
  compiles(testing::value_of(parse_json(R"({"type":"array","maxItems":1000000000})")), "maxItems");
  compiles(testing::value_of(parse_json(R"({"type":"number","minimum":1e300})")), "minimum");
  compiles(testing::value_of(
               parse_json(R"({"type":"integer","multipleOf":999999937,"minimum":-1e300})")),
           "multipleOf");
}

TEST(HostileSchemas, ManyAlternatives) {
  Json values = Json::array(), options = Json::array();
  for (int i = 0; i < 1'000'000; ++i) values.push_back(fmt::format("value {}", i));
  for (int i = 0; i < 100'000; ++i)
    options.push_back(Json{{"type", "object"}, {"required", {fmt::format("key {}", i)}}});
  expect_refused(Json{{"enum", std::move(values)}}, "enum");
  expect_refused(Json{{"anyOf", std::move(options)}}, "anyOf");
  Json some = Json::array();
  for (int i = 0; i < 2'000; ++i) some.push_back(text_schema(fmt::format("^[a-z]*{}[a-z]*$", i)));
  compiles(Json{{"anyOf", std::move(some)}}, "patterns side by side");
}

TEST(HostileSchemas, Products) {
  Json pair = Json::array({Json{{"minLength", 1}}, Json{{"maxLength", 9}}});
  Json all = Json::array();
  for (int i = 0; i < 40; ++i) all.push_back(Json{{"anyOf", pair}});
  expect_refused(Json{{"allOf", std::move(all)}, {"type", "string"}}, "2^40 alternatives");

  Json members = Json::array();
  for (int i = 0; i < 1000; ++i) {
    Json properties = Json::object();
    for (int j = 0; j < 20; ++j) properties[fmt::format("{} {}", i, j)] = Json{{"type", "null"}};
    members.push_back(Json{{"properties", std::move(properties)}});
  }
  expect_refused(Json{{"type", "object"}, {"allOf", std::move(members)}}, "1000 objects in one");

  Json doubling = {{"$defs", Json::object()}, {"$ref", "#/$defs/0"}};
  for (int i = 0; i < 100; ++i) {
    const Json next = {{"$ref", fmt::format("#/$defs/{}", i + 1)}};
    doubling["$defs"][std::to_string(i)] = Json{{"allOf", Json::array({next, next})}};
  }
  doubling["$defs"]["100"] = Json{{"type", "null"}};
  compiles(doubling, "doubling references");
}

TEST(HostileSchemas, DepthAndLength) {
  Json deep = {{"type", "null"}};
  for (int i = 0; i < 200; ++i)
    deep = Json{{"type", "object"}, {"properties", {{"a", deep}}}, {"required", {"a"}}};
  compiles(deep, "deep");

  Json chain = {{"$defs", Json::object()}, {"$ref", "#/$defs/0"}};
  for (int i = 0; i < 3000; ++i)
    chain["$defs"][std::to_string(i)] =
        Json{{"type", "array"}, {"items", {{"$ref", fmt::format("#/$defs/{}", i + 1)}}}};
  chain["$defs"]["3000"] = Json{{"type", "null"}};
  compiles(chain, "chain of references");

  Json wide = {{"type", "object"}, {"properties", Json::object()}};
  auto& properties = wide["properties"].get_ref<Json::object_t&>();
  for (int i = 0; i < 50'000; ++i)
    properties.emplace_back(fmt::format("property {}", i), Json{{"type", "string"}});
  compiles(wide, "wide");

  Json long_names = {{"type", "object"}, {"properties", Json::object()}};
  long_names["properties"][std::string(2'000'000, 'x')] = wide;
  expect_refused(long_names, "long names");
}

}  // namespace
}  // namespace m3
