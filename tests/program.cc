#include "tests/program.h"

#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tests/temporary_directory.h"

namespace m3 {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

Outcome run_m3(const std::string& arguments, const std::string& input, const std::string& before) {
  const TemporaryDirectory files;
  const std::string in = files.write("in", input);
  const std::string out = files.path() + "/out", err = files.path() + "/err";
  const std::string command =
      before + M3_PROGRAM + " " + arguments + " <" + in + " >" + out + " 2>" + err;
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(out),
          read_file(err)};
}

}  // namespace m3
