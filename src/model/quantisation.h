// Which weight has which format: what a config says, what a model that we write gets, and how its
// config says so.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/config.h"
#include "model/weight_table.h"
#include "tensor/matrix.h"

namespace m3 {

// A weight and the format in which it is, or is to be, stored.
struct FormattedWeight {
  const WeightSpec* spec = nullptr;
  const Codec* codec = nullptr;
  std::string_view file = {};  // that holds it, or empty
};

// A module's or tensor's name without the prefix of the text model, which lists of modules give or
// leave out (spec: text-model §1.5).
std::string bare_name(std::string_view name);

// True for the formats that a model is quantised to, false for bf16, f16 and f32.
bool is_quantised(Format format);

// The format that the config says a weight has; kBF16 stands for any that is not quantised. An
// exact name comes before one of a module around it, and any name before the general rules.
Format said_format(const Quantisation& said, const WeightSpec& spec);

// In which it is stored then.
const Codec& said_codec(const Quantisation& said, const WeightSpec& spec);
// Bytes of its values and scales.
std::int64_t stored_bytes(const Codec& codec, const WeightSpec& spec);

// Whether a model written in `format` has this weight in it: in MXFP8 what the release has, in all
// others routed and shared experts, dense MLPs and the projections of attention.
bool takes_format(const WeightSpec& spec, Format format);

// Weights of which one product reads several must share a format (spec: text-model §2.4). The two
// projections of the indexer may have another format than q, k and v beside them, but MXFP8 beside
// plain numbers is the mark of an incomplete export. Errors: the first two that disagree.
Status check_groups(std::span<const FormattedWeight> weights);

// The quantization_config of such a model; `main` is the format that most linears have.
nlohmann::ordered_json quantization_config(std::span<const FormattedWeight> weights, Format main);

// A config.json with this quantization_config instead of its own; null for none.
std::string with_quantization(const std::string& config_json,
                              const nlohmann::ordered_json& quantization);

}  // namespace m3
