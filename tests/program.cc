#include "tests/program.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>

#include "base/file.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace m3 {

Outcome run_m3(const std::string& arguments, const std::string& input, const std::string& before) {
  const TemporaryDirectory files;
  const std::string in = files.write("in", input);
  const std::string out = files.path() + "/out", err = files.path() + "/err";
  const std::string command =
      before + M3_PROGRAM + " " + arguments + " <" + in + " >" + out + " 2>" + err;
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), *read_text_file(out),
          *read_text_file(err)};
}

std::string nano() {
  return tiny_model_directory("nano");
}

std::string media_file(const std::string& name) {
  return std::string(M3_SOURCE_DIR "/tests/data/media/") + name;
}

void expect_refused(const Outcome& outcome, const std::vector<std::string>& words) {
  EXPECT_GE(outcome.status, 1) << outcome.err;
  EXPECT_LE(outcome.status, 100) << outcome.err;
  for (const std::string& word : words)
    EXPECT_NE(outcome.err.find(word), std::string::npos) << "'" << word << "' in: " << outcome.err;
  EXPECT_LT(outcome.err.size(), 1500u);
}

}  // namespace m3
