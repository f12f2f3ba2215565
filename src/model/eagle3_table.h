// Every weight of an EAGLE3 draft model. Loading and writing walk this; only eagle3_*.cc and their
// fuzzer include it.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <variant>
#include <vector>

#include "model/eagle3.h"

namespace m3 {

struct Eagle3Weight {
  std::string name;
  std::vector<std::int64_t> shape;  // [size] or [rows, cols]
  // A Tensor becomes float32 less one, which is a norm's weight as rms_norm() takes it; the others
  // are viewed in place.
  std::variant<Tensor*, Linear*, Matrix*> place;
  bool optional = false;  // the model's own serves in its stead
};

std::vector<Eagle3Weight> eagle3_table(const Eagle3Config& config, Eagle3Weights& weights);

inline constexpr const char* kDraftToTarget = "d2t";  // [vocab] I64: token - draft id
inline constexpr const char* kTargetToDraft = "t2d";  // [target_vocab] BOOL: the token has one

// Reads config.json of a draft model for `target`. Errors: as load_eagle3().
Result<Eagle3Config> parse_eagle3_config(const std::string& text, const std::string& where,
                                         const Config& target);

}  // namespace m3
