#include "checkpoint/safetensors.h"

namespace m3 {

Result<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::open(const std::string& path) {
  M3_TRY(auto mapped, MappedFile::open(path));
  const auto bytes = mapped->bytes();
  M3_TRY(auto header,
         parse_safetensors_header(bytes, static_cast<std::int64_t>(bytes.size()), path));
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile());
  file->file_ = std::move(mapped);
  file->data_begin_ = header.data_begin;
  file->metadata_ = std::move(header.metadata);
  file->tensors_ = std::move(header.tensors);
  for (std::size_t i = 0; i < file->tensors_.size(); ++i)
    file->by_name_.emplace(file->tensors_[i].name, i);
  return std::shared_ptr<const SafetensorsFile>(std::move(file));
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

Tensor SafetensorsFile::tensor(const TensorInfo& info) const {
  // Tensor has one pointer type for weights and outputs; nobody writes through this one, and the
  // mapping is read-only should somebody try.
  auto* data = const_cast<std::byte*>(file_->bytes().data()) + data_begin_ + info.begin;
  return {data, info.dtype, std::span<const std::int64_t>(info.shape)};
}

}  // namespace m3
