#include "model/initial_values.h"

#include <cmath>

#include "base/random.h"
#include "model/random_values.h"

namespace m3 {
namespace {

constexpr double kLinearStd = 0.02;
constexpr double kTruncatedAt = 3;  // standard deviations

// The attempts of one element draw from coordinates of their own.
double truncated_normal(std::uint64_t key, std::uint64_t element) {
  for (std::uint64_t attempt = 0;; ++attempt)
    if (const double x = normal_at(key, element, attempt); std::abs(x) <= kTruncatedAt) return x;
}

}  // namespace

InitialValues::InitialValues(const Config& config, std::span<const WeightSpec> table,
                             std::uint64_t seed)
    : hidden_(config.hidden), seed_(seed) {
  for (const WeightSpec& spec : table)
    if (spec.part == Part::kVision && spec.shape.size() > 1)
      fan_in_[spec.name] = spec.elements() / spec.shape[0];
}

InitialValues::Rule InitialValues::rule_of(const WeightSpec& spec) const {
  if (spec.part == Part::kVision) return vision_rule(spec);
  switch (spec.kind) {
    case Kind::kNorm:  // of 1 + w; and the router's bias
      return {Law::kConstant, 0};
    case Kind::kEmbedding:
      return {Law::kNormal, 1};
    case Kind::kHead:
      return {Law::kTruncated, 1 / std::sqrt(static_cast<double>(hidden_))};
    default:
      return {Law::kNormal, kLinearStd};
  }
}

// A linear's weight and bias by its inputs; all other vectors are of layer norms.
InitialValues::Rule InitialValues::vision_rule(const WeightSpec& spec) const {
  const std::size_t dot = spec.name.rfind('.');
  const bool bias = spec.name.substr(dot) == ".bias";
  const auto linear = fan_in_.find(bias ? spec.name.substr(0, dot) + ".weight" : spec.name);
  if (linear == fan_in_.end()) return {Law::kConstant, bias ? 0.0 : 1.0};
  return {Law::kUniform, 1 / std::sqrt(static_cast<double>(linear->second))};
}

void InitialValues::draw(const WeightSpec& spec, std::int64_t first, std::int64_t count,
                         float* out) const {
  const Rule rule = rule_of(spec);
  const std::uint64_t key = random_key(seed_, spec.name);
  const auto value = [&](std::uint64_t element) {
    switch (rule.law) {
      case Law::kConstant:
        return rule.scale;
      case Law::kUniform:
        return rule.scale * (2 * uniform_at(key, element, 0) - 1);
      case Law::kNormal:
        return rule.scale * normal_at(key, element, 0);
      case Law::kTruncated:
        return rule.scale * truncated_normal(key, element);
    }
    return 0.0;
  };
  for (std::int64_t i = 0; i < count; ++i)
    out[i] = static_cast<float>(value(static_cast<std::uint64_t>(first + i)));
}

}  // namespace m3
