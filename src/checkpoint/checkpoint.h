// A directory of safetensors files, seen as one set of named tensors.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "checkpoint/safetensors.h"

namespace m3 {

struct CheckpointTensor {
  const SafetensorsFile* file;
  const TensorInfo* info;
  Tensor tensor() const { return file->tensor(*info); }
};

// Entry of a file's metadata that says that, and how, its weights were made up.
inline constexpr const char* kSyntheticKey = "synthetic";

class Checkpoint {
 public:
  // Opens every *.safetensors of the directory and unites their tensors. The index
  // (model.safetensors.index.json) is a hint only (spec: text-model §2.1): a name that it lists and
  // no file has is an error, one that only a file has is a warning. Errors: no such directory, no
  // safetensors file in it, a broken file, a name in two files.
  static Result<std::shared_ptr<const Checkpoint>> open(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const std::vector<std::shared_ptr<const SafetensorsFile>>& files() const { return files_; }
  // All tensors by name.
  const std::map<std::string, CheckpointTensor, std::less<>>& tensors() const { return tensors_; }
  const CheckpointTensor* find(std::string_view name) const;
  const std::vector<std::string>& warnings() const { return warnings_; }
  // Lets the system take back the memory of a tensor, which is read again when it is next used.
  // Tensors of other checkpoints are left alone.
  void release(const Tensor& tensor) const;
  // One sentence if the weights are random, as their writer noted under kSyntheticKey; else empty.
  std::string synthetic() const;

 private:
  Checkpoint() = default;
  Status add(std::shared_ptr<const SafetensorsFile> file);
  Status compare_with_index();

  std::string directory_;
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::map<std::string, CheckpointTensor, std::less<>> tensors_;
  std::vector<std::string> warnings_;
};

}  // namespace m3
