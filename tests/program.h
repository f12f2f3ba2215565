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

// A directory that is removed with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }
  // Writes a file and returns its path.
  std::string write(const std::string& name, const std::string& content) const;

 private:
  std::string path_;
};

}  // namespace m3
