#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "model/lora_config.h"
#include "model/lora_files.h"
#include "model/lora_names.h"
#include "tensor/float_matrix.h"

namespace m3 {
namespace {

struct Pair {
  const TensorInfo* a = nullptr;
  const TensorInfo* b = nullptr;
};

// One walk over adapter_model.safetensors.
class TensorReader {
 public:
  TensorReader(const SafetensorsFile& file, const LoraConfig& config,
               std::span<const WeightSpec> table)
      : file_(file), config_(config), sites_(lora_sites(table)) {}

  Result<Lora> read() {
    for (const TensorInfo& tensor : file_.tensors()) M3_TRY_STATUS(pair_up(tensor));
    if (pairs_.empty()) return fail("{} holds no tensor", file_.path());
    for (const auto& [module, pair] : pairs_) M3_TRY_STATUS(add(module, pair));
    return std::move(lora_);
  }

 private:
  Status pair_up(const TensorInfo& tensor) {
    std::string name = tensor.name;
    // Automodel puts the text model's prefix in front of peft's (spec: training §7.5).
    constexpr std::string_view kText = "language_model.";
    if (name.starts_with(std::string(kText) + std::string(kLoraPrefix)))
      name = std::string(kLoraPrefix) + std::string(kText) +
             name.substr(kText.size() + kLoraPrefix.size());
    if (is_base_weight(name, tensor)) return {};
    const bool is_a = name.ends_with(kLoraA);
    if (!name.starts_with(kLoraPrefix) || (!is_a && !name.ends_with(kLoraB)) ||
        name.size() <= kLoraPrefix.size() + kLoraA.size())
      return fail("{}: {} is no part of an adapter; expected {}NAME{} or {}NAME{}", file_.path(),
                  tensor.name, kLoraPrefix, kLoraA, kLoraPrefix, kLoraB);
    name = name.substr(kLoraPrefix.size(), name.size() - kLoraPrefix.size() - kLoraA.size());
    const TensorInfo*& place = is_a ? pairs_[name].a : pairs_[name].b;
    if (place != nullptr)
      return fail("{}: {} and {} are the same", file_.path(), place->name, tensor.name);
    place = &tensor;
    return {};
  }

  // With an adapted head peft keeps a copy of the base's own weight.
  bool is_base_weight(std::string_view name, const TensorInfo& tensor) const {
    constexpr std::string_view kBase = ".base_layer.weight";
    if (!name.starts_with(kLoraPrefix) || !name.ends_with(kBase)) return false;
    name.remove_prefix(kLoraPrefix.size());
    name.remove_suffix(kBase.size());
    const auto site = sites_.find(name);
    return site != sites_.end() &&
           tensor.shape == std::vector<std::int64_t>{site->second.rows, site->second.cols};
  }

  Status add(const std::string& module, const Pair& pair) {
    const TensorInfo* present = pair.a != nullptr ? pair.a : pair.b;
    if (pair.a == nullptr || pair.b == nullptr)
      return fail("{}: {} is there without its {}", file_.path(), present->name,
                  pair.a == nullptr ? "lora_A" : "lora_B");
    M3_TRY(const LoraSite* site, site_of(module, pair));
    M3_TRY(const std::int64_t rank, expect_shapes(*site, pair));
    LoraSize size = config_.size_of(site->name);
    if (size.rank != rank && site->experts > 1)
      return fail(
          "{}: {} has rank {} if it is of {} experts, as this model is, and adapter_config.json "
          "says {}: it may be an adapter of another model",
          file_.path(), pair.a->name, rank, site->experts, size.rank);
    if (size.rank != rank)
      return fail("{}: {} has rank {}, adapter_config.json says {}", file_.path(), pair.a->name,
                  rank, size.rank);
    const auto ranks = static_cast<double>(rank);
    const double scale = size.alpha / (config_.rank_stabilised ? std::sqrt(ranks) : ranks);
    M3_TRY(LoraModule * added, lora_.add(*site, size, static_cast<float>(scale)));
    M3_TRY(const auto a, numbers(*pair.a));
    M3_TRY(const auto b, numbers(*pair.b));
    std::copy(a.begin(), a.end(), added->a.as<float>());
    std::int64_t from = 0;
    for (std::int64_t row = 0; row < site->rows; ++row)
      for (std::int64_t j = 0; j < rank; ++j)
        for (std::int64_t e = 0; e < site->experts; ++e)
          added->b.row<float>(e)[row * rank + j] = b[static_cast<std::size_t>(from++)];
    return {};
  }

  // Parameters of one module are told apart by their shapes: which of them comes outermost depends
  // on the order in which peft went through them.
  Result<const LoraSite*> site_of(std::string_view module, const Pair& pair) const {
    if (const auto found = sites_.find(module); found != sites_.end() && !found->second.parameter)
      return &found->second;
    std::string_view outer = module;
    while (outer.ends_with(kLoraInner)) outer.remove_suffix(kLoraInner.size());
    const std::string prefix = std::string(outer) + ".";
    bool any = false;
    for (auto site = sites_.lower_bound(prefix);
         site != sites_.end() && site->first.starts_with(prefix); ++site) {
      if (!site->second.parameter) continue;
      any = true;
      if (shapes_fit(site->second, pair)) return &site->second;
    }
    if (any)
      return fail("{}: {} and its lora_B are {} and {}, which fit no parameter of {} in this model",
                  file_.path(), pair.a->name, describe_shape(pair.a->shape),
                  describe_shape(pair.b->shape), outer);
    return fail(
        "{}: {} adapts {}, and this model has no such linear layer: it is an adapter of "
        "another model",
        file_.path(), pair.a->name, module);
  }

  static bool shapes_fit(const LoraSite& site, const Pair& pair) {
    const auto &a = pair.a->shape, &b = pair.b->shape;
    return a.size() == 2 && b.size() == 2 && a[0] > 0 && a[0] % site.experts == 0 &&
           a[1] == site.cols && b[0] == site.rows && b[1] == a[0];
  }

  // The rank.
  Result<std::int64_t> expect_shapes(const LoraSite& site, const Pair& pair) const {
    if (!shapes_fit(site, pair))
      return fail(
          "{}: {} and its lora_B are {} and {}; a linear layer of this model that is {} "
          "takes [rank, {}] and [{}, rank]: it is an adapter of another model",
          file_.path(), pair.a->name, describe_shape(pair.a->shape), describe_shape(pair.b->shape),
          describe_shape(std::vector<std::int64_t>{site.rows, site.cols}), site.cols, site.rows);
    return pair.a->shape[0] / site.experts;
  }

  Result<std::vector<float>> numbers(const TensorInfo& info) const {
    if (info.dtype != DType::kF32 && info.dtype != DType::kBF16 && info.dtype != DType::kF16)
      return fail("{}: {} is {}, expected F32, BF16 or F16", file_.path(), info.name,
                  dtype_name(info.dtype));
    Matrix matrix;
    matrix.codec = codec_for(info.dtype, std::nullopt);
    matrix.values = file_.tensor(info);
    matrix.rows = info.shape[0];
    matrix.cols = info.shape[1];
    std::vector<float> values(static_cast<std::size_t>(matrix.rows * matrix.cols));
    decode_all(matrix, values.data());
    for (std::size_t i = 0; i < values.size(); ++i)
      if (!std::isfinite(values[i]))
        return fail("{}: {} has a number that is not finite, element {}", file_.path(), info.name,
                    i);
    return values;
  }

  const SafetensorsFile& file_;
  const LoraConfig& config_;
  LoraSites sites_;
  std::map<std::string, Pair, std::less<>> pairs_;
  Lora lora_;
};

}  // namespace

Result<Lora> load_lora(const std::string& directory, std::span<const WeightSpec> table) {
  const std::string path = directory + kLoraConfigFile;
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    return fail("{} is no adapter: it has no adapter_config.json", directory);
  M3_TRY(const std::string text, read_text_file(path));
  M3_TRY(const LoraConfig config, parse_lora_config(text, path));
  M3_TRY(const auto file, SafetensorsFile::open(directory + kLoraTensorFile));
  return TensorReader(*file, config, table).read();
}

}  // namespace m3
