// What the tests of this folder share.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "data/sample.h"
#include "data/training_record.h"
#include "text/testing.h"

namespace m3::testing {

inline Result<TrainingRecord> record_of(std::string_view json,
                                        const std::optional<std::string>& mode = {}) {
  return read_training_record(value_of(parse_json(json)), mode);
}

inline Sample sample_of(std::string_view json, const std::optional<std::string>& mode = {},
                        std::span<const MediaShape> media = {}) {
  return value_of(make_sample(value_of(record_of(json, mode)), media, small_tokenizer()));
}

}  // namespace m3::testing
