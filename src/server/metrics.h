// What the server has done so far, in Prometheus' text format, under vLLM's names (spec:
// chat-and-api §8.1) and llama.cpp's.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "server/answer.h"

namespace m3 {

// Counts of samples by upper bound.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);
  void add(double value);
  std::string text(const std::string& name, const std::string& help,
                   const std::string& labels) const;

 private:
  std::vector<double> bounds_;
  std::vector<std::int64_t> counts_;  // and those above the last bound
  double sum_ = 0;
};

// Any thread may call.
class Metrics {
 public:
  explicit Metrics(std::string model_name);
  void answered(const AnswerRecord& record);
  void refused(int status);
  std::string text(const GeneratorCounts& counts) const;

 private:
  std::string label_;  // {model_name="..."}
  mutable std::mutex mutex_;
  std::map<std::string, std::int64_t> outcomes_;
  std::map<int, std::int64_t> refusals_;  // by status
  Histogram first_token_, gap_, whole_;
  double prompt_seconds_ = 0, answer_seconds_ = 0;
  std::int64_t prompt_tokens_ = 0, answer_tokens_ = 0;  // of answers that are complete
};

}  // namespace m3
