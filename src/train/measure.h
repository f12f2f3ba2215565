// A number that a step is described by, under its key in logs.
#pragma once

#include <string>

namespace m3 {

struct Measure {
  std::string name;
  double value = 0;
  bool is_brief = true;  // for people, too, who see a line for each step
};

}  // namespace m3
