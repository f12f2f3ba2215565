#include "model/model_writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "model/weight_encoder.h"

namespace m3 {
namespace {

using Json = nlohmann::ordered_json;
using Shard = std::vector<WrittenWeight>;

constexpr std::string_view kPrefix = "language_model.";
constexpr const char* kIndexName = "model.safetensors.index.json";

// Wide types first, so that each tensor lies at a multiple of its element size.
void align(Shard& shard) {
  std::stable_sort(shard.begin(), shard.end(), [](const WrittenWeight& a, const WrittenWeight& b) {
    return dtype_size(a.codec->values_dtype) > dtype_size(b.codec->values_dtype);
  });
}

std::vector<std::string> file_names(std::size_t shards, bool flat) {
  if (flat) return {"model.safetensors"};
  std::vector<std::string> names;
  for (std::size_t i = 1; i <= shards; ++i)
    names.push_back(fmt::format("model-{:05}-of-{:05}.safetensors", i, shards));
  return names;
}

// As the released files call it; the other formats follow ModelOpt (spec: text-model §2.4, §2.5).
const char* scale_suffix(const Codec& codec) {
  return codec.format == Format::kMxfp8 ? "_scale_inv" : "_scale";
}

// The tensors of a shard in the order of their data: a scale follows its values. Factors come last:
// they are known when their weights have been read.
std::vector<TensorInfo> infos_of(const Shard& shard) {
  std::vector<TensorInfo> infos, factors;
  for (const WrittenWeight& weight : shard) {
    const Codec& codec = *weight.codec;
    std::vector<std::int64_t> shape = weight.spec->shape;
    if (codec.packed > 1) shape.back() = values_cols(codec, weight.cols);
    infos.push_back({weight.name, codec.values_dtype, std::move(shape)});
    if (weight.scale_bytes() > 0)
      infos.push_back({weight.name + scale_suffix(codec),
                       codec.scales_dtype,
                       {weight.rows, scale_cols(codec, weight.cols)}});
    if (codec.whole_scale != nullptr)
      factors.push_back({weight.name + "_scale_2", DType::kF32, {}});
  }
  infos.insert(infos.end(), factors.begin(), factors.end());
  return infos;
}

// Writes one shard after the other.
class ShardWriter {
 public:
  ShardWriter(RowSource& source, const WriteOptions& options, std::int64_t total)
      : source_(source), options_(options), total_(total) {}

  Status write(const std::string& path, const Shard& shard) {
    M3_TRY(auto file, SafetensorsWriter::create(path, infos_of(shard), options_.metadata));
    std::vector<float> factors;
    for (const WrittenWeight& weight : shard) {
      M3_TRY(const float factor, write(weight, file));
      if (weight.codec->whole_scale != nullptr) factors.push_back(factor);
    }
    M3_TRY_STATUS(write(std::as_bytes(std::span(factors)), file));
    return file.finish();
  }

 private:
  // Bytes between two reports, and in memory at a time.
  static constexpr std::int64_t kPieceBytes = 16 << 20;

  // Returns the factor of the whole matrix.
  Result<float> write(const WrittenWeight& weight, SafetensorsWriter& file) {
    if (const Matrix stored = source_.stored(weight)) {
      M3_TRY_STATUS(write(bytes_of(stored.values), file));
      if (stored.scales) M3_TRY_STATUS(write(bytes_of(stored.scales), file));
      source_.written(weight, {});
      return stored.scale;
    }
    WeightEncoder encoder(weight, source_, options_.pool);
    M3_TRY_STATUS(encoder.prepare());
    const std::int64_t row_bytes = value_row_bytes(*weight.codec, weight.cols);
    const std::int64_t piece = std::max<std::int64_t>(1, kPieceBytes / row_bytes);
    for (std::int64_t row = 0; row < weight.rows; row += piece) {
      M3_TRY(const auto values, encoder.encode(row, std::min(piece, weight.rows - row)));
      M3_TRY_STATUS(write(values, file));
    }
    M3_TRY_STATUS(write(encoder.scales(), file));
    source_.written(weight, encoder.error());
    return encoder.factor();
  }

  Status write(std::span<const std::byte> bytes, SafetensorsWriter& file) {
    while (!bytes.empty()) {
      const auto part = bytes.first(std::min<std::size_t>(bytes.size(), kPieceBytes));
      M3_TRY_STATUS(file.write(part));
      done_ += static_cast<std::int64_t>(part.size());
      if (options_.progress) options_.progress(done_, total_);
      bytes = bytes.subspan(part.size());
    }
    return {};
  }

  static std::span<const std::byte> bytes_of(const Tensor& tensor) {
    return {static_cast<const std::byte*>(tensor.data), static_cast<std::size_t>(tensor.bytes())};
  }

  RowSource& source_;
  const WriteOptions& options_;
  std::int64_t total_;
  std::int64_t done_ = 0;
};

std::string index_text(const ModelFiles& files) {
  Json map = Json::object();
  for (std::size_t i = 0; i < files.shards.size(); ++i)
    for (const TensorInfo& info : infos_of(files.shards[i])) map[info.name] = files.names[i];
  Json json;
  json["metadata"]["total_size"] = files.bytes();
  json["weight_map"] = std::move(map);
  return json.dump(1) + "\n";
}

}  // namespace

WrittenWeight written_weight(const WeightSpec& spec, const Codec& codec, bool flat) {
  const std::string name =
      flat && spec.name.starts_with(kPrefix) ? spec.name.substr(kPrefix.size()) : spec.name;
  const std::int64_t rows = spec.shape.size() == 1 ? 1 : spec.shape.front();
  return {&spec, &codec, name, rows, spec.elements() / rows};
}

std::int64_t ModelFiles::bytes() const {
  std::int64_t total = 0;
  for (const Shard& shard : shards)
    for (const WrittenWeight& weight : shard) total += weight.bytes();
  return total;
}

Result<ModelFiles> plan_files(std::vector<WrittenWeight> weights, bool flat,
                              std::int64_t shard_bytes) {
  ModelFiles files;
  files.indexed = !flat;
  files.shards.emplace_back();
  std::int64_t bytes = 0;
  for (WrittenWeight& weight : weights) {
    if (!fits(*weight.codec, weight.cols))
      return fail("{} has {} columns, and {} stores {} in a byte: give it another format",
                  weight.spec->name, weight.cols, weight.codec->name, weight.codec->packed);
    if (!flat && bytes > 0 && bytes + weight.bytes() > shard_bytes) {
      files.shards.emplace_back();
      bytes = 0;
    }
    bytes += weight.bytes();
    files.shards.back().push_back(std::move(weight));
  }
  for (Shard& shard : files.shards) align(shard);
  files.names = file_names(files.shards.size(), flat);
  return files;
}

Status write_model_files(const ModelFiles& files, RowSource& source, const WriteOptions& options) {
  ShardWriter writer(source, options, files.bytes());
  for (std::size_t i = 0; i < files.shards.size(); ++i)
    M3_TRY_STATUS(writer.write(options.directory + "/" + files.names[i], files.shards[i]));
  if (!files.indexed) return {};
  return write_text_file(options.directory + "/" + kIndexName, index_text(files));
}

}  // namespace m3
