// Where models that we write go: never over anything else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"

namespace m3 {

// Metadata of a file of random weights: keeps them from ever being taken for a trained model.
Metadata synthetic_note(std::uint64_t seed);

// What a command is about to write.
struct DirectoryClaim {
  std::string directory;
  std::string config_text;           // config.json
  std::vector<std::string> files;    // names of safetensors files
  bool indexed = false;              // model.safetensors.index.json, too
  const char* note = kSyntheticKey;  // the entry in the metadata of its files
};

// Makes the directory, if need be. What an earlier run for the same config has left there will be
// replaced; anything else is refused: a loader unites all files of a directory, and trained weights
// must not be lost. Errors: another config.json, a safetensors file of another name or without the
// note, an index where there will be none, a directory that cannot be made or read.
Status claim_directory(const DirectoryClaim& claim);

}  // namespace m3
