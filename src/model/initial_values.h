// How the weights of a model begin that is trained from nothing.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "model/config.h"
#include "model/weight_table.h"

namespace m3 {

// Draws by spec: training §5. Every value is a function of seed, name and index.
class InitialValues {
 public:
  // `table` is that of the config, MTP modules included.
  InitialValues(const Config& config, std::span<const WeightSpec> table, std::uint64_t seed);

  // Elements [first, first + count) of a weight of the table, row-major.
  void draw(const WeightSpec& spec, std::int64_t first, std::int64_t count, float* out) const;

 private:
  enum class Law : std::uint8_t {
    kConstant,   // scale
    kUniform,    // from -scale to scale
    kNormal,     // of standard deviation scale
    kTruncated,  // that, within three standard deviations
  };
  struct Rule {
    Law law = Law::kNormal;
    double scale = 0;
  };
  Rule rule_of(const WeightSpec& spec) const;
  Rule vision_rule(const WeightSpec& spec) const;

  std::int64_t hidden_;
  std::uint64_t seed_;
  std::map<std::string, std::int64_t> fan_in_;  // of vision's matrices, by name
};

}  // namespace m3
