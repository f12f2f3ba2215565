// Where random models go: never over anything else.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "checkpoint/safetensors.h"

namespace m3 {

// Metadata of a file of random weights: keeps them from ever being taken for a trained model.
Metadata synthetic_note(std::uint64_t seed);

// Makes the directory, if need be, for `config_text` as its config.json and the named safetensors
// files. What an earlier run for the same config has left there will be replaced; anything else is
// refused: a loader unites all files of a directory, and trained weights must not be lost.
// Errors: another config.json, a safetensors file of another name or without the note above, an
// index where there will be none (`indexed`), a directory that cannot be made or read.
Status claim_directory(const std::string& directory, std::string_view config_text,
                       std::span<const std::string> files, bool indexed);

}  // namespace m3
