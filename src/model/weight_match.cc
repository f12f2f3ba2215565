#include "model/weight_match.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <set>
#include <unordered_set>

#include "model/quantisation.h"

namespace m3 {
namespace {

constexpr std::string_view kScaleSuffixes[] = {"_scale_inv", "_scale"};
constexpr std::string_view kFactorSuffix = "_scale_2";
constexpr std::size_t kNamesShown = 5;
constexpr std::int64_t kMtpModulesMax = 64;

std::string some_of(std::vector<std::string> names) {
  const std::size_t count = names.size();
  if (count > kNamesShown) names.resize(kNamesShown);
  std::string text = fmt::format("{}", fmt::join(names, ", "));
  if (count > kNamesShown) text += fmt::format(" and {} more", count - kNamesShown);
  return text;
}

std::int64_t columns(const std::vector<std::int64_t>& shape) {
  return shape.empty() ? 1 : shape.back();
}

std::string with_file(const std::string& name, const CheckpointTensor& tensor) {
  return fmt::format("{} in {}", name, tensor.file->path());
}

// What stands beside the values of a quantised weight; null where it does not.
struct Beside {
  const CheckpointTensor* scale = nullptr;
  const CheckpointTensor* factor = nullptr;       // NVFP4: of the whole matrix
  const CheckpointTensor* input_scale = nullptr;  // of activations, which stay bfloat16 here
};

// One walk over the table against one checkpoint.
class Matcher {
 public:
  Matcher(const Config& config, const Checkpoint& checkpoint)
      : config_(config), checkpoint_(checkpoint) {}

  Result<MatchedWeights> match(const std::vector<WeightSpec>& table) {
    for (const WeightSpec& spec : table) M3_TRY_STATUS(find(spec));
    M3_TRY_STATUS(nothing_missing());
    M3_TRY_STATUS(nothing_extra());
    M3_TRY_STATUS(groups_agree());
    compare_with_config();
    return std::move(matched_);
  }

 private:
  Status find(const WeightSpec& spec);
  Status take(const WeightSpec& spec, const Source& source, const CheckpointTensor& values);
  Beside beside(const Source& source) const;
  Result<const Codec*> codec_of(const Source& source, const CheckpointTensor& values,
                                const CheckpointTensor* scale) const;
  Status check_values(const Source& source, const CheckpointTensor& values,
                      const Codec& codec) const;
  Status check_scale(const Source& source, const CheckpointTensor& scale, const Codec& codec) const;
  Status check_factor(const Source& source, const CheckpointTensor* factor) const;
  Status nothing_missing() const;
  Status nothing_extra();
  bool ignorable(const std::string& name) const;
  Status groups_agree() const;
  void compare_with_config();

  const Config& config_;
  const Checkpoint& checkpoint_;
  MatchedWeights matched_;
  std::vector<std::string> missing_;
  bool text_missing_ = false;  // some of them are not the vision tower's
  std::unordered_set<const TensorInfo*> used_;
  std::size_t unused_indexer_ = 0;
};

Status Matcher::find(const WeightSpec& spec) {
  const Source released{spec.name, spec.shape};
  if (const auto* tensor = checkpoint_.find(released.name)) return take(spec, released, *tensor);
  for (const Source& source : spec.others)
    if (const auto* tensor = checkpoint_.find(source.name)) return take(spec, source, *tensor);
  missing_.push_back(spec.name);
  text_missing_ = text_missing_ || spec.part != Part::kVision;
  return {};
}

Beside Matcher::beside(const Source& source) const {
  Beside found;
  for (std::string_view suffix : kScaleSuffixes)
    if (found.scale == nullptr) found.scale = checkpoint_.find(source.name + std::string(suffix));
  if (found.scale == nullptr) return found;
  found.factor = checkpoint_.find(source.name + std::string(kFactorSuffix));
  const std::string module = source.name.substr(0, source.name.rfind('.'));
  found.input_scale = checkpoint_.find(module + ".input_scale");
  return found;
}

constexpr std::string_view kQuantisedForms =
    "F8_E4M3 with scales of U8 or F8_E8M0 (MXFP8), U8 with scales of U8 or F8_E8M0 (MXFP4) or "
    "F8_E4M3 (NVFP4), or I8 with scales of F16 (int8)";

Result<const Codec*> Matcher::codec_of(const Source& source, const CheckpointTensor& values,
                                       const CheckpointTensor* scale) const {
  const DType type = values.info->dtype;
  const auto scale_type = scale ? std::optional(scale->info->dtype) : std::nullopt;
  if (const Codec* codec = codec_for(type, scale_type)) return codec;
  const bool needs_scale = type == DType::kF8E4M3 || type == DType::kU8 || type == DType::kI8;
  if (scale != nullptr && needs_scale)
    return fail("{} is {}, and its scale {} is {}; expected {}", with_file(source.name, values),
                dtype_name(type), with_file(scale->info->name, *scale), dtype_name(*scale_type),
                kQuantisedForms);
  if (scale != nullptr)
    return fail("{} has a scale, {}, but is {}; expected F8_E4M3, U8 or I8",
                with_file(source.name, values), scale->info->name, dtype_name(type));
  if (needs_scale)
    return fail("{} is {} but has no scale; expected {}{} or {}{}", with_file(source.name, values),
                dtype_name(type), source.name, kScaleSuffixes[1], source.name, kScaleSuffixes[0]);
  return fail("{} is {}; expected BF16, F16, F32, or {}", with_file(source.name, values),
              dtype_name(type), kQuantisedForms);
}

Status Matcher::check_values(const Source& source, const CheckpointTensor& values,
                             const Codec& codec) const {
  const std::int64_t cols = columns(source.shape);
  if (!fits(codec, cols))
    return fail("{} is {}, which holds {} columns in a byte, but the weight has {} columns",
                with_file(source.name, values), codec.name, codec.packed, cols);
  std::vector<std::int64_t> expected = source.shape;
  if (!expected.empty()) expected.back() = values_cols(codec, cols);
  if (values.info->shape == expected) return {};
  return fail("{} has shape {}; expected {}{}", with_file(source.name, values),
              describe_shape(values.info->shape), describe_shape(expected),
              codec.packed > 1 ? ", two columns in a byte" : "");
}

Status Matcher::check_scale(const Source& source, const CheckpointTensor& scale,
                            const Codec& codec) const {
  const TensorInfo& info = *scale.info;
  std::vector<std::int64_t> expected = source.shape;
  expected.back() = scale_cols(codec, columns(source.shape));
  if (info.shape != expected)
    return fail("{} has shape {}; expected {}, one scale for a row and {} columns",
                with_file(info.name, scale), describe_shape(info.shape), describe_shape(expected),
                codec.scale_columns);
  return {};
}

Status Matcher::check_factor(const Source& source, const CheckpointTensor* factor) const {
  if (factor == nullptr)
    return fail("{} lacks {}{}, one F32 number that goes with the NVFP4 weight of that name",
                checkpoint_.directory(), source.name, kFactorSuffix);
  const TensorInfo& info = *factor->info;
  if (info.dtype == DType::kF32 && factor->tensor().elements() == 1) return {};
  return fail("{} is {} {}; expected one F32 number", with_file(info.name, *factor),
              dtype_name(info.dtype), describe_shape(info.shape));
}

// Rows [first, first + rows) of a tensor whose leading axes are all rows.
Tensor rows_of(const CheckpointTensor& tensor, std::int64_t first, std::int64_t rows) {
  const std::int64_t cols = columns(tensor.info->shape);
  auto* data =
      static_cast<std::byte*>(tensor.tensor().data) + first * cols * dtype_size(tensor.info->dtype);
  return {data, tensor.info->dtype, {rows, cols}};
}

Status Matcher::take(const WeightSpec& spec, const Source& source, const CheckpointTensor& values) {
  const Beside found = spec.shape.size() == 2 ? beside(source) : Beside{};
  M3_TRY(const Codec* codec, codec_of(source, values, found.scale));
  M3_TRY_STATUS(check_values(source, values, *codec));
  if (found.scale != nullptr) M3_TRY_STATUS(check_scale(source, *found.scale, *codec));
  const bool factored = codec->whole_scale != nullptr;
  if (factored) M3_TRY_STATUS(check_factor(source, found.factor));

  const std::int64_t rows = spec.shape.size() == 1 ? 1 : spec.shape.front();
  Matrix matrix;
  matrix.codec = codec;
  matrix.rows = rows;
  matrix.cols = spec.elements() / rows;
  matrix.values = spec.shape.size() <= 2 ? rows_of(values, source.first_row, rows)
                                         : values.tensor().reshape({rows, matrix.cols});
  if (found.scale != nullptr) matrix.scales = rows_of(*found.scale, source.first_row, rows);
  const CheckpointTensor* factor = factored ? found.factor : nullptr;
  matched_.found.push_back({&spec, values.file, matrix, factor ? factor->tensor() : Tensor{}});
  for (const CheckpointTensor* used : {&values, found.scale, factor, found.input_scale})
    if (used != nullptr) used_.insert(used->info);
  return {};
}

Status Matcher::nothing_missing() const {
  if (missing_.empty()) return {};
  return fail("{} lacks {} weights that its config asks for: {}{}", checkpoint_.directory(),
              missing_.size(), some_of(missing_),
              text_missing_ ? "" : "; --language-model-only does without the vision tower");
}

// Tensors that some exports carry and that nobody needs: tables that follow from the config, and
// scales of a quantised cache.
bool Matcher::ignorable(const std::string& name) const {
  constexpr std::string_view kEndings[] = {"rotary_emb.inv_freq", "rotary_emb.original_inv_freq",
                                           "self_attn.k_proj.k_scale", "self_attn.v_proj.v_scale"};
  return std::any_of(std::begin(kEndings), std::end(kEndings),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

bool belongs_to_indexer(const std::string& name) {
  return name.find(".self_attn.index_") != std::string::npos ||
         name.find(".self_attn.indexer.") != std::string::npos;
}

Status Matcher::nothing_extra() {
  std::vector<std::string> extra;
  for (const auto& [name, tensor] : checkpoint_.tensors()) {
    if (used_.contains(tensor.info) || ignorable(name)) continue;
    if (config_.sparse_switched_off && belongs_to_indexer(name)) {
      ++unused_indexer_;
      continue;
    }
    const bool scale =
        name.ends_with("_scale_inv") || name.ends_with("_scale") || name.ends_with(kFactorSuffix);
    extra.push_back(with_file(scale ? name + " (a scale without a weight)" : name, tensor));
  }
  if (extra.empty()) return {};
  return fail("{} holds {} tensors that its config does not explain: {}", checkpoint_.directory(),
              extra.size(), some_of(extra));
}

Status Matcher::groups_agree() const {
  std::vector<FormattedWeight> weights;
  for (const FoundWeight& found : matched_.found)
    weights.push_back({found.spec, found.matrix.codec, found.file->path()});
  return check_groups(weights);
}

// The tensors decide; the config only gives cause to wonder.
void Matcher::compare_with_config() {
  std::vector<std::string> surprising;
  for (const FoundWeight& found : matched_.found) {
    const Format is = found.matrix.codec->format;
    const Format said = said_format(config_.quantisation, *found.spec);
    if ((is_quantised(is) ? is : Format::kBF16) != said) surprising.push_back(found.spec->name);
  }
  if (!surprising.empty())
    matched_.warnings.push_back(
        fmt::format("{}: quantization_config and the tensors disagree on {} weights, and the "
                    "tensors are followed: {}",
                    checkpoint_.directory(), surprising.size(), some_of(surprising)));
  if (unused_indexer_ > 0)
    matched_.warnings.push_back(
        fmt::format("{}: use_sparse_attention is false, so {} tensors of the indexer are not used",
                    checkpoint_.directory(), unused_indexer_));
}

// D of "…mtp.layers.D.…", or nothing.
std::optional<std::int64_t> mtp_module_of(const std::string& name) {
  constexpr std::string_view kMark = "mtp.layers.";
  const auto at = name.find(kMark);
  if (at == std::string::npos) return std::nullopt;
  const char* begin = name.data() + at + kMark.size();
  const char* end = name.data() + name.size();
  std::int64_t module = 0;
  const auto [stop, error] = std::from_chars(begin, end, module);
  if (error != std::errc() || stop == end || *stop != '.' || module < 0) return std::nullopt;
  return module;
}

}  // namespace

Result<std::int64_t> count_mtp_modules(const Checkpoint& checkpoint) {
  std::set<std::int64_t> modules;
  for (const auto& [name, tensor] : checkpoint.tensors())
    if (const auto module = mtp_module_of(name)) modules.insert(*module);
  const auto count = static_cast<std::int64_t>(modules.size());
  if (count > 0 && *modules.rbegin() != count - 1)
    return fail("{} holds MTP modules {}; expected them to be numbered 0 to {}",
                checkpoint.directory(), fmt::join(modules, ", "), count - 1);
  if (count > kMtpModulesMax)
    return fail("{} holds {} MTP modules; at most {} are read", checkpoint.directory(), count,
                kMtpModulesMax);
  return count;
}

void leave_out_vision(std::vector<WeightSpec>& table, const Checkpoint& checkpoint) {
  std::erase_if(table, [&](const WeightSpec& spec) {
    return spec.part == Part::kVision && checkpoint.find(spec.name) == nullptr &&
           std::none_of(spec.others.begin(), spec.others.end(), [&](const Source& source) {
             return checkpoint.find(source.name) != nullptr;
           });
  });
}

Status read_numbers(FoundWeight& found) {
  Matrix& matrix = found.matrix;
  if (found.factor) std::memcpy(&matrix.scale, found.factor.data, sizeof matrix.scale);
  if (auto status = matrix.codec->check(matrix); !status)
    return fail("{} in {}: {}", found.spec->name, found.file->path(), status.error().message);
  return {};
}

Result<MatchedWeights> match_weights(const std::vector<WeightSpec>& table, const Config& config,
                                     const Checkpoint& checkpoint) {
  return Matcher(config, checkpoint).match(table);
}

}  // namespace m3
