#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/safetensors.h"

namespace m3 {
namespace {

// Data begin at a multiple of this in the file, so that the first tensors are aligned in a mapping.
// The format lets a header end in spaces for the purpose.
constexpr std::size_t kDataAlignment = 64;

Result<std::int64_t> bytes_of(const TensorInfo& tensor) {
  std::int64_t bytes = dtype_size(tensor.dtype);
  for (std::int64_t axis : tensor.shape)
    if (axis < 0 || __builtin_mul_overflow(bytes, axis, &bytes))
      return fail("tensor {} cannot have the shape {}", tensor.name, describe_shape(tensor.shape));
  return bytes;
}

// Gives each tensor its range, one after the other.
Status assign_ranges(std::vector<TensorInfo>& tensors) {
  std::int64_t end = 0;
  std::set<std::string_view> names;
  for (TensorInfo& tensor : tensors) {
    if (!names.insert(tensor.name).second) return fail("two tensors are named {}", tensor.name);
    M3_TRY(const std::int64_t bytes, bytes_of(tensor));
    tensor.begin = end;
    if (__builtin_add_overflow(end, bytes, &end))
      return fail("the tensors up to {} are larger than any file", tensor.name);
    tensor.end = end;
  }
  return {};
}

std::string dumped(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string describe(const TensorInfo& tensor) {
  return fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                     dumped(tensor.name), dtype_name(tensor.dtype), fmt::join(tensor.shape, ","),
                     tensor.begin, tensor.end);
}

}  // namespace

Result<std::string> safetensors_header(std::vector<TensorInfo>& tensors, Metadata metadata) {
  M3_TRY_STATUS(assign_ranges(tensors));
  metadata.emplace("format", "pt");
  std::string json = R"({"__metadata__":)" + dumped(metadata);
  for (const TensorInfo& tensor : tensors) {
    json += ',';
    json += describe(tensor);
  }
  json += "}";
  std::uint64_t length = json.size();
  const std::size_t used = (sizeof length + json.size()) % kDataAlignment;
  if (used != 0) json.append(kDataAlignment - used, ' ');
  length = json.size();
  std::string header(sizeof length, '\0');
  for (std::size_t i = 0; i < sizeof length; ++i) header[i] = static_cast<char>(length >> (8 * i));
  return header + json;
}

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path,
                                                    std::vector<TensorInfo> tensors,
                                                    Metadata metadata) {
  M3_TRY(const std::string header, safetensors_header(tensors, std::move(metadata)));
  M3_TRY(auto file, FileWriter::create(path));
  M3_TRY_STATUS(file.write(header));
  return SafetensorsWriter(path, std::move(file), tensors.empty() ? 0 : tensors.back().end);
}

Status SafetensorsWriter::write(std::span<const std::byte> bytes) {
  const auto count = static_cast<std::int64_t>(bytes.size());
  M3_CHECK(count <= missing_bytes_, "{} bytes for {}, which lacks {}", count, path_,
           missing_bytes_);
  M3_TRY_STATUS(file_.write(bytes));
  missing_bytes_ -= count;
  return {};
}

Status SafetensorsWriter::finish() {
  if (missing_bytes_ != 0)
    return fail("{}: {} bytes of the declared tensors were not written", path_, missing_bytes_);
  return file_.commit();
}

Status write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                         Metadata metadata) {
  std::vector<TensorInfo> infos;
  for (const auto& [name, tensor] : tensors) {
    const auto rank = static_cast<std::size_t>(tensor.rank);
    infos.push_back({name, tensor.dtype, {tensor.shape.begin(), tensor.shape.begin() + rank}});
  }
  M3_TRY(auto writer, SafetensorsWriter::create(path, std::move(infos), std::move(metadata)));
  for (const auto& [name, tensor] : tensors) {
    const auto* data = static_cast<const std::byte*>(tensor.data);
    M3_TRY_STATUS(writer.write({data, static_cast<std::size_t>(tensor.bytes())}));
  }
  return writer.finish();
}

}  // namespace m3
