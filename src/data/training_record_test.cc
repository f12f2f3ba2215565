#include "data/training_record.h"

#include "data/testing.h"

namespace m3 {
namespace {

using testing::error_of;
using testing::record_of;
using testing::value_of;

// "role: content" of each message, "*" in front of what is learnt.
std::string summary(std::string_view json) {
  const TrainingRecord record = value_of(record_of(json));
  if (!record.chat) return "text: " + record.text;
  std::string all;
  std::size_t answer = 0;
  for (const Json& message : record.chat->messages) {
    const std::string role = message["role"];
    if (role == "assistant" && record.learnt[answer++]) all += "*";
    all += role + ":";
    for (const Json& part : message["content"])
      all += " " + (part["type"] == "text" ? part["text"].get<std::string>() : python_json(part));
    if (message.contains("tool_calls")) all += " calls " + python_json(message["tool_calls"]);
    all += "|";
  }
  return all;
}

TEST(TrainingRecord, ReadsEveryForm) {
  EXPECT_EQ(summary(R"({"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},
                        {"role":"assistant","content":"b","weight":0},{"role":"user","content":"c"},
                        {"role":"assistant","content":"d","weight":1}]})"),
            "system: s|user: a|assistant: b|user: c|*assistant: d|");
  EXPECT_EQ(summary(R"({"conversations":[{"from":"system","value":"s"},{"from":"human","value":"a"},
                        {"from":"gpt","value":"b","weight":0},{"from":"user","value":"c"},
                        {"from":"chatgpt","value":"d"}],"id":7})"),
            "system: s|user: a|assistant: b|user: c|*assistant: d|");
  EXPECT_EQ(summary(R"({"conversation":[{"role":"user","content":[{"type":"text","text":"a"}]},
                        {"role":"assistant","content":[{"type":"text","text":"b"}]}]})"),
            "user: a|*assistant: b|");
  EXPECT_EQ(summary(R"({"instruction":"a","input":"b","output":"c","system":"s",
                        "history":[["x","y"]],"text":"rendered"})"),
            "system: s|user: x|*assistant: y|user: a\nb|*assistant: c|");
  EXPECT_EQ(summary(R"({"instruction":"a","input":"","output":"c"})"), "user: a|*assistant: c|");
  EXPECT_EQ(summary(R"({"prompt":"a","completion":"b","messages":null})"),
            "user: a|*assistant: b|");
  EXPECT_EQ(summary(R"({"prompt":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},
                        {"role":"user","content":"c"}],
                        "completion":[{"role":"assistant","content":"d"}]})"),
            "user: a|assistant: b|user: c|*assistant: d|");
  EXPECT_EQ(summary(R"({"text":"a]~b]b"})"), "text: a]~b]b");
}

TEST(TrainingRecord, ReadsToolsAndThinking) {
  const TrainingRecord record = value_of(record_of(
      R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","tool_calls":[{"id":"1",
          "function":{"name":"f","arguments":"{}"}}]}],
          "tools":"[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
          "chat_template_kwargs":{"thinking_mode":"disabled"}})",
      "enabled"));
  EXPECT_EQ(record.chat->tools[0]["function"]["name"], "f");
  EXPECT_EQ(record.chat->thinking_mode, "disabled");
  const auto plain = value_of(record_of(R"({"prompt":"a","completion":"b"})", "enabled"));
  EXPECT_EQ(plain.chat->thinking_mode, "enabled");
  EXPECT_FALSE(value_of(record_of(R"({"prompt":"a","completion":"b"})")).chat->thinking_mode);
}

TEST(TrainingRecord, GivesPicturesTheirPlaces) {
  EXPECT_EQ(summary(R"({"conversations":[{"from":"human","value":"<image>\nWhat?<image>"},
                        {"from":"gpt","value":"x"}],"images":["1.png",{"path":"2.png"}]})"),
            "user: {\"type\": \"image\", \"image\": \"1.png\"} \nWhat? "
            "{\"type\": \"image\", \"path\": \"2.png\"}|*assistant: x|");
  EXPECT_EQ(
      summary(R"({"messages":[{"role":"user","content":[{"type":"image"},
                        {"type":"image_url","image_url":{"url":"b.png"}},
                        {"type":"text","text":"<video>"}]},{"role":"assistant","content":"x"}],
                        "image":"a.png","videos":["c.mp4"]})"),
      "user: {\"type\": \"image\", \"image\": \"a.png\"} {\"type\": \"image\", \"image_url\": "
      "{\"url\": \"b.png\"}} {\"type\": \"video\", \"video\": \"c.mp4\"}|*assistant: x|");
  EXPECT_EQ(error_of(record_of(R"({"prompt":"a <image>","completion":"x","images":["a","b"]})")),
            "the record names 2 images, its messages have 1 place for them");
  EXPECT_EQ(error_of(record_of(R"({"prompt":"a","completion":"x","image":"a"})")),
            "the record names 1 image, its messages have 0 places for them");
  EXPECT_EQ(error_of(record_of(R"({"prompt":"a","completion":"x","image":[7]})")),
            "\"image\" must hold addresses, it holds a number");
}

// Seven characters would be learnt in place of a picture.
TEST(TrainingRecord, RefusesPlacesWithoutPictures) {
  const std::string none =
      "a user's text has <image>, but the record names no image for it: expected \"images\" in the "
      "record, a list with an address for each <image>; where it is a word, \"messages\" without "
      "such "
      "a key";
  for (const char* record :
       {R"({"prompt":"<image>","completion":"x"})",
        R"({"prompt":"<image>","completion":"x","image":null})",
        R"({"prompt":[{"role":"user","content":"<image>"}],
            "completion":[{"role":"assistant","content":"x"}],"imags":["a"]})",
        R"({"instruction":"a","input":"<image>","output":"x","images":[]})",
        R"({"conversations":[{"from":"human","value":"<image>"},{"from":"gpt","value":"x"}]})",
        R"({"messages":[{"role":"user","content":"<image>"},{"role":"assistant","content":"x"}],
            "images":[]})",
        R"({"messages":[{"role":"user","content":[{"type":"text","text":"a <image>"}]},
            {"role":"assistant","content":"x"}],"image":null})"})
    EXPECT_EQ(error_of(record_of(record)), none) << record;
  EXPECT_NE(error_of(record_of(R"({"prompt":"<image><video>","completion":"x","image":"a"})"))
                .find("a user's text has <video>"),
            std::string::npos);
  // What only speaks of them.
  EXPECT_EQ(summary(R"({"prompt":"a","completion":"use <image>"})"),
            "user: a|*assistant: use <image>|");
  EXPECT_EQ(summary(R"({"messages":[{"role":"user","content":"<image>"},
                        {"role":"assistant","content":"x"}]})"),
            "user: <image>|*assistant: x|");
}

TEST(TrainingRecord, RefusesPicturesBesideAText) {
  EXPECT_EQ(
      error_of(record_of(R"({"text":"a <image>","images":["a","b"]})")),
      "the record names 2 images, but its \"text\" has no places for them: expected messages, "
      "or \"prompt\" and \"completion\", with <image> where each belongs");
  EXPECT_EQ(summary(R"({"text":"a <image>","images":[]})"), "text: a <image>");
}

// Read as conversations, they would teach the bad answers with the good ones.
TEST(TrainingRecord, RefusesPreferences) {
  const auto refused = [](std::string_view json) { return error_of(record_of(json)); };
  EXPECT_EQ(refused(R"({"prompt":"a","chosen":"b","rejected":"c"})"),
            "\"chosen\" is of preference data, and neither DPO nor KTO is here");
  EXPECT_NE(refused(R"({"conversations":[{"from":"human","value":"a"}],"rejected":"c"})")
                .find("\"rejected\" is of preference data"),
            std::string::npos);
  for (const char* label : {"true", "false"})
    EXPECT_NE(refused(std::string(R"({"prompt":"a","completion":"b","label":)") + label + "}")
                  .find(std::string("\"label\" is ") + label),
              std::string::npos);
  EXPECT_EQ(summary(R"({"text":"a","label":true})"), "text: a");
  EXPECT_EQ(summary(R"({"prompt":"a","completion":"b","label":7,"chosen":null})"),
            "user: a|*assistant: b|");
}

TEST(TrainingRecord, RemarksOnKeysThatNobodyReads) {
  const auto remarks = [](std::string_view json) { return value_of(record_of(json)).remarks; };
  using Remarks = std::vector<std::string>;
  EXPECT_EQ(remarks(R"({"messages":[{"role":"user","content":"a"},
                        {"role":"assistant","content":"b","weigth":0,"mood":"good"},
                        {"role":"user","content":"c"},
                        {"role":"assistant","content":"d","weigth":0}]})"),
            (Remarks{"messages have keys that are not known and not read: \"weigth\" (is it "
                     "\"weight\"?), \"mood\""}));
  EXPECT_EQ(remarks(R"({"conversations":[{"from":"human","value":"a","wieght":1},
                        {"from":"gpt","value":"b"}],"tool":[],"sistem":"x","id":1,"source":"y"})"),
            (Remarks{"messages have keys that are not known and not read: \"wieght\" (is it "
                     "\"weight\"?)",
                     "the record has keys that are not known and not read: \"tool\" (is it "
                     "\"tools\"?), \"sistem\" (is it \"system\"?)"}));
  EXPECT_EQ(remarks(fmt::format(R"({{"messages":[{{"role":"user","content":"a"}},
      {{"role":"assistant","content":"b","{}":1,"k2":2,"k3":3,"k4":4,"k5":5,"k6":6}}]}})",
                                std::string(100, 'k'))),
            (Remarks{"messages have keys that are not known and not read: one of 100 bytes, "
                     "\"k2\", \"k3\", \"k4\", \"k5\", ..."}));
  // What OpenAI's answers have, and columns of tables.
  EXPECT_EQ(remarks(R"({"messages":[{"role":"user","content":"a","name":"n"},
                        {"role":"assistant","content":"b","refusal":null,"annotations":[],
                         "audio":null,"function_call":null,"id":"1","extra":null}],
                        "source":"x","score":1,"lang":"en","url":"y","tags":[],"model":"m"})"),
            Remarks{});
}

TEST(TrainingRecord, RemarksOnWhatIsLikelyNotMeant) {
  const auto remark = [](std::string_view json) {
    const auto all = value_of(record_of(json)).remarks;
    EXPECT_LE(all.size(), 1u) << all[1];
    return all.empty() ? "" : all[0];
  };
  const std::string_view empty =
      "1 of 1 answers have nothing in them and are learnt so; \"weight\": 0 in one leaves it out";
  for (const char* answer :
       {R"("content":null)", R"("content":" \n")", R"("content":[])", R"("tool_calls":[])"})
    EXPECT_EQ(remark(fmt::format(R"({{"messages":[{{"role":"user","content":"a"}},
                                  {{"role":"assistant",{}}}]}})",
                                 answer)),
              empty)
        << answer;
  EXPECT_EQ(remark(R"({"prompt":"a","completion":""})"), empty);
  EXPECT_EQ(remark(R"({"messages":[{"role":"user","content":"a"},
                       {"role":"assistant","content":"","weight":0},{"role":"user","content":"a"},
                       {"role":"assistant","reasoning_content":"r"}]})"),
            "");
  EXPECT_EQ(remark(R"({"conversations":[{"from":"system","value":"s"},{"from":"gpt","value":"a"},
                       {"from":"human","value":"b"}]})"),
            "the first answer has no user's message before it");
  const auto call = [&](std::string_view rest) {
    return remark(fmt::format(R"({{"messages":[{{"role":"user","content":"a"}},
        {{"role":"assistant","tool_calls":[{{"function":{{"name":"f"}}}}]}}]{}}})",
                              rest));
  };
  EXPECT_EQ(call(""), "answers call tools, but the record declares none in \"tools\"");
  EXPECT_EQ(call(R"(,"tools":[])"), call(""));
  EXPECT_EQ(call(R"(,"tools":[{"function":{"name":"f"}}])"), "");
  EXPECT_EQ(remark(R"({"prompt":"a","completion":"<think>r</think>b"})"),
            "1 of 1 answers have <think> in their text, where it is learnt as a word: reasoning "
            "belongs in \"reasoning_content\"");
  EXPECT_EQ(remark(R"({"prompt":"what is <think>?","completion":"b"})"), "");
  EXPECT_EQ(remark(R"({"messages":[{"role":"user","content":"<image>"},
                       {"role":"assistant","content":"b"}]})"),
            "a user's text has <image>, a word like others here: the record has no key for "
            "addresses");
}

TEST(TrainingRecord, RefusesWhatItCannotUnderstand) {
  const auto refused = [](std::string_view json) { return error_of(record_of(json)); };
  EXPECT_EQ(refused("[]"), "a record must be an object, it is a list");
  EXPECT_EQ(refused(R"({"question":"a","answer":"b"})"),
            "expected \"messages\", \"conversations\", \"instruction\" and \"output\", \"prompt\" "
            "and \"completion\", or \"text\", found \"question\", \"answer\"");
  EXPECT_NE(refused("{}").find("found no key"), std::string::npos);
  EXPECT_EQ(refused(R"({"text":7})"), "\"text\" must be a string, it is a number");
  EXPECT_EQ(refused(R"({"instruction":"a","output":["b"]})"),
            "\"output\" must be a string, it is a list");
  EXPECT_EQ(refused(R"({"messages":{}})"), "\"messages\" must be a list, it is an object");
  EXPECT_EQ(refused(R"({"messages":[]})"), "\"messages\" is empty, at least one is needed");
  EXPECT_NE(refused(R"({"messages":[{"role":"robot","content":"a"}]})")
                .find("messages[0]: \"role\" must be root"),
            std::string::npos);
  EXPECT_EQ(
      refused(R"({"messages":[{"role":"user","content":"a"},{"content":"b"}]})"),
      "messages[1]: \"role\" is missing, expected root, system, developer, user, assistant or "
      "tool");
  EXPECT_EQ(refused(R"({"prompt":"a","completion":"b","thinking_mode":"on"})"),
            "thinking_mode must be \"enabled\", \"disabled\" or \"adaptive\", it is \"on\"");
  EXPECT_NE(refused(R"({"conversations":[{"from":"robot","value":"a"}]})")
                .find("conversations[0] \"from\" must be human, user, gpt"),
            std::string::npos);
  EXPECT_EQ(refused(R"({"conversations":[7]})"),
            "conversations[0] needs \"from\" and \"value\", or \"role\" and \"content\"");
  EXPECT_EQ(refused(R"({"messages":[{"role":"assistant","content":"a","weight":0.5}]})"),
            "messages[0]: \"weight\" must be 0 or 1, it is 0.5");
  EXPECT_EQ(refused(R"({"messages":[{"role":"user","content":"a","weight":1}]})"),
            "messages[0]: \"weight\" is 1, but only what an assistant writes is learnt");
  EXPECT_NE(refused(R"({"prompt":"a","completion":[]})").find("two strings or two lists"),
            std::string::npos);
  EXPECT_NE(refused(R"({"prompt":"a","completion":"b","functions":[]})").find("\"tools\""),
            std::string::npos);
  EXPECT_NE(refused(R"({"messages":[{"role":"assistant","function_call":{"name":"f"}}]})")
                .find("\"tool_calls\""),
            std::string::npos);
  EXPECT_NE(refused(R"({"prompt":"a","completion":"b","tools":"["})").find("\"tools\": JSON ends"),
            std::string::npos);
}

}  // namespace
}  // namespace m3
