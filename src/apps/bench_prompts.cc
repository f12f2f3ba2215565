#include "apps/bench_prompts.h"

#include <nlohmann/json.hpp>
#include <sstream>

#include "base/file.h"
#include "text/jsonl_commands.h"

namespace m3 {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kQuestions[] = {
    "Hello! Who are you?",
    "What is the opposite of hot?",
    "What is 12 + 5?",
    "Sort these numbers: 8, 3, 11, 5.",
    "Write the words in reverse order: apple, river, cat, moon.",
    "What day comes after Tuesday?",
    "Lena has 4 apples and buys 3 more. How many apples has she now?",
    "What sound does a cow make?",
};

std::string few_questions() {
  std::string lines;
  for (const char* question : kQuestions) {
    Json message = {{"role", "user"}, {"content", question}};
    lines += Json{{"messages", Json::array({std::move(message)})}}.dump() + "\n";
  }
  return lines;
}

// The model is to answer, whether a line says so or not.
Result<std::string> as_questions(const std::string& lines, const std::string& file) {
  std::string questions;
  std::istringstream in(lines);
  std::int64_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    Json question = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!question.is_object())
      return fail("{}:{}: expected a JSON object with \"messages\"", file, number);
    if (!question.contains("continue_final_message")) question["add_generation_prompt"] = true;
    questions += question.dump() + "\n";
  }
  return questions;
}

}  // namespace

Result<std::vector<std::vector<std::int32_t>>> bench_prompts(const std::string& file,
                                                             const Tokenizer& tokenizer) {
  std::string lines = few_questions();
  if (!file.empty()) {
    M3_TRY(lines, read_text_file(file));
  }
  M3_TRY(const std::string questions, as_questions(lines, file));
  std::istringstream in(questions);
  std::ostringstream out;
  M3_TRY_STATUS(render_lines(tokenizer, in, out));
  std::vector<std::vector<std::int32_t>> prompts;
  std::istringstream answers(out.str());
  for (std::string line; std::getline(answers, line);) {
    const Json answer = Json::parse(line);
    if (answer.contains("error"))
      return fail("{}: conversation {}: {}", file, prompts.size() + 1,
                  answer["error"].get<std::string>());
    prompts.push_back(answer["ids"].get<std::vector<std::int32_t>>());
  }
  if (prompts.empty()) return fail("{}: there is no conversation in it", file);
  return prompts;
}

}  // namespace m3
