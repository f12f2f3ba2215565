// EAGLE3 draft models on disk, in the public format: config.json and tensors without prefix.
#pragma once

#include <memory>
#include <string>

#include "model/eagle3.h"
#include "model/weights.h"

namespace m3 {

// Loads the draft model of a directory, for the model of these weights, which outlive it. Every
// tensor is checked against the config; the large ones are viewed in place.
// Errors, naming field, tensor or file: an unreadable config, one that is of another architecture
// or asks for what this layer does not have (biases, scaled rotation), one for a model of another
// width or vocabulary; tensors that are missing, extra or misshapen; d2t that leaves the vocabulary
// or contradicts t2d.
Result<std::unique_ptr<Eagle3>> load_eagle3(const std::string& directory, const Config& target,
                                            const Weights& target_weights, Backend& backend);

// Writes a small random draft model for nano, with fewer heads of K and V than of queries and a
// part of the vocabulary. Errors: those of writing files, or files of another model in the
// directory (synth_directory.h).
Status synth_eagle3_nano(const std::string& directory, std::uint64_t seed);

}  // namespace m3
