#include <cmath>

#include "model/config_readers.h"

namespace m3 {
namespace {

constexpr std::string_view kDefault = "default";
constexpr std::string_view kTypes[] = {kDefault, "yarn"};
// What either object may carry whether or not it is asked.
constexpr std::string_view kCommonFields[] = {"rope_theta", "partial_rotary_factor", "rope_type",
                                              "type"};

// rope_type, or its older name; empty if neither is there.
std::string_view type_of(Fields& scaling) {
  for (std::string_view key : {"rope_type", "type"})
    if (scaling.has(key)) return kTypes[scaling.choice(key, kTypes)];
  return {};
}

// 0.1 m ln f + 1, the temperature of a context stretched by f.
double stretched(double factor, double m) {
  return factor <= 1 ? 1 : 0.1 * m * std::log(factor) + 1;
}

// An explicit attention_factor wins, then the ratio of the two mscales, then the customary formula.
double attention_factor(Fields& scaling, double factor) {
  constexpr NumberRange kRange{1e-6, 1e6};
  constexpr NumberRange kScale{0, 1e6};
  const double m = scaling.number("mscale", kScale, 0);
  const double all = scaling.number("mscale_all_dim", kScale, 0);
  const double usual =
      m > 0 && all > 0 ? stretched(factor, m) / stretched(factor, all) : stretched(factor, 1);
  return scaling.number("attention_factor", kRange, usual);
}

Yarn read_yarn(Fields& scaling, std::int64_t positions) {
  constexpr NumberRange kBeta{1e-6, 1e6};
  Yarn yarn;
  yarn.factor = scaling.number("factor", {1, 1e6});
  yarn.original_positions =
      scaling.integer("original_max_position_embeddings", {1, kPositionsMax}, positions);
  yarn.beta_fast = scaling.number("beta_fast", kBeta, 32);
  yarn.beta_slow = scaling.number("beta_slow", kBeta, 1);
  yarn.truncate = scaling.boolean("truncate", true);
  yarn.attention_factor = attention_factor(scaling, yarn.factor);
  return yarn;
}

void stretch(Fields& scaling, Config& c) {
  c.yarn = read_yarn(scaling, c.positions_max);
  const double positions = static_cast<double>(c.yarn->original_positions) * c.yarn->factor;
  if (positions > static_cast<double>(kPositionsMax))
    scaling.reading().mistake("{} stretches {} positions to more than {}",
                              scaling.name_of("factor"), c.yarn->original_positions, kPositionsMax);
  else
    c.positions_max = static_cast<std::int64_t>(positions);
}

// Elements of a head that are rotated. rope_parameters wins over the flat fields (spec: text-model
// §1.2); among the flat fields, the factor and the number must agree.
std::int64_t rotary_dim(Fields& text, Fields* parameters, std::int64_t head_dim) {
  constexpr std::string_view kFactor = "partial_rotary_factor";
  constexpr NumberRange kPart{1e-6, 1};
  const auto part_of_head = [&](double factor) { return static_cast<double>(head_dim) * factor; };
  if (parameters != nullptr && parameters->has(kFactor))
    return static_cast<std::int64_t>(part_of_head(parameters->number(kFactor, kPart)));
  if (!text.has("rotary_dim"))
    return static_cast<std::int64_t>(part_of_head(text.number(kFactor, kPart)));
  const std::int64_t dim = text.integer("rotary_dim", {1, kWidthMax});
  const double same = static_cast<double>(dim) / static_cast<double>(head_dim);
  const double factor = text.number(kFactor, kPart, same);
  if (part_of_head(factor) != static_cast<double>(dim) && factor != same)
    text.reading().mistake("{} is {}, but head_dim {} times {} {} is {}",
                           text.name_of("rotary_dim"), dim, head_dim, kFactor, factor,
                           part_of_head(factor));
  return dim;
}

// Which of the two objects describes the scaling. Both may name a type; then it must be the same.
Fields* scaling_of(Fields* parameters, Fields* scaling) {
  const auto a = parameters == nullptr ? std::string_view() : type_of(*parameters);
  const auto b = scaling == nullptr ? std::string_view() : type_of(*scaling);
  if (!a.empty() && !b.empty() && a != b)
    scaling->reading().mistake("rope_parameters says {} and rope_scaling says {}", a, b);
  if (!a.empty()) return a == kDefault ? nullptr : parameters;
  if (!b.empty()) return b == kDefault ? nullptr : scaling;
  if (scaling != nullptr) scaling->text("rope_type");  // required: tells that it is missing
  return nullptr;
}

}  // namespace

void read_rope(Fields& text, Config& config) {
  constexpr NumberRange kTheta{1, 1e12};
  auto parameters_object = text.object("rope_parameters");
  auto scaling_object = text.object("rope_scaling");
  Fields* parameters = parameters_object ? &*parameters_object : nullptr;
  Fields* scaling = scaling_object ? &*scaling_object : nullptr;

  config.rope_theta = text.number("rope_theta", kTheta, 5e6);
  if (parameters != nullptr)
    config.rope_theta = parameters->number("rope_theta", kTheta, config.rope_theta);
  config.rotary_dim = rotary_dim(text, parameters, config.head_dim);
  config.positions_max = text.integer("max_position_embeddings", {1, kPositionsMax}, 524288);
  if (Fields* stretched_by = scaling_of(parameters, scaling)) stretch(*stretched_by, config);
  for (Fields* object : {parameters, scaling}) {
    if (object == nullptr) continue;
    object->ignore(kCommonFields);
    object->note_unread();
  }
}

}  // namespace m3
