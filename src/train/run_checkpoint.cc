#include "train/run_checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/checksum.h"
#include "checkpoint/safetensors.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kStep = "step-";
constexpr const char* kUnfinished = ".part";
constexpr const char* kState = "/state.safetensors";
constexpr const char* kRecord = "/checkpoint.json";
constexpr const char* kChecksum = "xxh3";
constexpr std::int64_t kPiece = 16 << 20;

// One list of tensors of the state, and how its entries begin.
struct StatePart {
  const char* prefix;
  std::span<const Tensor> tensors;
};

std::array<StatePart, 3> parts_of(const Trainer& trainer) {
  return {{{"weights.", trainer.values()},
           {"first.", trainer.first_moments()},
           {"second.", trainer.second_moments()}}};
}

std::string hexadecimal(std::uint64_t checksum) {
  return fmt::format("{:016x}", checksum);
}

std::vector<TensorInfo> state_tensors(const Trainer& trainer) {
  std::vector<TensorInfo> infos;
  for (const StatePart& part : parts_of(trainer))
    for (std::size_t i = 0; i < part.tensors.size(); ++i) {
      const Tensor& tensor = part.tensors[i];
      infos.push_back({part.prefix + trainer.weights()[i].name,
                       tensor.dtype,
                       {tensor.shape.begin(), tensor.shape.begin() + tensor.rank}});
    }
  return infos;
}

// In pieces, so that no call waits long on the disk and progress shows.
class StateWriter {
 public:
  static Result<StateWriter> create(const std::string& path) {
    M3_TRY(FileWriter file, FileWriter::create(path));
    return StateWriter(std::move(file));
  }
  Status add(std::span<const std::byte> bytes) {
    checksum_->add(bytes);
    bytes_ += std::ssize(bytes);
    return file_.write(bytes);
  }
  Status commit() { return file_.commit(); }
  std::int64_t bytes() const { return bytes_; }
  std::uint64_t checksum() const { return checksum_->value(); }

 private:
  explicit StateWriter(FileWriter file)
      : file_(std::move(file)), checksum_(std::make_unique<Checksum>()) {}
  FileWriter file_;
  std::unique_ptr<Checksum> checksum_;
  std::int64_t bytes_ = 0;
};

Status write_state(const std::string& path, const Trainer& trainer, RunCheckpoint& point,
                   const Progress& progress) {
  std::vector<TensorInfo> infos = state_tensors(trainer);
  M3_TRY(const std::string header, safetensors_header(infos));
  M3_TRY(StateWriter writer, StateWriter::create(path));
  M3_TRY_STATUS(writer.add(std::as_bytes(std::span(header.data(), header.size()))));
  const std::int64_t total = checkpoint_bytes(trainer);
  for (const StatePart& part : parts_of(trainer))
    for (const Tensor& tensor : part.tensors)
      for (std::int64_t begin = 0; begin < tensor.bytes(); begin += kPiece) {
        const auto count = static_cast<std::size_t>(std::min(kPiece, tensor.bytes() - begin));
        M3_TRY_STATUS(writer.add({static_cast<const std::byte*>(tensor.data) + begin, count}));
        if (progress) progress(writer.bytes(), total);
      }
  M3_TRY_STATUS(writer.commit());
  point.state_bytes = writer.bytes();
  point.state_checksum = writer.checksum();
  return {};
}

Json json_of(std::span<const RunFact> run) {
  Json facts = Json::object();
  for (const RunFact& fact : run) facts[fact.name] = fact.value;
  return facts;
}

Json json_of(const std::optional<double>& loss) {
  return loss ? Json(*loss) : Json();
}

std::string text_of(const RunCheckpoint& point) {
  Json record = {
      {"version", 1},
      {"step", point.step},
      {"updates", point.updates},
      {"skipped", point.step - point.updates},
      {"validation_loss", json_of(point.validation_loss)},
      {"best_validation_loss", json_of(point.best_loss)},
      {"state", {{"bytes", point.state_bytes}, {kChecksum, hexadecimal(point.state_checksum)}}},
      {"run", json_of(point.run)}};
  record[kChecksum] = hexadecimal(checksum_of(record.dump()));
  return record.dump(2) + "\n";
}

// Throws where the text is not what text_of() writes.
RunCheckpoint parse_record(const std::string& text) {
  Json record = Json::parse(text);
  const auto checksum = record.at(kChecksum).get<std::string>();
  record.erase(kChecksum);
  if (checksum != hexadecimal(checksum_of(record.dump())))
    throw std::runtime_error("its checksum is another");
  if (record.at("version") != 1) throw std::runtime_error("its version is another");
  const auto loss = [&](const char* key) -> std::optional<double> {
    if (record.at(key).is_null()) return std::nullopt;
    return record.at(key).get<double>();
  };
  RunCheckpoint point;
  record.at("step").get_to(point.step);
  record.at("updates").get_to(point.updates);
  point.validation_loss = loss("validation_loss");
  point.best_loss = loss("best_validation_loss");
  const Json& state = record.at("state");
  state.at("bytes").get_to(point.state_bytes);
  point.state_checksum = std::stoull(state.at(kChecksum).get<std::string>(), nullptr, 16);
  for (const auto& [name, value] : record.at("run").items())
    point.run.push_back({name, value.get<std::string>()});
  return point;
}

Result<RunCheckpoint> read_record(const std::string& directory, std::int64_t step) {
  M3_TRY(const std::string text, read_text_file(directory + kRecord));
  RunCheckpoint point;
  try {
    point = parse_record(text);
  } catch (const std::exception& error) {
    return fail("{}{} is damaged: {}", directory, kRecord, error.what());
  }
  if (point.step != step) return fail("{} holds step {}", directory, point.step);
  std::error_code error;
  const auto size = fs::file_size(directory + kState, error);
  if (error || static_cast<std::int64_t>(size) != point.state_bytes)
    return fail("{}{} is damaged: it has {} of {} bytes", directory, kState, error ? 0 : size,
                point.state_bytes);
  point.directory = directory;
  return point;
}

// N of "step-N".
std::optional<std::int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kStep)) return std::nullopt;
  const char* begin = name.data() + std::strlen(kStep);
  const char* end = name.data() + name.size();
  std::int64_t step = 0;
  const auto [stop, error] = std::from_chars(begin, end, step);
  if (error != std::errc() || stop != end || step < 0) return std::nullopt;
  return step;
}

Status expect_state_of(const SafetensorsFile& file, const Trainer& trainer) {
  const std::vector<TensorInfo> expected = state_tensors(trainer);
  for (const TensorInfo& info : expected) {
    const TensorInfo* found = file.find(info.name);
    if (found == nullptr || found->dtype != info.dtype || found->shape != info.shape)
      return fail("{} is of another model: it has no {} of the type and shape that is trained",
                  file.path(), info.name);
  }
  if (file.tensors().size() != expected.size())
    return fail("{} is of another model: it holds {} tensors, expected {}", file.path(),
                file.tensors().size(), expected.size());
  return {};
}

Status check_state(const SafetensorsFile& file, const RunCheckpoint& checkpoint,
                   const Progress& progress) {
  const auto bytes = file.mapping().bytes();
  Checksum checksum;
  for (std::size_t begin = 0; begin < bytes.size(); begin += kPiece) {
    const std::size_t count = std::min<std::size_t>(kPiece, bytes.size() - begin);
    checksum.add(bytes.subspan(begin, count));
    if (progress)
      progress(static_cast<std::int64_t>(begin + count), static_cast<std::int64_t>(bytes.size()));
  }
  if (std::ssize(bytes) != checkpoint.state_bytes || checksum.value() != checkpoint.state_checksum)
    return fail("{} is damaged: its checksum is another", file.path());
  return {};
}

}  // namespace

std::string first_difference(std::span<const RunFact> run, std::span<const RunFact> now) {
  const auto value_in = [](std::span<const RunFact> facts, const std::string& name) {
    const auto at = std::ranges::find_if(facts, [&](const RunFact& f) { return f.name == name; });
    return at == facts.end() ? std::string("none") : at->value;
  };
  for (const std::span<const RunFact> facts : {now, run})
    for (const RunFact& fact : facts) {
      const std::string was = value_in(run, fact.name), is = value_in(now, fact.name);
      if (was != is) return fmt::format("{} was {} and is now {}", fact.name, was, is);
    }
  return {};
}

std::string facts_text(std::span<const RunFact> run) {
  return Json{{"run", json_of(run)}}.dump(2) + "\n";
}

Result<std::vector<RunFact>> parse_facts(const std::string& path) {
  M3_TRY(const std::string text, read_text_file(path));
  std::vector<RunFact> facts;
  try {
    const Json file = Json::parse(text);
    for (const auto& [name, value] : file.at("run").items())
      facts.push_back({name, value.get<std::string>()});
  } catch (const std::exception& error) {
    return fail("{} is damaged: {}", path, error.what());
  }
  return facts;
}

std::int64_t checkpoint_bytes(const Trainer& trainer) {
  std::int64_t bytes = 0;
  for (const StatePart& part : parts_of(trainer))
    for (const Tensor& tensor : part.tensors) bytes += tensor.bytes();
  return bytes;
}

Result<RunCheckpoint> save_checkpoint(const std::string& directory, const Trainer& trainer,
                                      RunCheckpoint point, const Progress& progress) {
  point.step = trainer.steps();
  point.updates = trainer.updates();
  point.directory = fmt::format("{}/{}{}", directory, kStep, point.step);
  const std::string part = point.directory + kUnfinished;
  std::error_code error;
  fs::remove_all(part, error);
  M3_TRY_STATUS(make_directories(part));
  const auto written = [&]() -> Status {
    M3_TRY_STATUS(write_state(part + kState, trainer, point, progress));
    M3_TRY_STATUS(write_text_file(part + kRecord, text_of(point)));
    return sync_directory(part);
  }();
  if (!written) {
    fs::remove_all(part, error);  // its room may be what the next attempt needs
    return tl::unexpected(written.error());
  }
  fs::remove_all(point.directory, error);  // a damaged one: no other is made again
  fs::rename(part, point.directory, error);
  if (error) return fail("cannot rename {} to {}: {}", part, point.directory, error.message());
  M3_TRY_STATUS(sync_directory(directory));
  return point;
}

Status save_record(const RunCheckpoint& checkpoint) {
  return write_text_file(checkpoint.directory + kRecord, text_of(checkpoint));
}

std::vector<ListedCheckpoint> list_checkpoints(const std::string& directory) {
  std::vector<ListedCheckpoint> list;
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error))
    if (const auto step = step_of(at->path().filename().string()))
      list.push_back({*step, read_record(at->path().string(), *step)});
  std::ranges::sort(list, std::greater(), &ListedCheckpoint::step);
  return list;
}

Status restore_checkpoint(const RunCheckpoint& checkpoint, Trainer& trainer,
                          const Progress& progress) {
  M3_TRY(const auto file, SafetensorsFile::open(checkpoint.directory + kState));
  M3_TRY_STATUS(check_state(*file, checkpoint, progress));
  M3_TRY_STATUS(expect_state_of(*file, trainer));
  for (const StatePart& part : parts_of(trainer))
    for (std::size_t i = 0; i < part.tensors.size(); ++i) {
      const Tensor from = file->tensor(*file->find(part.prefix + trainer.weights()[i].name));
      std::memcpy(part.tensors[i].data, from.data, static_cast<std::size_t>(from.bytes()));
    }
  trainer.resume_at(checkpoint.step, checkpoint.updates);
  return {};
}

void remove_superseded(const std::string& directory, const RunCheckpoint& newest) {
  const std::vector<ListedCheckpoint> list = list_checkpoints(directory);
  const RunCheckpoint* best = nullptr;
  for (const ListedCheckpoint& listed : list) {
    if (!listed.checkpoint || !listed.checkpoint->validation_loss) continue;
    if (best == nullptr || *listed.checkpoint->validation_loss < *best->validation_loss)
      best = &*listed.checkpoint;
  }
  std::error_code error;
  for (const ListedCheckpoint& listed : list) {
    const bool is_best = best != nullptr && listed.step == best->step;
    if (listed.step == newest.step || is_best) continue;
    // Renamed before it is removed, so that a kill in between leaves nothing that looks like a
    // checkpoint and lacks files.
    const std::string name = fmt::format("{}/{}{}", directory, kStep, listed.step);
    fs::rename(name, name + kUnfinished, error);
  }
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error))
    if (at->path().extension() == kUnfinished) {
      std::error_code ignored;
      fs::remove_all(at->path(), ignored);
    }
}

}  // namespace m3
