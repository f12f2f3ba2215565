#include "tests/program.h"

#include <sys/wait.h>

#include <cstdlib>

#include "base/file.h"
#include "tests/temporary_directory.h"

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

}  // namespace m3
