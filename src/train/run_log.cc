#include "train/run_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/file.h"
#include "train/event_file.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kLines = "/log.jsonl";
constexpr std::string_view kEvents = "events.out.tfevents.";
constexpr std::int64_t kLogBytesMax = std::int64_t{1} << 40;

// "2026-11-23T16:00:00Z".
std::string timestamp(double seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm utc{};
  ::gmtime_r(&time, &utc);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

double number_in(const Json& line, const char* key) {
  const Json& value = line.at(key);
  return value.is_null() ? NAN : value.get<double>();
}

StepLine step_line(const Json& line) {
  return {.step = line.at("step"),
          .epoch = line.at("epoch"),
          .loss = number_in(line, "loss"),
          .gradient_norm = number_in(line, "grad_norm"),
          .rate = number_in(line, "lr"),
          .memory_gib = number_in(line, "mem"),
          .tokens_per_second = number_in(line, "tps"),
          .peak_share = line.value("mfu", 0.0),
          .tokens = line.at("num_tokens_per_step"),
          .labels = line.at("num_label_tokens"),
          .skipped = line.value("skipped", ""),
          .seconds_left = line.value("eta", 0.0)};
}

ValidationLine validation_line(const Json& line) {
  return {.step = line.at("step"),
          .epoch = line.at("epoch"),
          .loss = number_in(line, "val_loss"),
          .labels = line.at("num_label_tokens")};
}

struct ReadLines {
  std::string text;
  std::vector<StepLine> steps;
  std::vector<ValidationLine> validations;
};

// Of the steps that count. A line that a killed process left half written is no line.
ReadLines lines_up_to(std::int64_t done, const std::string& text) {
  ReadLines read;
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find('\n', begin)) != text.npos; begin = end + 1) {
    const std::string_view line = std::string_view(text).substr(begin, end + 1 - begin);
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    try {
      if (json.at("step").get<std::int64_t>() > done) continue;
      if (json.contains("val_loss"))
        read.validations.push_back(validation_line(json));
      else if (!json.contains("sample"))
        read.steps.push_back(step_line(json));
      read.text += line;
    } catch (const Json::exception&) {
    }
  }
  return read;
}

// Names sort by time, and by the number of earlier ones where clocks are too coarse or wrong.
std::string next_event_file(const std::string& directory, double seconds) {
  int earlier = 0;
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error))
    earlier += at->path().filename().string().starts_with(kEvents);
  char host[256] = "host";
  ::gethostname(host, sizeof host - 1);
  return fmt::format("{}/{}{:010.0f}.{}.{:05}", directory, kEvents, std::floor(seconds), host,
                     earlier);
}

}  // namespace

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string json_line(const StepLine& line, double seconds) {
  Json json = {{"step", line.step},
               {"epoch", line.epoch},
               {"loss", line.loss},
               {"grad_norm", line.gradient_norm},
               {"lr", line.rate},
               {"mem", line.memory_gib},
               {"tps", line.tokens_per_second},
               {"num_tokens_per_step", line.tokens},
               {"num_label_tokens", line.labels}};
  if (line.peak_share > 0) json["mfu"] = line.peak_share;
  json["eta"] = line.seconds_left;
  for (const Measure& measure : line.measures) json[measure.name] = measure.value;
  json["timestamp"] = timestamp(seconds);
  if (!line.skipped.empty()) json["skipped"] = line.skipped;
  return json.dump();
}

std::string json_line(const ValidationLine& line, double seconds) {
  Json json = {{"step", line.step}, {"epoch", line.epoch}, {"val_loss", line.loss}};
  for (const Measure& measure : line.measures) json["val_" + measure.name] = measure.value;
  json["num_label_tokens"] = line.labels;
  json["timestamp"] = timestamp(seconds);
  return json.dump();
}

std::string json_line(const SampleLine& line, double seconds) {
  const Json json = {{"step", line.step},
                     {"prompt", line.prompt},
                     {"sample", line.answer},
                     {"timestamp", timestamp(seconds)}};
  // An answer may end in the middle of a character.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<GrowingFile> GrowingFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return fail("cannot open {}: {}", path, last_error());
  return GrowingFile(path, fd);
}

GrowingFile::GrowingFile(GrowingFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      waiting_(std::move(other.waiting_)) {}

GrowingFile::~GrowingFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status GrowingFile::add(std::string_view text) {
  waiting_ += text;
  while (!waiting_.empty()) {
    const ssize_t n = ::write(descriptor_, waiting_.data(), waiting_.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("cannot write {}: {}", path_, last_error());
    waiting_.erase(0, static_cast<std::size_t>(n));
  }
  return {};
}

Status GrowingFile::sync() {
  M3_TRY_STATUS(add(""));
  if (::fsync(descriptor_) != 0 && errno != EINVAL && errno != EROFS)
    return fail("cannot finish writing {}: {}", path_, last_error());
  return {};
}

Result<RunLog> RunLog::open(const std::string& directory, std::int64_t done) {
  const std::string path = directory + kLines;
  std::string text;
  if (std::error_code error; fs::exists(path, error)) {
    M3_TRY(text, read_text_file(path, kLogBytesMax));
  }
  ReadLines read = lines_up_to(done, text);
  if (read.text != text) M3_TRY_STATUS(write_text_file(path, read.text));
  M3_TRY(GrowingFile lines, GrowingFile::open(path));
  const double now = seconds_since_1970();
  M3_TRY(GrowingFile events, GrowingFile::open(next_event_file(directory, now)));
  M3_TRY_STATUS(events.add(version_event(now) + session_event(now, done + 1)));
  RunLog log(std::move(lines), std::move(events));
  log.steps_ = std::move(read.steps);
  log.validations_ = std::move(read.validations);
  return log;
}

Status RunLog::add(const StepLine& line, double seconds) {
  steps_.push_back(line);
  std::vector<EventScalar> scalars = {{"loss", line.loss},
                                      {"grad_norm", line.gradient_norm},
                                      {"lr", line.rate},
                                      {"tokens_per_second", line.tokens_per_second},
                                      {"mem", line.memory_gib}};
  if (line.peak_share > 0) scalars.push_back({"mfu", line.peak_share});
  for (const Measure& measure : line.measures) scalars.push_back({measure.name, measure.value});
  const Status events = events_.add(scalars_event(seconds, line.step, scalars));
  M3_TRY_STATUS(lines_.add(json_line(line, seconds) + "\n"));
  return events;
}

Status RunLog::add(const ValidationLine& line, double seconds) {
  validations_.push_back(line);
  std::vector<EventScalar> scalars = {{"val_loss", line.loss}};
  for (const Measure& measure : line.measures)
    scalars.push_back({"val_" + measure.name, measure.value});
  const Status events = events_.add(scalars_event(seconds, line.step, scalars));
  M3_TRY_STATUS(lines_.add(json_line(line, seconds) + "\n"));
  return events;
}

Status RunLog::add(const SampleLine& line, double seconds) {
  return lines_.add(json_line(line, seconds) + "\n");
}

Status RunLog::sync() {
  M3_TRY_STATUS(events_.sync());
  return lines_.sync();
}

}  // namespace m3
