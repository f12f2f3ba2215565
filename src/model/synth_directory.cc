#include "model/synth_directory.h"

#include <algorithm>
#include <filesystem>

#include "base/file.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;

bool has_text(const std::string& path, std::string_view text) {
  const auto found = read_text_file(path);
  return found && *found == text;
}

bool has_note(const std::string& path, const char* note) {
  const auto file = SafetensorsFile::open(path);
  return file && (*file)->metadata().contains(note);
}

}  // namespace

Metadata synthetic_note(std::uint64_t seed) {
  return {{kSyntheticKey,
           fmt::format("the weights are random, drawn with seed {}: what this model says means "
                       "nothing",
                       seed)}};
}

Status claim_directory(const DirectoryClaim& claim) {
  const std::string& directory = claim.directory;
  M3_TRY_STATUS(make_directories(directory));
  const auto foreign = [&](const fs::path& path) {
    const std::string name = path.filename().string();
    if (name == "config.json") return !has_text(path.string(), claim.config_text);
    if (name == "model.safetensors.index.json") return !claim.indexed;
    if (path.extension() != ".safetensors") return false;
    return std::ranges::find(claim.files, name) == claim.files.end() ||
           !has_note(path.string(), claim.note);
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
