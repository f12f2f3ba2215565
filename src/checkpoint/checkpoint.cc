#include "checkpoint/checkpoint.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

namespace m3 {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr std::size_t kNamesShown = 5;

// "a, b, c and 4 more".
std::string some_of(const std::vector<std::string>& names) {
  const std::size_t shown = std::min(names.size(), kNamesShown);
  std::string text =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<long>(shown), ", "));
  if (names.size() > shown) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

// Paths of the *.safetensors files of a directory, in the order of their names.
Result<std::vector<std::string>> shard_paths(const std::string& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) return fail("there is no directory {}", directory);
  std::vector<std::string> paths;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error))
    if (at->path().extension() == ".safetensors") paths.push_back(at->path().string());
  if (error) return fail("cannot list the directory {}: {}", directory, error.message());
  if (paths.empty())
    return fail("{} is not a checkpoint: it holds no *.safetensors file", directory);
  std::sort(paths.begin(), paths.end());
  return paths;
}

// What the index says: tensor names, or a sentence why it says nothing.
struct Index {
  std::set<std::string, std::less<>> names;
  std::string complaint;
};

Index parse_index(const std::string& text, const std::string& path) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object())
    return {{}, fmt::format("{} is not an index (an object with weight_map); ignored", path)};
  Index index;
  for (const auto& item : map->items()) index.names.insert(item.key());
  return index;
}

}  // namespace

Result<std::shared_ptr<const Checkpoint>> Checkpoint::open(const std::string& directory) {
  std::shared_ptr<Checkpoint> checkpoint(new Checkpoint());
  checkpoint->directory_ = directory;
  M3_TRY(const auto paths, shard_paths(directory));
  for (const std::string& path : paths) {
    M3_TRY(auto file, SafetensorsFile::open(path));
    M3_TRY_STATUS(checkpoint->add(std::move(file)));
  }
  M3_TRY_STATUS(checkpoint->compare_with_index());
  return std::shared_ptr<const Checkpoint>(std::move(checkpoint));
}

Status Checkpoint::add(std::shared_ptr<const SafetensorsFile> file) {
  for (const TensorInfo& info : file->tensors()) {
    const auto [at, is_new] = tensors_.emplace(info.name, CheckpointTensor{file.get(), &info});
    if (!is_new)
      return fail("tensor {} is in two files, {} and {}; remove one of them", info.name,
                  at->second.file->path(), file->path());
  }
  files_.push_back(std::move(file));
  return {};
}

Status Checkpoint::compare_with_index() {
  const std::string path = (fs::path(directory_) / kIndexName).string();
  if (!fs::exists(path)) return {};
  M3_TRY(const std::string text, read_text_file(path));
  const Index index = parse_index(text, path);
  if (!index.complaint.empty()) {
    warnings_.push_back(index.complaint);
    return {};
  }
  std::vector<std::string> missing;
  for (const auto& name : index.names)
    if (!tensors_.contains(name)) missing.push_back(name);
  if (!missing.empty())
    return fail(
        "{} lists {} tensors that no file holds ({}): a shard is missing or from another "
        "checkpoint",
        path, missing.size(), some_of(missing));
  std::vector<std::string> extra;
  for (const auto& [name, tensor] : tensors_)
    if (!index.names.contains(name)) extra.push_back(name);
  if (!extra.empty())
    warnings_.push_back(fmt::format("{} does not list {} tensors of the files: {}", path,
                                    extra.size(), some_of(extra)));
  return {};
}

const CheckpointTensor* Checkpoint::find(std::string_view name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

void Checkpoint::release(const Tensor& tensor) const {
  const std::span bytes(static_cast<const std::byte*>(tensor.data),
                        static_cast<std::size_t>(tensor.bytes()));
  for (const auto& file : files_) file->mapping().release(bytes);
}

std::string Checkpoint::synthetic() const {
  for (const auto& file : files_)
    if (const auto at = file->metadata().find(kSyntheticKey); at != file->metadata().end())
      return at->second;
  return "";
}

}  // namespace m3
