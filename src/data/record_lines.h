// The records of a data file, found without reading them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/text_range.h"

namespace m3 {

struct RecordPlace {
  TextRange bytes = {};
  std::int64_t line = 1;  // of its first byte, counted from 1
};

struct RecordPlaces {
  std::vector<RecordPlace> records = {};
  std::string broken = {};  // what ails the array around them; empty: nothing
  std::int64_t line = 1;    // where it does
};

// Of JSON lines, each line that is not blank; of one JSON array, which the text begins with then,
// each element but one that the text ends in. What a record holds is looked at only as far as
// needed to find its end: whether it is JSON is for its reader to say.
RecordPlaces find_records(std::string_view text);

}  // namespace m3
