// A number that a step is described by, under its key in logs.
#pragma once

#include <string>

namespace m3 {

struct Measure {
  std::string name;
  double value = 0;
};

}  // namespace m3
