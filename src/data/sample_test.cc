// Which tokens are learnt (spec: training §14, row 15).
#include "data/sample.h"

#include "data/testing.h"
#include "ops/gradients.h"

namespace m3 {
namespace {

using testing::error_of;
using testing::record_of;
using testing::sample_of;
using testing::small_tokenizer;
using testing::value_of;
using Texts = std::vector<std::string>;

// What is scored, as text. Checks on the way that labels are what the next row holds.
Texts scored(const Sample& sample) {
  const std::vector<std::int32_t> labels = labels_of(sample);
  EXPECT_EQ(labels.size(), sample.ids.size());
  std::vector<std::int32_t> expected(sample.ids.size(), kNotScored);
  Texts texts;
  std::int64_t tokens = 0;
  for (const IdRange& range : sample.scored) {
    for (std::int64_t i = range.begin; i < range.end; ++i)
      expected[static_cast<std::size_t>(i - 1)] = sample.ids[static_cast<std::size_t>(i)];
    texts.push_back(small_tokenizer().decode(std::span(sample.ids)
                                                 .subspan(static_cast<std::size_t>(range.begin),
                                                          static_cast<std::size_t>(range.size()))));
    tokens += range.size();
  }
  EXPECT_EQ(labels, expected);
  EXPECT_EQ(tokens, scored_tokens(sample));
  return texts;
}

constexpr std::string_view kTwoTurns =
    R"({"messages":[{"role":"system","content":"s"},{"role":"user","content":"one [e~[ two"},
        {"role":"assistant","content":"The first."},{"role":"user","content":"and?"},
        {"role":"assistant","reasoning_content":"Think.","content":"The second."}]})";

TEST(Labels, OfEveryAnswerThroughItsEnd) {
  const Sample sample = sample_of(kTwoTurns);
  EXPECT_EQ(scored(sample),
            (Texts{"</mm:think>The first.[e~[", "<mm:think>Think.</mm:think>The second.[e~["}));
  EXPECT_EQ(sample.answers, 2);
  EXPECT_EQ(sample.off_mode, 0);
  // The whole is what inference renders, with nothing before or behind it.
  const auto record = value_of(record_of(kTwoTurns));
  const Prompt prompt = value_of(render_chat(*record.chat));
  EXPECT_EQ(sample.ids, value_of(small_tokenizer().encode(prompt.text(), prompt.client_ranges())));
}

// The table by hand: rows from the turn's opening on, and what each is to predict.
TEST(Labels, BelongToTheRowBefore) {
  const Sample sample = sample_of(R"({"prompt":"a","completion":"b"})", "disabled");
  const auto id = [](std::string_view text) { return *small_tokenizer().id_of(text); };
  const std::vector<std::int32_t> labels = labels_of(sample);
  const std::size_t rows = sample.ids.size();
  const TokenId b = id("b"), end = id("[e~["), line = id("\n");
  EXPECT_EQ((std::vector<TokenId>(sample.ids.end() - 4, sample.ids.end())),
            (std::vector<TokenId>{id("</mm:think>"), b, end, line}));
  EXPECT_EQ((std::vector<std::int32_t>(labels.end() - 5, labels.end())),
            (std::vector<std::int32_t>{kNotScored, b, end, kNotScored, kNotScored}));
  EXPECT_EQ(std::count(labels.begin(), labels.end(), kNotScored), static_cast<int>(rows) - 2);
}

TEST(Labels, BeginBehindWhatThinkingModePrefills) {
  const auto with = [](std::string_view mode, bool reasoning) {
    return sample_of(fmt::format(R"({{"messages":[{{"role":"user","content":"a"}},
        {{"role":"assistant",{}"content":"b"}}],"thinking_mode":"{}"}})",
                                 reasoning ? R"("reasoning_content":"r",)" : "", mode));
  };
  EXPECT_EQ(scored(with("adaptive", true)), (Texts{"<mm:think>r</mm:think>b[e~["}));
  EXPECT_EQ(scored(with("adaptive", false)), (Texts{"</mm:think>b[e~["}));
  EXPECT_EQ(scored(with("enabled", true)), (Texts{"r</mm:think>b[e~["}));
  EXPECT_EQ(scored(with("disabled", false)), (Texts{"b[e~["}));
  // Answers that no prompt of their mode leads to are learnt whole, and counted.
  EXPECT_EQ(scored(with("enabled", false)), (Texts{"</mm:think>b[e~["}));
  EXPECT_EQ(scored(with("disabled", true)), (Texts{"<mm:think>r</mm:think>b[e~["}));
  EXPECT_EQ(with("enabled", true).off_mode, 0);
  EXPECT_EQ(with("enabled", false).off_mode, 1);
  EXPECT_EQ(with("disabled", true).off_mode, 1);
}

TEST(Labels, OfToolTurns) {
  const Sample sample = sample_of(
      R"({"messages":[{"role":"user","content":"w"},
          {"role":"assistant","content":"Wait.","tool_calls":[{"id":"1","type":"function",
           "function":{"name":"f","arguments":"{\"a\": 1}"}}]},
          {"role":"tool","tool_call_id":"1","content":"result"},
          {"role":"assistant","content":"done"}],
          "tools":[{"type":"function","function":{"name":"f","parameters":{}}}]})");
  const std::string ns = "]<]minimax[>[";
  EXPECT_EQ(scored(sample),
            (Texts{"</mm:think>Wait." + ns + "<tool_call>\n" + ns + "<invoke name=\"f\">" + ns +
                       "<a>1" + ns + "</a>" + ns + "</invoke>\n" + ns + "</tool_call>[e~[",
                   "</mm:think>done[e~["}));
}

TEST(Labels, NotOfWeightZero) {
  EXPECT_EQ(scored(sample_of(
                R"({"messages":[{"role":"user","content":"a"},
                    {"role":"assistant","content":"b","weight":0},{"role":"user","content":"c"},
                    {"role":"assistant","content":"d"}]})")),
            (Texts{"</mm:think>d[e~["}));
  const auto none = [](std::string_view json) {
    return error_of(make_sample(value_of(record_of(json)), {}, small_tokenizer()));
  };
  EXPECT_EQ(none(R"({"messages":[{"role":"user","content":"a"}]})"),
            "no token is scored: there is no assistant message");
  EXPECT_EQ(none(R"({"messages":[{"role":"assistant","content":"a","weight":0}]})"),
            "no token is scored: all assistant messages have \"weight\": 0");
  EXPECT_EQ(none(R"({"text":""})"), "the text has 0 tokens: with fewer than 2 nothing is scored");
  EXPECT_EQ(none(R"({"text":"a]<]image[>["})"),
            "the text holds ]<]image[>[, but only messages have pictures and clips");
}

TEST(Labels, OfATextAreAllButTheFirst) {
  const Sample sample = sample_of(R"({"text":"]~b]ai\nHello there[e~["})");
  EXPECT_EQ(scored(sample), (Texts{"ai\nHello there[e~["}));
  EXPECT_EQ(sample.ids.front(), *small_tokenizer().id_of("]~b]"));
}

TEST(Labels, OfAnAnswerThatIsCutOff) {
  const Sample whole = sample_of(kTwoTurns);
  const IdRange last = whole.scored[1];
  const Sample cut = cut_off(whole, last.begin + 3);
  EXPECT_EQ(cut.ids.size(), static_cast<std::size_t>(last.begin + 3));
  ASSERT_EQ(cut.scored.size(), 2u);
  EXPECT_EQ(cut.scored[1], (IdRange{last.begin, last.begin + 3}));
  scored(cut);  // its last row predicts nothing
  EXPECT_EQ(cut_off(whole, last.begin).scored.size(), 1u);
  EXPECT_TRUE(cut_off(whole, 10).scored.empty());
  EXPECT_EQ(cut_off(whole, 1 << 20).ids, whole.ids);
}

TEST(Labels, OfPiecesScoreEveryTokenOnce) {
  Sample whole{.is_text = true};
  for (TokenId id = 0; id < 23; ++id) whole.ids.push_back(id);
  whole.scored = {{1, 23}};
  for (const std::int64_t most : {2, 3, 7, 22, 23, 40}) {
    std::vector<TokenId> learnt;
    for (const Sample& piece : cut_in_pieces(whole, most)) {
      EXPECT_LE(std::ssize(piece.ids), most);
      scored(piece);
      for (const IdRange& range : piece.scored)
        learnt.insert(learnt.end(), piece.ids.begin() + range.begin, piece.ids.begin() + range.end);
    }
    EXPECT_EQ(learnt, std::vector<TokenId>(whole.ids.begin() + 1, whole.ids.end())) << most;
  }
}

TEST(Labels, NeverOfPicturesAndCutsKeepThemWhole) {
  constexpr std::string_view kPictures =
      R"({"messages":[{"role":"user","content":[{"type":"image","image":"a"},
          {"type":"text","text":"what?"}]},{"role":"assistant","content":[{"type":"text",
          "text":"this: "},{"type":"image","image":"b"},{"type":"text","text":"."}]}]})";
  const std::vector<MediaShape> shapes = {{.tokens_per_group = 5}, {.tokens_per_group = 9}};
  const Sample sample = sample_of(kPictures, {}, shapes);
  EXPECT_EQ(scored(sample), (Texts{"</mm:think>this: ", ".[e~["}));
  ASSERT_EQ(sample.media.size(), 2u);
  EXPECT_EQ(sample.media[0].size(), 7);  // with its begin and end
  EXPECT_EQ(sample.media[1].size(), 11);
  const Sample cut = cut_off(sample, sample.media[1].end - 1);
  EXPECT_EQ(std::ssize(cut.ids), sample.media[1].begin);
  EXPECT_EQ(cut.media.size(), 1u);
  EXPECT_EQ(cut_off(sample, sample.media[1].end).media.size(), 2u);
  EXPECT_NE(error_of(make_sample(value_of(record_of(kPictures)), std::span(shapes).first(1),
                                 small_tokenizer())),
            "");
}

}  // namespace
}  // namespace m3
