#include "base/machine.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/file.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;

std::string contents(const fs::path& path) {
  return read_text_file(path).value_or("");
}

// "MemAvailable:   12345 kB" of /proc/meminfo, or 4 GiB where nothing is said.
std::int64_t system_memory() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  std::int64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    if (key == "MemAvailable:") return kilobytes * 1024;
    file.ignore(256, '\n');
  }
  return std::int64_t{4} << 30;
}

// Pages of files that the group's memory holds and the kernel gives up when asked.
std::int64_t reclaimable(const fs::path& group) {
  std::istringstream stat(contents(group / "memory.stat"));
  std::string key;
  std::int64_t bytes = 0;
  while (stat >> key >> bytes)
    if (key == "inactive_file") return bytes;
  return 0;
}

void tighten(CgroupLimits& limits, const fs::path& group) {
  std::int64_t most = 0, used = 0;
  if (std::istringstream(contents(group / "memory.max")) >> most &&
      std::istringstream(contents(group / "memory.current")) >> used)
    limits.memory_left =
        std::min(limits.memory_left, std::max<std::int64_t>(0, most - used + reclaimable(group)));
  double quota = 0, period = 0;
  if (std::istringstream(contents(group / "cpu.max")) >> quota >> period && period > 0)
    limits.cores = std::min(limits.cores, quota / period);
}

}  // namespace

CgroupLimits read_cgroup_limits(const std::string& membership, const std::string& mount) {
  CgroupLimits limits;
  std::istringstream lines(membership);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("0::/")) continue;
    // Inside a container the path may be the host's, and not exist here; the mount's root is then
    // our group.
    fs::path group = mount;
    tighten(limits, group);
    for (const fs::path& step : fs::path(line.substr(4))) tighten(limits, group /= step);
  }
  return limits;
}

int available_cores() {
  cpu_set_t set;
  const int granted = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  const double quota = std::ceil(read_cgroup_limits(contents("/proc/self/cgroup")).cores);
  return std::max(1, quota < granted ? static_cast<int>(quota) : granted);
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

std::int64_t available_memory() {
  const CgroupLimits limits = read_cgroup_limits(contents("/proc/self/cgroup"));
  return std::min(system_memory(), limits.memory_left) / 10 * 9;
}

}  // namespace m3
