// Writes random models in the layout of the released ones.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "tensor/matrix.h"

namespace m3 {

// How random weights are drawn: for tests and measurements as random_values.h has it, with mean and
// deviation from the weight table; to begin a training as initial_values.h.
enum class SynthDraw : std::uint8_t { kForTests, kForTraining };

struct SynthOptions {
  std::string config_json;
  std::string directory;
  std::uint64_t seed = 0;
  SynthDraw draw = SynthDraw::kForTests;
  // bf16, mxfp8, mxfp4, nvfp4 or int8 for the weights that quantisation.h's takes_format() names;
  // without it, what the config says. The written config.json follows.
  std::optional<Format> format;
  // Only the MTP modules, as a standalone directory (spec: text-model §2.3): names without prefix,
  // a flat config.json, one file. The same values as beside the model.
  bool mtp_only = false;
  std::int64_t shard_bytes = 5'000'000'000;  // a file ends before the weight that would exceed it
  Progress progress;                         // counts bytes
  ThreadPool* pool = nullptr;                // null: this thread alone
};

// Writes config.json, generation_config.json and the weights: shards with an index, or, for a flat
// config, one file without. Every tensor follows from its name and the seed; the declared MTP
// modules are written too.
// Errors: a config that is not valid or, of MTP modules alone, declares none, another format,
// files of another model in the directory (synth_directory.h), the disk is full.
Status synth_checkpoint(const SynthOptions& options);

}  // namespace m3
