// The directory of a model that is written again: never over anything else. Only rewrite.cc
// includes this.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/synth_directory.h"

namespace m3 {

// Errors: the two are one directory, or the second is inside the first.
Status expect_apart(const std::string& source, const std::string& directory);

// Claims the directory (synth_directory.h), which must be new, empty, or hold an earlier output of
// the same, on a disk with room for `bytes`.
Status claim_output(const DirectoryClaim& claim, std::int64_t bytes);

// Copies what else a model's directory holds: tokenizer, generation defaults, template, code. Not
// config.json, weights, their index, what says how the source is quantised, hidden files and
// directories. Returns the names of files that are too large to be any of those and were left out.
// Errors: a file that cannot be read or written.
Result<std::vector<std::string>> copy_small_files(const std::string& source,
                                                  const std::string& directory);

}  // namespace m3
