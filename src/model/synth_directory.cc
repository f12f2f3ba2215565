#include "model/synth_directory.h"

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "checkpoint/checkpoint.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;

bool has_text(const std::string& path, std::string_view text) {
  const auto found = read_text_file(path);
  return found && *found == text;
}

bool is_random(const std::string& path) {
  const auto file = SafetensorsFile::open(path);
  return file && (*file)->metadata().contains(kSyntheticKey);
}

}  // namespace

Metadata synthetic_note(std::uint64_t seed) {
  return {{kSyntheticKey,
           fmt::format("the weights are random, drawn with seed {}: what this model says means "
                       "nothing",
                       seed)}};
}

Status claim_directory(const std::string& directory, std::string_view config_text,
                       std::span<const std::string> files, bool indexed) {
  M3_TRY_STATUS(make_directories(directory));
  const auto foreign = [&](const fs::path& path) {
    const std::string name = path.filename().string();
    if (name == "config.json") return !has_text(path.string(), config_text);
    if (name == "model.safetensors.index.json") return !indexed;
    if (path.extension() != ".safetensors") return false;
    return std::ranges::find(files, name) == files.end() || !is_random(path.string());
  };
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error))
    if (foreign(at->path()))
      return fail("{} already holds {}; remove it or choose another directory", directory,
                  at->path().filename().string());
  if (error) return fail("cannot list the directory {}: {}", directory, error.message());
  return {};
}

}  // namespace m3
