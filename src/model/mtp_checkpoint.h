// MTP modules that come in a directory of their own (spec: text-model §2.3).
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "model/config.h"

namespace m3 {

struct StandaloneMtp {
  Config config;
  std::shared_ptr<const Checkpoint> checkpoint;
};

// Opens a directory of nothing but MTP modules and a config.json, to be run by a model of `config`.
// Reads headers only; load_weights() checks the tensors.
// Errors: those of load_config() and Checkpoint::open(), or a config that describes modules of
// another model; the sentence names the first field that differs.
Result<StandaloneMtp> open_mtp(const std::string& directory, const Config& config);

}  // namespace m3
