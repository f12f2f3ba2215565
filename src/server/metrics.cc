#include "server/metrics.h"

#include <fmt/core.h>

#include <algorithm>

namespace m3 {
namespace {

const std::vector<double> kShortSeconds = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                           0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10};
const std::vector<double> kLongSeconds = {0.3, 0.5, 0.8, 1,  1.5, 2,  2.5, 5,   10,
                                          15,  20,  30,  40, 50,  60, 120, 240, 480};

std::string head(const std::string& name, const char* type, const std::string& help) {
  return fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
}

template <typename T>
std::string one(const std::string& name, const char* type, const std::string& help,
                const std::string& label, T value) {
  return head(name, type, help) + fmt::format("{}{} {}\n", name, label, value);
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Histogram::add(double value) {
  const auto place = std::ranges::lower_bound(bounds_, value) - bounds_.begin();
  ++counts_[static_cast<std::size_t>(place)];
  sum_ += value;
}

std::string Histogram::text(const std::string& name, const std::string& help,
                            const std::string& labels) const {
  std::string text = head(name, "histogram", help);
  std::int64_t below = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    below += counts_[i];
    const std::string bound = i < bounds_.size() ? fmt::format("{}", bounds_[i]) : "+Inf";
    text += fmt::format("{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bound, below);
  }
  return text +
         fmt::format("{0}_count{{{1}}} {2}\n{0}_sum{{{1}}} {3}\n", name, labels, below, sum_);
}

Metrics::Metrics(std::string model_name)
    : first_token_(kShortSeconds), gap_(kShortSeconds), whole_(kLongSeconds) {
  std::string escaped;
  for (const char c : model_name) {
    if (c == '"' || c == '\\') escaped += '\\';
    if (c != '\n') escaped += c;
  }
  label_ = fmt::format("model_name=\"{}\"", escaped);
}

void Metrics::answered(const AnswerRecord& record) {
  const std::lock_guard lock(mutex_);
  ++outcomes_[record.outcome];
  prompt_tokens_ += record.usage.prompt_tokens;
  answer_tokens_ += record.usage.completion_tokens;
  if (record.first_token_s == 0) return;
  prompt_seconds_ += record.first_token_s;
  answer_seconds_ += record.seconds - record.first_token_s;
  first_token_.add(record.first_token_s);
  whole_.add(record.seconds);
  for (const double gap : record.token_gaps_s) gap_.add(gap);
}

void Metrics::refused(int status) {
  const std::lock_guard lock(mutex_);
  ++refusals_[status];
}

std::string Metrics::text(const GeneratorCounts& c) const {
  const std::lock_guard lock(mutex_);
  const std::string label = "{" + label_ + "}";
  const auto gauge = [&](const char* name, const char* help, auto value) {
    return one(name, "gauge", help, label, value);
  };
  const auto counter = [&](const char* name, const char* help, auto value) {
    return one(name, "counter", help, label, value);
  };
  const auto share = [](double part, double whole) { return whole > 0 ? part / whole : 0; };
  std::string text =
      gauge("vllm:num_requests_running", "Sequences that run.", c.running) +
      gauge("vllm:num_requests_waiting", "Sequences that wait for their turn.", c.waiting) +
      gauge("vllm:kv_cache_usage_perc", "Share of the cache's pages in use, 0 to 1.",
            share(static_cast<double>(c.pages_held), static_cast<double>(c.pages))) +
      counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the cache.",
              c.prompt_tokens) +
      counter("vllm:prefix_cache_hits_total", "Prompt tokens found in the cache.",
              c.reused_tokens) +
      counter("vllm:prompt_tokens_total", "Prompt tokens of admitted sequences.", c.prompt_tokens) +
      counter("vllm:generation_tokens_total", "Tokens drawn.", c.generation_tokens) +
      counter("vllm:num_preemptions_total", "Times that a sequence had to give way.",
              c.preemptions) +
      counter("vllm:spec_decode_num_drafts_total", "Steps that verified drafts of a sequence.",
              c.drafts) +
      counter("vllm:spec_decode_num_draft_tokens_total", "Tokens drafted.", c.drafted_tokens) +
      counter("vllm:spec_decode_num_accepted_tokens_total", "Drafts that were right.",
              c.accepted_tokens) +
      first_token_.text("vllm:time_to_first_token_seconds", "From the request to its first token.",
                        label_) +
      gap_.text("vllm:inter_token_latency_seconds", "Between two tokens of a choice.", label_) +
      whole_.text("vllm:e2e_request_latency_seconds", "From the request to its last token.",
                  label_);
  text += head("vllm:request_success_total", "counter", "Answers by how they finished.");
  for (const auto& [outcome, count] : outcomes_)
    text += fmt::format("vllm:request_success_total{{{},finished_reason=\"{}\"}} {}\n", label_,
                        outcome, count);
  text += head("m3:refused_requests_total", "counter", "Requests refused, by status.");
  for (const auto& [status, count] : refusals_)
    text +=
        fmt::format("m3:refused_requests_total{{{},status=\"{}\"}} {}\n", label_, status, count);
  return text +
         counter("llamacpp:prompt_tokens_total", "Prompt tokens of complete answers.",
                 prompt_tokens_) +
         counter("llamacpp:tokens_predicted_total", "Tokens of complete answers.", answer_tokens_) +
         gauge("llamacpp:prompt_tokens_seconds", "Prompt tokens per second, on average.",
               share(static_cast<double>(prompt_tokens_), prompt_seconds_)) +
         gauge("llamacpp:predicted_tokens_seconds", "Tokens per second of an answer, on average.",
               share(static_cast<double>(answer_tokens_), answer_seconds_)) +
         gauge("llamacpp:requests_processing", "Sequences that run.", c.running) +
         gauge("llamacpp:requests_deferred", "Sequences that wait.", c.waiting);
}

}  // namespace m3
