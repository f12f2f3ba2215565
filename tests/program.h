// Runs the built `m3` as a user would.
#pragma once

#include <string>
#include <vector>

namespace m3 {

struct Outcome {
  int status = 0;  // exit status, or 128 + signal
  std::string out;
  std::string err;
};

// `arguments` as typed in a shell behind `m3`; `input` is standard input. `before` is put in front
// of the program in the same shell, e.g. "ulimit -f 100; ".
Outcome run_m3(const std::string& arguments, const std::string& input = "",
               const std::string& before = "");

// The directory of the model that most commands are tried on, and a file of tests/data/media.
std::string nano();
std::string media_file(const std::string& name);

// One sentence on stderr that holds every one of `words`, and a status from 1 to 100.
void expect_refused(const Outcome& outcome, const std::vector<std::string>& words);

}  // namespace m3
