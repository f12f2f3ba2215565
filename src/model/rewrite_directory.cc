#include "model/rewrite_directory.h"

#include <algorithm>
#include <filesystem>

#include "base/file.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kSmallBytes = 256 << 20;

bool is_written_anew(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.starts_with('.') || name == "config.json" || name == "hf_quant_config.json" ||
         name == "model.safetensors.index.json" || path.extension() == ".safetensors" ||
         path.extension() == ".pack" || path.extension() == ".part" ||
         // The log of the training that made the source.
         name == "run.json" || name == "log.jsonl" || name == "curves.svg" ||
         name.starts_with("events.out.tfevents.");
}

Status copy_file(const std::string& from, const std::string& to) {
  M3_TRY(const auto source, MappedFile::open(from));
  M3_TRY(auto file, FileWriter::create(to));
  M3_TRY_STATUS(file.write(source->bytes()));
  return file.commit();
}

// Bytes of those of the files that are there already, and will be replaced.
std::uintmax_t replaced_bytes(const DirectoryClaim& claim) {
  std::uintmax_t bytes = 0;
  for (const std::string& name : claim.files) {
    std::error_code error;
    const std::uintmax_t size = fs::file_size(claim.directory + "/" + name, error);
    if (!error) bytes += size;
  }
  return bytes;
}

}  // namespace

Status expect_apart(const std::string& source, const std::string& directory) {
  std::error_code error;
  const fs::path from = fs::weakly_canonical(source, error);
  const fs::path to = fs::weakly_canonical(fs::absolute(directory, error), error);
  const auto [rest, _] = std::mismatch(from.begin(), from.end(), to.begin(), to.end());
  if (rest == from.end() || fs::equivalent(source, directory, error))
    return fail("{} is the model itself, or inside its directory; choose another directory",
                directory);
  return {};
}

Status claim_output(const DirectoryClaim& claim, std::int64_t bytes) {
  std::error_code error;
  const fs::path directory = claim.directory;
  const bool used = fs::is_directory(directory, error) && !fs::is_empty(directory, error);
  if (used && !fs::exists(directory / "config.json", error))
    return fail(
        "the directory {} is not empty, and not an earlier output of this command; remove {} or "
        "choose another one",
        claim.directory, claim.directory);
  M3_TRY_STATUS(claim_directory(claim));
  const fs::space_info space = fs::space(directory, error);
  if (!error && space.available + replaced_bytes(claim) < static_cast<std::uintmax_t>(bytes))
    return fail("{} needs {} bytes, but its disk has only {} left", claim.directory, bytes,
                space.available);
  return {};
}

Result<std::vector<std::string>> copy_small_files(const std::string& source,
                                                  const std::string& directory) {
  std::vector<std::string> left_out;
  std::error_code error;
  for (fs::directory_iterator at(source, error), end; !error && at != end; at.increment(error)) {
    std::error_code ignored;
    if (!at->is_regular_file(ignored) || is_written_anew(at->path())) continue;
    const std::string name = at->path().filename().string();
    if (at->file_size(ignored) > kSmallBytes)
      left_out.push_back(name);
    else
      M3_TRY_STATUS(copy_file(at->path().string(), directory + "/" + name));
  }
  if (error) return fail("cannot list the directory {}: {}", source, error.message());
  std::sort(left_out.begin(), left_out.end());
  return left_out;
}

}  // namespace m3
